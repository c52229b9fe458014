"""A real engine on fake devices, and the simulation of the same requests with the costs that the engine learnt.

`python benchmarks/simulate.py --validate FILE` runs one engine after the other, each in a process of its own. Passes
take a set time and no processor (benchmarks/paced_devices.py), as if each slice had a device of its own. `--computed`
computes them: then slices share the machine's cores, and a pass takes longer the more of them run.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import throughput
import ttft
from claims import Claim, show_claims, write_report
from mesh import DEVICES
from paced_devices import PacedDevices, paced

from rcjax.cluster.simulation import Cluster, CostTable, Link, Workload, poisson_gaps, simulate
from rcjax.cluster.simulation.arm import PassSizes
from rcjax.config import MeshSettings, Settings
from rcjax.engine.origin import Origin
from rcjax.engine.shape import Shape
from rcjax.prompt import Owner
from rcjax.request import RecommendRequest
from rcjax.serving.local import LocalEngine
from rcjax.serving.routing import owners_of, policy_of
from rcjax.serving.startup import start_engine

SIZES = (1, 2, 4)
NUM_REQUESTS, NUM_WARM_UP = 120, 24
LOAD = 0.5  # of what the engine answers with two requests a slice under way
MAX_ERROR = 0.2


@dataclass(frozen=True, slots=True)
class PaddedArm:
    """Rows of one compiled shape: passes take what the shape takes, whatever the requests' lengths."""

    shape: Shape
    page_tokens: int
    wants_items: bool = True

    def sizes(self, workload: Workload) -> PassSizes:
        shared, own = self.shape.num_pages * self.page_tokens, self.shape.tile_pages * self.page_tokens
        fresh = float(self.shape.fresh_tokens)
        row = (fresh, float(shared + self.shape.tiles * own), fresh * (shared + own + fresh / 2))
        return PassSizes(*(np.full(workload.num_requests, value) for value in row))


def validate(path: Path, computed: bool) -> None:
    """Writes what was measured and simulated, with the claims; `computed` has the cores compute the passes."""
    rows = []
    for num_slices in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "one.json"
            options = ["--computed"] if computed else []
            subprocess.run([sys.executable, __file__, str(num_slices), str(out), *options], check=True)
            rows.append(json.loads(out.read_text()))
        print({name: value for name, value in rows[-1].items() if name != "measured_ttft_s"}, flush=True)
    claims = [
        Claim(
            f"{row['num_slices']} slices: simulated P50 over measured, off by",
            abs(row["simulated"]["ttft_s"]["p50"] / row["measured_p50_s"] - 1),
            MAX_ERROR,
            at_least=False,
        )
        for row in rows
    ]
    show_claims(claims)
    write_report(path, {"benchmark": "simulate --validate", "computed": computed, "load": LOAD, "rows": rows}, claims)


def compare(num_slices: int) -> dict[str, Any]:
    settings = throughput.settings("float32").model_copy(
        update={"mesh": MeshSettings(slices=num_slices, cpu_devices=num_slices, placement="hash")}
    )
    with start_engine(settings) as engine:
        requests = ttft.fill(engine, 32, 0, arm=throughput.ARM)
        asks = [RecommendRequest(one.candidates, one.user_id, arm=throughput.ARM) for one in requests]
        rate_per_s = LOAD * saturated_per_s(engine, asks, 2 * num_slices)
        gaps = poisson_gaps(NUM_REQUESTS, np.random.default_rng(0))
        measured_s = measured(engine, asks, gaps / rate_per_s)
        cluster, workload = twin(engine, settings, asks, gaps)
    outcome = simulate(cluster, workload, policy_of(settings.mesh.scheduler), rate_per_s)
    return {
        "num_slices": num_slices,
        "rate_per_s": rate_per_s,
        "measured_p50_s": float(np.median(measured_s[NUM_WARM_UP:])),
        "measured_ttft_s": measured_s,
        "simulated": outcome.figures(),
        "costs": {"mean_error": cluster.costs.mean_error, "max_error": cluster.costs.max_error},
    }


