"""What the host costs: requests per second without a device, memory, and the time outside the pass.

    python benchmarks/host.py --json host.json

Requests of the embedded shop with 20 candidates and histories of about 250 tokens, in the default arm, with all blocks
in cache. `router`: planned, scheduled, batched and answered in this process by an executor whose passes take no time.
`grpc`: the same through gRPC on the loopback, from another process. `memory`: what 200,000 different requests, two of
whose items come inline, leave behind. `directory`: a million blocks (benchmarks/directory_cost.py). `outside`: what a
request takes besides its pass, alone on the real model.
"""

import argparse
import asyncio
import gc
import itertools
import json
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from claims import Claim, show_claims, write_report
from idle_executor import idle_engine
from pydantic import ByteSize

from rcjax.catalog import EmbeddedWorld, Item
from rcjax.config import CacheSettings, Settings, ShapeSettings, ShapeSize
from rcjax.model.spec import load_model
from rcjax.request import RecommendRequest
from rcjax.serving import codec
from rcjax.serving.local import LocalEngine
from rcjax.serving.server import Server, freeze_start_up, running_server
from rcjax.serving.startup import start_engine
from rcjax.serving.v1 import rcjax_pb2_grpc

NUM_CANDIDATES, HISTORY_TOKENS = 20, (230, 270)
UNDER_WAY = 64
NUM_PAGES = 60_000  # of 16 tokens: all of the shop's items, and then some
NUM_INLINE = 2
PARTS = ("router", "grpc", "memory", "directory", "outside")
ROOT = Path(__file__).parents[1]


