"""Requests a second of the `parallel` arm with one request under way and with several, all blocks in cache.

    python benchmarks/throughput.py --json throughput.json

The requests are those of benchmarks/ttft.py. Rounds with one and with several under way take turns in one engine, whose
shapes hold 1, 2, 4 and 8 requests. Times run from a request's arrival to its answer.
"""

import argparse
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import ttft
from claims import Claim, show_claims, write_report

from rcjax.config import Settings, ShapeSettings
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.local import LocalEngine
from rcjax.serving.startup import start_engine

ARM = "parallel"
BATCHES = (1, 2, 4, 8)


def settings(dtype: str) -> Settings:
    wanted = ttft.settings()
    tiled = [shape for shape in wanted.shapes.rank if shape.tiles]
    rank = tuple(shape.model_copy(update={"batch": batch}) for shape in tiled for batch in BATCHES)
    shapes = ShapeSettings(rank=rank, build=wanted.shapes.build)
    arms = {ARM: wanted.arms[ARM]}
    return wanted.model_copy(update={"dtype": dtype, "arms": arms, "default_arm": ARM, "shapes": shapes})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write samples and claims here")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--under-way", type=int, default=8)
    parser.add_argument("--requests", type=int, default=64, help="of each kind in each round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    samples: dict[int, list[dict[str, Any]]] = {1: [], args.under_way: []}
    with start_engine(settings(args.dtype), progress=print) as engine:
        requests = ttft.fill(engine, 16, 0, arm=ARM)
        asks = [RecommendRequest(one.candidates, one.user_id, arm=ARM) for one in requests]
        for under_way in samples:
            load(engine, asks, 2 * under_way, under_way)
        for _ in range(args.rounds):
            for under_way, rounds in samples.items():
                rounds.append(load(engine, asks, args.requests, under_way))
        report = {"benchmark": "throughput", "dtype": engine.info().dtype, "model": engine.info().model}
    figures = {under_way: summary(rounds) for under_way, rounds in samples.items()}
    several = figures[args.under_way]
    claims = [
        Claim("requests/s, times those of one at a time", several["requests_per_s"] / figures[1]["requests_per_s"], 2),
        Claim("P99 over P50", several["p99_ms"] / several["p50_ms"], 4, at_least=False),
    ]
    for under_way, values in figures.items():
        rate, p50, p99 = values["requests_per_s"], values["p50_ms"], values["p99_ms"]
        print(f"{under_way} under way: {rate:.1f} requests/s, P50 {p50:.0f} ms, P99 {p99:.0f} ms")
    show_claims(claims)
    if args.json:
        write_report(args.json, report | {"under_way": figures, "rounds": samples}, claims)


def load(engine: LocalEngine, asks: list[RecommendRequest], num_asked: int, under_way: int) -> dict[str, Any]:
    """Asks for the requests, over and over, with so many under way at any time."""
    waits_ms: list[float] = []
    room = threading.Semaphore(under_way)
    futures = []

    def submit(ask: RecommendRequest) -> None:
        start_s = time.perf_counter()

        def done(_: Any) -> None:
            waits_ms.append((time.perf_counter() - start_s) * 1e3)
            room.release()

        futures.append(engine.router.submit(ask))
        futures[-1].add_done_callback(done)

    start_s = time.perf_counter()
    for number in range(num_asked):
        room.acquire()
        submit(asks[number % len(asks)])
    results: list[RecommendResult] = [future.result() for future in futures]
    wall_s = time.perf_counter() - start_s
    if any(result.tokens.built for result in results):
        raise RuntimeError("not all were full hits")
    return {"wall_s": wall_s, "waits_ms": waits_ms}


def summary(rounds: list[dict[str, Any]]) -> dict[str, float]:
    waits_ms = np.concatenate([one["waits_ms"] for one in rounds])
    rates = [len(one["waits_ms"]) / one["wall_s"] for one in rounds]
    p50, p99 = np.percentile(waits_ms, (50, 99)).tolist()
    return {
        "n": len(waits_ms),
        "requests_per_s": float(np.median(rates)),
        "slowest_round": min(rates),
        "p50_ms": p50,
        "p99_ms": p99,
    }


if __name__ == "__main__":
    main()
