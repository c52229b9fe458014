"""Overload: what requests take at 80% and at 200% of what the server can do, and how soon it refuses the rest.

    python benchmarks/overload.py --json overload.json

The embedded model and shop behind gRPC on the loopback, 20 candidates in cache, arm `parallel`. The load comes from
another process on the same cores. Capacity: requests/s with `UNDER_WAY` calls always under way. Then an open loop of
Poisson arrivals: TTFT runs at the client, from when a request was due until its answer, so that a client that falls
behind hides nothing; the server's own, from arrival, is in the JSON. At 80% the limit of the queue stands at its
default; then it is set to the median TTFT, which is what the operator of a service with such a bar would do, and the
load goes to 200%. No call is tried again. `late` is how long after it was due the client came to send a request.
"""

import argparse
import asyncio
import itertools
import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from claims import Claim, show_claims, write_report
from host import NUM_CANDIDATES
from pydantic import ByteSize

from rcjax.catalog import EmbeddedWorld
from rcjax.config import CacheSettings, Settings, ShapeSettings
from rcjax.config.arms import EMBEDDED_ARMS
from rcjax.config.shapes import EMBEDDED_SHAPES
from rcjax.errors import ResourceExhaustedError
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving import codec
from rcjax.serving.local import LocalEngine
from rcjax.serving.server import Server, freeze_start_up, running_server
from rcjax.serving.startup import start_engine
from rcjax.serving.status import from_rpc_error
from rcjax.serving.v1 import rcjax_pb2_grpc

UNDER_WAY = 32
NUM_REQUESTS = 12
MAX_REFUSAL_MS = 5.0
TAIL = 3.0  # times the median


class TimedRouter:
    """A router that notes how long it took to refuse: what of a refusal is the server's own."""

    def __init__(self, router: Any):
        self._router = router
        self.refusals_ms: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._router, name)

    def stop(self, grace_s: float) -> None:
        """The server's end is not the engine's."""

    async def recommend(self, request: RecommendRequest, **times: Any) -> RecommendResult:
        start_s = time.perf_counter()
        try:
            return await self._router.recommend(request, **times)
        except ResourceExhaustedError:
            self.refusals_ms.append((time.perf_counter() - start_s) * 1e3)
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each part")
    parser.add_argument("--client", metavar="HOST:PORT", help=argparse.SUPPRESS)  # the other process
    parser.add_argument("--rate", type=float, default=0.0, help=argparse.SUPPRESS)  # requests/s; 0: a closed loop
    args = parser.parse_args()
    if args.client:
        messages = [codec.request_to_message(request) for request in map_requests(json.loads(sys.stdin.read()))]
        print(json.dumps(asyncio.run(ask(args.client, messages, args.rate, args.seconds))))
        return
    cache = CacheSettings(pool_bytes=ByteSize(2**30))
    tiled = tuple(shape for shape in EMBEDDED_SHAPES.rank if shape.tiles == NUM_CANDIDATES)
    shapes = ShapeSettings(rank=(*tiled, (64, 192)), build=EMBEDDED_SHAPES.build)
    arms = {"parallel": EMBEDDED_ARMS["parallel"]}
    settings = Settings(adapter=None, cache=cache, shapes=shapes, arms=arms, default_arm="parallel")
    with start_engine(settings, progress=print) as engine:
        requests = fill(engine, EmbeddedWorld(0))
        freeze_start_up()  # as `rcjax serve` does
        report = measure(engine, requests, args.seconds)
    claims = claims_of(report)
    print(json.dumps({name: {k: v for k, v in part.items() if "samples" not in k} for name, part in report.items()}))
    show_claims(claims)
    if args.json:
        write_report(args.json, {"benchmark": "overload", **report}, claims)


def fill(engine: LocalEngine, world: EmbeddedWorld) -> list[RecommendRequest]:
    """Some requests of different users, with all their blocks in cache."""
    found = world.requests(NUM_REQUESTS, split="test", num_candidates=NUM_CANDIDATES)
    requests = [RecommendRequest(request.candidates, request.user_id) for request in found]
    engine.put_items(world.items[item_id] for item_id in {i: None for one in requests for i in one.candidates})
    engine.put_users(world.user(request.user_id) for request in requests)
    return requests


