"""rcjax as a process that benchmarks/peer_vllm.py asks, in the Python that runs that benchmark.

    python benchmarks/own_engine.py --dtype bfloat16

The requests are those of benchmarks/ttft.py, with all their blocks in cache.
"""

import argparse
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import ttft
from claims import environment
from engine_process import Tasks, answer_tasks

from rcjax.catalog.types import Request
from rcjax.config import Settings, ShapeSettings
from rcjax.prompt import BlockKind
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.startup import start_engine

ARMS = ("full", "rcjax", "parallel")
BATCHES = (1, 2, 4, 8)
PREFIX_KINDS = (BlockKind.INSTRUCTION, BlockKind.HISTORY)


def settings(dtype: str) -> Settings:
    """Those of benchmarks/ttft.py for our arms, with shapes for batches of the requests that reuse items."""
    wanted = ttft.settings()
    most = max(shape.num_pages for shape in wanted.shapes.rank)
    reusing = [shape for shape in wanted.shapes.rank if shape.tiles or shape.num_pages == most]
    batched = [shape.model_copy(update={"batch": batch}) for shape in reusing for batch in BATCHES]
    alone = [shape for shape in wanted.shapes.rank if shape.num_pages == 0]
    shapes = ShapeSettings(rank=(*batched, *alone), build=wanted.shapes.build)
    arms = {name: wanted.arms[name] for name in ARMS}
    return wanted.model_copy(update={"dtype": dtype, "arms": arms, "shapes": shapes})


class OwnEngine:
    """A `LocalEngine` with the requests to rank."""

    def __init__(self, dtype: str, num_requests: int, seed: int):
        self._settings = settings(dtype)
        self._engine = start_engine(self._settings, progress=print)
        self._requests = ttft.fill(self._engine, num_requests, seed)

    def tasks(self) -> Tasks:
        return {
            "info": self.info,
            "prompts": self.prompts,
            "warm_up": self.warm_up,
            "alone": self.alone,
            "load": self.load,
            "close": self._engine.close,
        }

    def info(self) -> dict[str, Any]:
        info = self._engine.info()
        return environment() | {
            "model": info.model,
            "dtype": info.dtype,
            "template": info.template,
            "rank_shapes": [shape.model_dump() for shape in self._settings.shapes.rank],
        }

    def prompts(self) -> list[dict[str, Any]]:
        """Every request as a causal model gets it: its tokens, and how many of them are instruction and history."""
        found = []
        for request in self._requests:
            blocks = self._engine.prompt(_ask(request, "full")).blocks
            ids = np.concatenate([block.token_ids for block in blocks])
            prefix_len = sum(len(block) for block in blocks if block.kind in PREFIX_KINDS)
            found.append({"ids": ids.tolist(), "prefix_len": prefix_len})
        return found

    def warm_up(self, under_way: int) -> None:
        self.alone([0])
        for arm in ARMS[1:]:
            self.load(arm, [0], 4 * under_way, under_way)

    def alone(self, numbers: Sequence[int]) -> dict[str, list[dict[str, float]]]:
        """The time of each request in each arm, one at a time, each arm first in turn."""
        rows: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        for number in numbers:
            for arm in np.roll(ARMS, number).tolist():
                start_s = time.perf_counter()
                (result,) = self._engine.recommend([_ask(self._requests[number], arm)])
                wait_ms = (time.perf_counter() - start_s) * 1e3
                tokens = _hit(result).tokens
                counts = {kind: getattr(tokens, kind) for kind in ("cached", "selected", "fresh", "prompt_len")}
                rows[arm].append({"ttft_ms": wait_ms, "pass_ms": result.times.extend_ms, **counts})
        return rows

    def load(self, arm: str, numbers: Sequence[int], num_asked: int, under_way: int) -> dict[str, Any]:
        """Asks for the requests, over and over, with so many under way at any time."""
        waits_ms: list[float] = []
        room = threading.Semaphore(under_way)
        futures = []

        def start() -> None:
            start_s = time.perf_counter()

            def done(future: Any) -> None:
                waits_ms.append((time.perf_counter() - start_s) * 1e3)
                room.release()

            future = self._engine.router.submit(_ask(self._requests[numbers[len(futures) % len(numbers)]], arm))
            future.add_done_callback(done)
            futures.append(future)

        start_s = time.perf_counter()
        for _ in range(num_asked):
            room.acquire()
            start()
        for _ in range(under_way):  # all are answered once nobody holds a place
            room.acquire()
        wall_s = time.perf_counter() - start_s
        for future in futures:
            _hit(future.result())
        return {"wall_s": wall_s, "latencies_ms": waits_ms}


def _ask(request: Request, arm: str) -> RecommendRequest:
    return RecommendRequest(request.candidates, request.user_id, arm=arm)


def _hit(result: RecommendResult | Exception) -> RecommendResult:
    if isinstance(result, Exception):
        raise result
    if result.tokens.built:
        raise RuntimeError(f"{result.arm} built {result.tokens.built} tokens: not a full hit")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), required=True)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    answer_tasks(lambda: OwnEngine(args.dtype, args.requests, args.seed).tasks())


if __name__ == "__main__":
    main()
