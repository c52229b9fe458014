"""An engine whose answers can be computed by hand, with hooks to hold it, to break it and to lose it."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rcjax.catalog.types import Event, Item
from rcjax.errors import NotFoundError
from rcjax.request import (
    AppendEvents,
    DeleteItems,
    EngineInfo,
    EngineStats,
    GeneratedPiece,
    GenerateRequest,
    GenerateResult,
    PutItems,
    PutUser,
    RankedItem,
    Rebalanced,
    RecommendRequest,
    RecommendResult,
    StageTimes,
    TokenCounts,
    Write,
    WriteResult,
)
from rcjax.serving.engine import RestoreResult, SnapshotResult

INFO = EngineInfo(
    model="fake",
    fingerprint="f00d",
    template="plain@1",
    dtype="float32",
    device="none",
    version="0.1.0",
    page_tokens=16,
    max_candidates=5,
    max_item_tokens=150,
    max_history_tokens=1000,
    arms=("full", "blocks"),
    default_arm="blocks",
    dtype_reason="as set",
)


def score(item_id: str) -> float:
    """The number at the end of an id: "item-7" scores 7."""
    return float(item_id.rsplit("-", 1)[1])


def ranked(request: RecommendRequest) -> RecommendResult:
    """Ranks by `score`; a request has 100 cached tokens, and 2 fresh ones per candidate."""
    ids = [candidate.item_id if isinstance(candidate, Item) else candidate for candidate in request.candidates]
    best_first = sorted(ids, key=score, reverse=True)[: request.top_k or None]
    return RecommendResult(
        ranking=tuple(RankedItem(item_id, score(item_id), i + 1) for i, item_id in enumerate(best_first)),
        tokens=TokenCounts(cached=100, fresh=2 * len(ids)),
        times=StageTimes(plan_ms=1.0, build_ms=2.0, extend_ms=3.0, readout_ms=4.0),
        arm=request.arm or INFO.default_arm,
    )


class FakeRouter:
    """Answers as `ranked` does, for known users and items.

    `calls` records requests and writes in order, `deadlines_s` their deadlines. `before`, which a test may set, is
    called with each before anything happens, off the event loop: it may block or raise. `was_cancelled` tells of a
    caller who gave up meanwhile; `grace_s` has what `stop` was given.
    """

    def __init__(self, *item_ids: str):
        self.info = INFO
        self.items = {item_id: Item(item_id, f"No. {item_id[-1]}") for item_id in item_ids}
        self.users: dict[str, tuple[Event, ...]] = {"ann": ()}
        self.calls: list[Any] = []
        self.arrivals_s: list[float | None] = []
        self.deadlines_s: list[float | None] = []
        self.before: Callable[[Any], object] = lambda argument: None
        self.was_cancelled = threading.Event()
        self.grace_s: list[float] = []
        self.lost: Future[None] = Future()
        self.num_ended = 0  # generations that are over, however

    async def recommend(
        self, request: RecommendRequest, *, arrival_s: float | None = None, deadline_s: float | None = None
    ) -> RecommendResult:
        self.arrivals_s.append(arrival_s)
        await self._enter(request, deadline_s)
        if request.history is None and request.user_id not in self.users:
            raise NotFoundError(f"unknown user {request.user_id!r}", field="user_id")
        for index, candidate in enumerate(request.candidates):
            if isinstance(candidate, str) and candidate not in self.items:
                raise NotFoundError(f"unknown item {candidate!r}", field=f"candidates[{index}].item_id")
        return ranked(request)

    async def generate(
        self, request: GenerateRequest, *, arrival_s: float | None = None, deadline_s: float | None = None
    ) -> AsyncGenerator[GeneratedPiece | GenerateResult, None]:
        """A piece for each letter of the text to continue, capitals; a request's is "ok"."""
        try:
            await self._enter(request, deadline_s)
            text = request.prompt.upper() if isinstance(request.prompt, str) else "ok"
            for letter in text[: request.max_new_tokens]:
                await self._enter(letter, deadline_s)
                yield GeneratedPiece((ord(letter),), letter)
            num_new, is_complete = min(len(text), request.max_new_tokens), len(text) < request.max_new_tokens
            yield GenerateResult(num_new, is_complete, TokenCounts(cached=100, fresh=len(text)), 1.5, 2.5)
        finally:
            self.num_ended += 1

    async def apply(self, write: Write, *, deadline_s: float | None = None) -> WriteResult:
        await self._enter(write, deadline_s)
        if isinstance(write, PutItems):
            num_new = sum(self.items.get(item.item_id) != item for item in write.items)
            self.items |= {item.item_id: item for item in write.items}
            return WriteResult(num_built=num_new)
        if isinstance(write, DeleteItems):
            return WriteResult(num_deleted=sum(self.items.pop(i, None) is not None for i in write.item_ids))
        if isinstance(write, PutUser):
            self.users[write.user.user_id] = write.user.events
            return WriteResult(num_built=1)
        if isinstance(write, AppendEvents):
            if write.user_id not in self.users:
                raise NotFoundError(f"unknown user {write.user_id!r}", field="user_id")
            self.users[write.user_id] += write.events
            return WriteResult(num_built=1)
        return WriteResult(num_deleted=int(self.users.pop(write.user_id, None) is not None))

    async def stats(self) -> EngineStats:
        return EngineStats(
            num_items=len(self.items), num_users=len(self.users), tokens=TokenCounts(1, 2, 3, 4), pool_bytes=2**40
        )

    def drain(self, slice_index: int) -> None:
        self.calls.append(("drain", slice_index))

    def undrain(self, slice_index: int) -> None:
        self.calls.append(("undrain", slice_index))

    async def rebalance_from(self, placement_file: Path) -> Rebalanced:
        self.calls.append(("rebalance", placement_file))
        return Rebalanced(1, 2, 3)

    async def save_request_log(self, file: Path) -> int:
        self.calls.append(("save_request_log", file))
        return 4

    async def take_snapshot(self) -> SnapshotResult:
        await self._enter("snapshot", None)
        return SnapshotResult(3, 10, 4096, 2, 512, len(self.items), len(self.users), 0.5)

    async def restore_snapshot(self, number: int) -> RestoreResult:
        await self._enter(("restore", number), None)
        return RestoreResult(number or 3, 8, 2048, 1, 2, 1, 0, 0, 0.25)

    def stop(self, grace_s: float) -> None:
        self.grace_s.append(grace_s)

    async def _enter(self, argument: Any, deadline_s: float | None) -> None:
        self.calls.append(argument)
        self.deadlines_s.append(deadline_s)
        try:
            await asyncio.to_thread(self.before, argument)
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise


class Gate:
    """Holds whoever calls it until `open` is set; `entered` tells that somebody is there."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, argument: Any = None) -> None:
        self.entered.set()
        assert self.open.wait(60)