def settings() -> Settings:
    rank = ((160, 192), (160, 192, 4), (160, 192, 16))
    return Settings(
        adapter=None,
        default_arm="rcjax",
        shapes=ShapeSettings(rank=rank, build=((512, 16),)),
        cache=CacheSettings(pool_bytes=ByteSize(2**31)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    parser.add_argument("--requests", type=int, default=10_000, help="of router and grpc")
    parser.add_argument("--memory-requests", type=int, default=200_000)
    parser.add_argument("--client", metavar="HOST:PORT", help=argparse.SUPPRESS)  # the other process of `grpc`
    args = parser.parse_args()
    if args.client:
        print(json.dumps(asyncio.run(ask_server(args.client, args.requests))))
        return
    report: dict[str, Any] = {"benchmark": "host"}
    claims: list[Claim] = []
    chosen = args.parts.split(",")
    if set(chosen) & {"router", "grpc", "memory"}:
        with idle_engine(settings(), load_model(Settings().model), NUM_PAGES) as engine:
            asks = fill(engine, EmbeddedWorld(0))
            freeze_start_up()  # as `rcjax serve` does
            if "router" in chosen:
                report["router"] = measure_router(engine, asks, args.requests)
                claims.append(Claim("requests/s of the router", report["router"]["requests_per_s"], 1500))
            if "grpc" in chosen:
                report["grpc"] = measure_grpc(engine, args.requests)
                claims.append(Claim("requests/s through gRPC", report["grpc"]["requests_per_s"], 500))
            if "memory" in chosen:
                report["memory"] = measure_memory(engine, asks, args.memory_requests)
                claims.append(
                    Claim("MiB that distinct requests left", report["memory"]["grown_mib"], 8, at_least=False)
                )
    if "directory" in chosen:
        sys.path.insert(0, str(ROOT))
        from benchmarks.directory_cost import measure_directory

        report["directory"], of_directory = measure_directory()
        claims += of_directory
    if "outside" in chosen:
        report["outside"] = measure_outside()
        for arm, values in report["outside"].items():
            claims.append(Claim(f"{arm}: P50 of the time outside the pass, ms", values["p50_ms"], 2, at_least=False))
    print(json.dumps(report, indent=1))
    show_claims(claims)
    if args.json:
        write_report(args.json, report, claims)


def requests(world: EmbeddedWorld) -> Iterator[RecommendRequest]:
    for request in world.requests(2000, split="test", num_candidates=NUM_CANDIDATES):
        yield RecommendRequest(request.candidates, request.user_id)


def fill(engine: LocalEngine, world: EmbeddedWorld, num_requests: int = 200) -> list[RecommendRequest]:
    """Requests whose histories have about the length that is wanted, with all their blocks in cache."""
    engine.put_items(world.items.values())
    found = []
    for ask in requests(world):
        user = world.user(ask.user_id)
        history = engine.prompt(RecommendRequest(ask.candidates, history=user.events)).blocks[1]
        if HISTORY_TOKENS[0] <= len(history) <= HISTORY_TOKENS[1]:
            engine.put_user(user)
            found.append(ask)
        if len(found) == num_requests:
            break
    for result in engine.recommend(found):
        if isinstance(result, Exception) or result.tokens.built:
            raise RuntimeError(f"not a full hit: {result}")
    return found


def measure_router(engine: LocalEngine, asks: list[RecommendRequest], num_requests: int) -> dict[str, Any]:
    _drain(engine, itertools.islice(itertools.cycle(asks), num_requests // 10))
    before = engine.stats()
    start_s = time.perf_counter()
    _drain(engine, itertools.islice(itertools.cycle(asks), num_requests))
    wall_s = time.perf_counter() - start_s
    after = engine.stats()
    if after.num_misses != before.num_misses or after.num_failed:
        raise RuntimeError(f"not all were hits, or some failed: {after}")
    return {"num_requests": num_requests, "wall_s": wall_s, "requests_per_s": num_requests / wall_s}


def _drain(engine: LocalEngine, asks: Iterable[RecommendRequest]) -> None:
    """Asks for all, with `UNDER_WAY` of them under way at any time."""
    under_way: deque[Any] = deque()
    for ask in asks:
        if len(under_way) == UNDER_WAY:
            under_way.popleft().result()
        under_way.append(engine.router.submit(ask))
    while under_way:
        under_way.popleft().result()


def measure_grpc(engine: LocalEngine, num_requests: int) -> dict[str, Any]:
    router = engine.router
    router.stop = lambda grace_s: None  # type: ignore[method-assign]  # the server's end is not the engine's
    try:
        with running_server(Server(lambda: router)) as addresses:
            command = [sys.executable, __file__, "--client", addresses.main, "--requests", str(num_requests)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
    finally:
        del router.stop
    return json.loads(done.stdout.splitlines()[-1])


async def ask_server(target: str, num_requests: int) -> dict[str, Any]:
    """The other process: asks for what the server has in cache, with `UNDER_WAY` calls under way."""
    import grpc

    asks = [codec.request_to_message(ask) for ask in _known_asks()]
    async with grpc.aio.insecure_channel(target) as channel:
        stub = rcjax_pb2_grpc.RecommenderStub(channel)
        known = []
        for ask in asks:  # histories of another length are not on the server
            try:
                await stub.Recommend(ask)
            except grpc.aio.AioRpcError:
                continue
            known.append(ask)
        await _ask_all(stub, itertools.islice(itertools.cycle(known), num_requests // 10))
        start_s = time.perf_counter()
        waits_ms = await _ask_all(stub, itertools.islice(itertools.cycle(known), num_requests))
    wall_s = time.perf_counter() - start_s
    return {
        "num_requests": num_requests,
        "wall_s": wall_s,
        "requests_per_s": num_requests / wall_s,
        "p50_ms": float(np.percentile(waits_ms, 50)),
        "p99_ms": float(np.percentile(waits_ms, 99)),
    }


def _known_asks() -> list[RecommendRequest]:
    return list(itertools.islice(requests(EmbeddedWorld(0)), 500))


async def _ask_all(stub: rcjax_pb2_grpc.RecommenderStub, asks: Iterable[Any]) -> list[float]:
    left = iter(asks)
    waits_ms: list[float] = []

    async def caller() -> None:
        for ask in left:
            start_s = time.perf_counter()
            await stub.Recommend(ask)
            waits_ms.append((time.perf_counter() - start_s) * 1e3)

    await asyncio.gather(*(caller() for _ in range(UNDER_WAY)))
    return waits_ms


def measure_memory(engine: LocalEngine, asks: list[RecommendRequest], num_requests: int) -> dict[str, Any]:
    """Resident memory before and after different requests, once the pool is full and all that is bounded is there."""
    num_warm = num_requests // 4
    numbers = itertools.count()
    start_s = time.perf_counter()
    _drain(engine, itertools.islice(_inline(asks, numbers), num_warm))
    gc.collect()
    grown = [rss_mib()]
    for _ in range(4):
        _drain(engine, itertools.islice(_inline(asks, numbers), num_requests // 4))
        gc.collect()
        grown.append(rss_mib())
    return {
        "num_requests": num_requests,
        "rss_mib": grown,
        "grown_mib": grown[-1] - grown[0],
        "num_evictions": engine.stats().num_evictions,
        "wall_s": time.perf_counter() - start_s,
    }


def _inline(asks: list[RecommendRequest], numbers: Iterator[int]) -> Iterator[RecommendRequest]:
    for ask in itertools.cycle(asks):
        items = [_new_item(next(numbers)) for _ in range(NUM_INLINE)]
        yield replace(ask, candidates=(*ask.candidates[NUM_INLINE:], *items))


def _new_item(number: int) -> Item:
    return Item(f"new-{number}", f"Thing number {number}", f"Nobody has seen the thing {number} before.")


def rss_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not tell the resident memory of a process")


def measure_outside(num_requests: int = 50) -> dict[str, Any]:
    """What a request takes besides its pass, one at a time, on the real model with all blocks in cache."""
    tiled = ShapeSize(fresh_tokens=20, num_pages=48, tiles=20, tile_pages=8)
    shapes = ShapeSettings(rank=(tiled, (64, 192), (160, 192)), build=((512, 16),))
    wanted = Settings(adapter=None, dtype="float32", shapes=shapes, cache=CacheSettings(pool_bytes=ByteSize(2**31)))
    arms = {name: wanted.arms[name] for name in ("rcjax", "parallel")}
    with start_engine(wanted.model_copy(update={"arms": arms}), progress=lambda step: None) as engine:
        asks = fill(engine, EmbeddedWorld(0), num_requests)
        outside_ms: dict[str, list[float]] = {arm: [] for arm in arms}
        for ask, arm in itertools.product(asks, arms):
            (result,) = engine.recommend([replace(ask, arm=arm)])
            if isinstance(result, Exception):
                raise result
            outside_ms[arm].append(result.times.ttft_ms - result.times.extend_ms)
    return {
        arm: {"p50_ms": float(np.median(values)), "max_ms": max(values), "samples_ms": values}
        for arm, values in outside_ms.items()
    }


if __name__ == "__main__":
    main()
