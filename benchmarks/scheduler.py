"""What a decision of the mesh's scheduler costs, by policy and size of the mesh, and what its messages cost.

    python benchmarks/scheduler.py [--blocks 1000000] [--rounds 400] [--json FILE]

One block in a hundred is on every slice, the rest on one each. Every request asks for other blocks at random places of
the residency, most of them in no processor cache. Policies take turns, a batch of ten decisions each a round. The
bars hold the median of the deciding thread's processor time, as other processes' work is no part of a decision; wall
time is shown beside it. Those who share the processor still cost it: after they ran, nothing is in its caches.
"""

import argparse
import hashlib
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from claims import Claim, show_claims, write_report

from rcjax.engine.plan import PlannedBlock
from rcjax.prompt import Block, BlockKind
from rcjax.serving.dispatch import Dispatcher
from rcjax.serving.residency import Residency
from rcjax.serving.scheduler import Affinity, HitOnly, LeastLoaded, MeshScheduler, Policy, RoundRobin, Time, wants_of
from rcjax.serving.slice_loads import SliceLoads

SIZES = ((4, 20), (100, 100), (1000, 100))  # slices, candidates
TARGET_SIZE, TARGET_US = (100, 100), 50
HOT_SHARE, BATCH, ITEM_TOKENS = 0.01, 10, 100
POLICIES: dict[str, Callable[[], Policy]] = {
    "time": Time,
    "affinity": lambda: Affinity(1.0, 1.0),
    "hit_only": HitOnly,
    "least_loaded": LeastLoaded,
    "round_robin": RoundRobin,
}


class Costs:
    def build_s(self, num_tokens: int) -> float:
        return num_tokens * 2e-5

    def fetch_s(self, num_tokens: int) -> float:
        return num_tokens * 1e-5


def measure_decisions(
    residency: Residency, keys: Sequence[bytes], num_candidates: int, num_rounds: int
) -> dict[str, Any]:
    """Microseconds of making a request's wants from its plan, of a decision with and without bounded load, and of what
    a router asks for: `dispatch`, a decision by `time` and its books, ten requests being under way a slice, and `end`.
    """
    rng, num_slices = np.random.default_rng(0), residency.num_slices
    loads = SliceLoads(num_slices)
    for index in range(num_slices):
        loads.report(index, float(rng.exponential(0.1)), float(rng.exponential(0.02)), 0.0)
    token_ids = np.zeros(ITEM_TOKENS, np.int32)

    def plan() -> list[PlannedBlock]:  # with keys of its own: a planner's are not the objects that messages brought
        chosen = rng.integers(0, len(keys), num_candidates)
        return [PlannedBlock(Block(BlockKind.ITEM, token_ids, 0), bytes(bytearray(keys[index]))) for index in chosen]

    schedulers = {
        f"{name}{', bounded' if bound else ''}": MeshScheduler(new(), residency, loads, max_imbalance=bound)
        for name, new in POLICIES.items()
        for bound in (None, 1.25)
    }
    dispatcher = Dispatcher(residency, Time(), lambda: 0.01)
    under_way = deque(dispatcher.dispatch(wants_of(plan(), Costs()), 0.01) for _ in range(10 * num_slices))
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in ("wants", *schedulers, "dispatch", "end")}
    for number in range(num_rounds + 1):
        plans = [plan() for _ in range(BATCH)]
        wants = [wants_of(one, Costs()) for one in plans]
        parts = {"wants": timed(lambda one: wants_of(one, Costs()), plans)}
        for name, scheduler in schedulers.items():
            parts[name] = timed(lambda one, scheduler=scheduler: scheduler.choose(one, 0.01, 0.01), wants)
        parts["dispatch"] = timed(lambda one: under_way.append(dispatcher.dispatch(one, 0.01)), wants)
        oldest = [under_way.popleft() for _ in range(BATCH)]
        parts["end"] = timed(lambda one: dispatcher.end(one, one.index), oldest)
        if number:  # the first round warms up
            for name, sample in parts.items():
                samples[name].append(sample)
    return {name: summary(of_name) for name, of_name in samples.items()}