def measure(engine: LocalEngine, requests: Sequence[RecommendRequest], seconds: float) -> dict[str, Any]:
    router = TimedRouter(engine.router)
    admission = engine.router.admission
    asks = json.dumps([[request.user_id, list(request.candidates)] for request in requests])

    def load(rate: float) -> dict[str, Any]:
        command = [sys.executable, __file__, "--client", addresses.main, "--seconds", str(seconds), "--rate", str(rate)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, input=asks)
        return json.loads(done.stdout.splitlines()[-1])

    with running_server(Server(lambda: router)) as addresses:
        load(0.0)  # so that costs are learnt
        closed = load(0.0)
        capacity = closed["num_answered"] / closed["wall_s"]
        below = load(0.8 * capacity) | {"max_queue_s": admission.limits.max_queue_s}
        max_queue_s = below["ttft_p50_ms"] / 1e3
        admission.limits = replace(admission.limits, max_queue_s=max_queue_s)
        router.refusals_ms.clear()
        above = load(2.0 * capacity) | {"max_queue_s": max_queue_s}
    own_ms = router.refusals_ms or [0.0]
    above |= {"own_refusal_p50_ms": float(np.median(own_ms)), "own_refusal_p99_ms": float(np.percentile(own_ms, 99))}
    return {"capacity": {"requests_per_s": capacity}, "at_80": below, "at_200": above}


def claims_of(report: dict[str, Any]) -> list[Claim]:
    below, above = report["at_80"], report["at_200"]
    median_ms = below["ttft_p50_ms"]
    return [
        Claim("80%: P99 of TTFT over P50", below["ttft_p99_ms"] / median_ms, TAIL, at_least=False),
        Claim("80%: requests refused", below["num_refused"], 0, at_least=False),
        Claim(
            "200%: P99 of TTFT over P50, of what is let in", above["ttft_p99_ms"] / above["ttft_p50_ms"], TAIL, False
        ),
        Claim("200%: the same over P50 at 80%", above["ttft_p99_ms"] / median_ms, TAIL, at_least=False),
        Claim("200%: answers/s over capacity", above["answers_per_s"] / report["capacity"]["requests_per_s"], 0.9),
        Claim("200%: P99 until refused, at the client, ms", above["refusal_p99_ms"], MAX_REFUSAL_MS, at_least=False),
        Claim(
            "200%: P99 until refused, of the server, ms", above["own_refusal_p99_ms"], MAX_REFUSAL_MS, at_least=False
        ),
        Claim("200%: other failures", above["num_failed"], 0, at_least=False),
    ]


def map_requests(asks: list[Any]) -> list[RecommendRequest]:
    return [RecommendRequest(tuple(candidates), user_id) for user_id, candidates in asks]


async def ask(target: str, messages: Sequence[Any], rate: float, seconds: float) -> dict[str, Any]:
    """The other process: a closed loop, or Poisson arrivals of so many a second."""
    late_ms: list[float] = []
    outcomes: list[tuple[str, float, float]] = []  # what came, milliseconds from when it was due, the server's TTFT
    left = itertools.cycle(messages)
    async with grpc.aio.insecure_channel(target) as channel:
        stub = rcjax_pb2_grpc.RecommenderStub(channel)
        start_s = time.perf_counter()

        async def one(due_s: float) -> None:
            kind, ttft_ms = "answered", 0.0
            late_ms.append((time.perf_counter() - due_s) * 1e3)
            try:
                ttft_ms = (await stub.Recommend(next(left), timeout=60)).times.ttft_ms
            except grpc.aio.AioRpcError as error:
                kind = "refused" if isinstance(from_rpc_error(error), ResourceExhaustedError) else "failed"
            outcomes.append((kind, (time.perf_counter() - due_s) * 1e3, ttft_ms))

        async def caller() -> None:
            while time.perf_counter() < start_s + seconds:
                await one(time.perf_counter())

        if rate == 0.0:
            await asyncio.gather(*(caller() for _ in range(UNDER_WAY)))
        else:
            draw, due_s, calls = random.Random(0), start_s, []
            while due_s < start_s + seconds:
                await asyncio.sleep(max(due_s - time.perf_counter(), 0.0))
                calls.append(asyncio.create_task(one(due_s)))
                due_s += draw.expovariate(rate)
            await asyncio.gather(*calls)
        wall_s = time.perf_counter() - start_s
    return summary(outcomes, late_ms, wall_s)


def summary(outcomes: Sequence[tuple[str, float, float]], late_ms: list[float], wall_s: float) -> dict[str, Any]:
    by_kind = {kind: [one for one in outcomes if one[0] == kind] for kind in ("answered", "refused", "failed")}
    times = {
        "ttft": [total_ms for _, total_ms, _ in by_kind["answered"]],
        "server_ttft": [own_ms for *_, own_ms in by_kind["answered"]],
        "refusal": [total_ms for _, total_ms, _ in by_kind["refused"]],
        "late": late_ms,
    }
    figures: dict[str, Any] = {f"num_{kind}": len(found) for kind, found in by_kind.items()}
    for name, values in times.items():
        for percent in (50, 90, 99):
            figures[f"{name}_p{percent}_ms"] = float(np.percentile(values, percent)) if values else 0.0
        figures[f"{name}_samples_ms"] = values
    return figures | {"wall_s": wall_s, "answers_per_s": len(by_kind["answered"]) / wall_s}


if __name__ == "__main__":
    main()