def saturated_per_s(engine: LocalEngine, asks: list[RecommendRequest], under_way: int) -> float:
    """Requests a second with so many under way: of the second half, when caches are filled."""
    done_s: list[float] = []
    futures = []
    for number in range(64):
        while number - len(done_s) >= under_way:
            time.sleep(0.001)
        futures.append(engine.router.submit(asks[number % len(asks)]))
        futures[-1].add_done_callback(lambda _: done_s.append(time.perf_counter()))
    for future in futures:
        future.result()
    return 32 / (done_s[-1] - done_s[-33])


def measured(engine: LocalEngine, asks: list[RecommendRequest], gaps_s: np.ndarray) -> list[float]:
    """Seconds from each request to its answer."""
    ttft_s, futures = [0.0] * len(gaps_s), []
    next_s = time.perf_counter()
    for number, gap_s in enumerate(gaps_s.tolist()):
        next_s += gap_s
        time.sleep(max(next_s - time.perf_counter(), 0.0))
        futures.append(engine.router.submit(asks[number % len(asks)]))

        def done(_: Any, number: int = number, start_s: float = next_s) -> None:
            ttft_s[number] = time.perf_counter() - start_s

        futures[-1].add_done_callback(done)
    for future in futures:
        future.result()
    time.sleep(0.1)  # for the last callbacks
    return ttft_s


def twin(
    engine: LocalEngine, settings: Settings, asks: list[RecommendRequest], gaps: np.ndarray
) -> tuple[Cluster, Workload]:
    """The simulated cluster of an engine, with what its cost model has learnt, and the requests as a workload."""
    executor = engine.router.workers[0].cache.executor
    format, cost = executor.programs.format, executor.cost
    token_bytes = format.page_bytes / format.page_tokens
    number_of = {item: n for n, item in enumerate(dict.fromkeys(item for ask in asks for item in ask.candidates))}
    ids = tuple(number_of)
    tokens = [len(engine.router.planner.item_block(Owner("", item)).block) for item in ids]
    rows = [[number_of[item] for item in asks[number % len(asks)].candidates] for number in range(len(gaps))]
    workload = Workload(
        item_tokens=np.array(tokens, np.uint16),
        starts=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        items=np.array([item for row in rows for item in row], np.int32),
        history_tokens=np.full(len(gaps), 250, np.int32),  # padded anyway
        gaps=gaps,
        id_of=ids.__getitem__,
    )
    begin_s = cost.origin_s(Origin.SLICE, 0)
    page_s = max((cost.origin_s(Origin.SLICE, 100) - begin_s) / 100, 1e-9)  # 0 where the beginning takes it all
    links = {Origin.SLICE: Link(format.page_bytes / page_s, begin_s)}
    pool_tokens = settings.cache.pool_bytes / token_bytes
    shape = next(shape for shape in throughput_shapes(settings) if shape.batch == 1)
    cluster = Cluster(
        owners_of(settings.mesh),
        CostTable.of_model("this engine", cost, token_bytes, format.page_tokens),
        PaddedArm(shape, format.page_tokens),
        cache_tokens=int(settings.mesh.replica_share * pool_tokens),
        max_batch=max(throughput.BATCHES),
        links=links,
    )
    return cluster, workload


def throughput_shapes(settings: Settings) -> list[Shape]:
    fields = ("fresh_tokens", "num_pages", "batch", "tiles", "tile_tokens", "tile_pages")
    return [Shape(**{name: getattr(one, name) for name in fields}) for one in settings.shapes.rank]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("slices", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--computed", action="store_true")
    chosen = parser.parse_args()
    with nullcontext() if chosen.computed else paced(PacedDevices(**DEVICES)):
        row = compare(chosen.slices)
    chosen.out.write_text(json.dumps(row))