def measure_messages(residency: Residency, keys: Sequence[bytes]) -> dict[str, Any]:
    """Microseconds of a commit and an evict among `keys`, and milliseconds to forget a slice."""
    rng, num_slices = np.random.default_rng(1), residency.num_slices
    batches = [
        [(int(rng.integers(num_slices)), keys[index]) for index in rng.integers(0, len(keys), BATCH)]
        for _ in range(400)
    ]
    commits = [timed(lambda one: residency.commit(*one), batch) for batch in batches]
    evicts = [timed(lambda one: residency.evict(*one), batch) for batch in batches]
    forgets = [1e-3 * timed(residency.forget, [index])[0] for index in range(min(5, num_slices))]
    return {"commit_us": summary(commits), "evict_us": summary(evicts), "forget_cpu_ms": forgets}


def filled(num_slices: int, keys: Sequence[bytes]) -> Residency:
    residency = Residency(num_slices)
    num_hot = int(HOT_SHARE * len(keys))
    for number, key in enumerate(keys):
        for index in range(num_slices) if number < num_hot else (number % num_slices,):
            residency.commit(index, key)
    return residency


def timed(call: Callable[[Any], Any], arguments: Sequence[Any]) -> tuple[float, float]:
    """Microseconds a call: of this thread's processor time, and of wall time."""
    wall_ns, cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
    for one in arguments:
        call(one)
    cpu_ns, wall_ns = time.thread_time_ns() - cpu_ns, time.perf_counter_ns() - wall_ns
    return 1e-3 * cpu_ns / len(arguments), 1e-3 * wall_ns / len(arguments)


def summary(samples: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Over batches."""
    cpu, wall = (sorted(column) for column in zip(*samples, strict=True))
    return {
        "cpu_us_median": statistics.median(cpu),
        "cpu_us_least": cpu[0],
        "cpu_us_most": cpu[-1],
        "wall_us_median": statistics.median(wall),
    }


def show(figures: dict[str, dict[str, float]]) -> None:
    for name, one in figures.items():
        spread = f"{one['cpu_us_median']:.1f} ({one['cpu_us_least']:.1f}-{one['cpu_us_most']:.1f})"
        print(f"  {name:24s} {spread:24s} {one['wall_us_median']:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--json", type=Path, default=Path("scheduler.json"))
    args = parser.parse_args()
    keys = [hashlib.sha256(number.to_bytes(8, "little")).digest() for number in range(args.blocks)]
    print(f"{args.blocks:,} blocks, {args.rounds} batches of {BATCH}; us a call: CPU median (least-most), wall median")
    sizes, messages = {}, {}
    for num_slices, num_candidates in SIZES:
        # The bars' mesh has all blocks, the others a tenth.
        is_target = (num_slices, num_candidates) == TARGET_SIZE
        part = keys if is_target else keys[: len(keys) // 10]
        residency = filled(num_slices, part)
        name = f"{num_slices} slices, {num_candidates} candidates"
        print(f"{name}, {len(part):,} blocks", flush=True)
        figures = measure_decisions(residency, part, num_candidates, args.rounds)
        sizes[name] = {"num_blocks": len(part), "decisions": figures}
        show(figures)
        if is_target:
            messages = measure_messages(residency, part)
            print("  messages:", messages)
    found = sizes[f"{TARGET_SIZE[0]} slices, {TARGET_SIZE[1]} candidates"]["decisions"]
    claims = [
        Claim(
            f"scheduler: {name}, us of CPU a decision, 100 slices, 100 candidates",
            one["cpu_us_median"],
            TARGET_US,
            False,
        )
        for name, one in found.items()
        if name not in ("wants", "end")
    ]
    show_claims(claims)
    report = {"benchmark": "scheduler", "num_blocks": args.blocks, "batch": BATCH, "sizes": sizes, "messages": messages}
    write_report(args.json, report, claims)


if __name__ == "__main__":
    main()
