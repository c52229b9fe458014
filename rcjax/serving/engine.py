"""An engine as the services know it, and what it answers to those who run it."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from rcjax.request import (
    EngineInfo,
    EngineStats,
    GeneratedPiece,
    GenerateRequest,
    GenerateResult,
    Rebalanced,
    RecommendRequest,
    RecommendResult,
    Write,
    WriteResult,
)


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """A snapshot that was taken: what is in it, and of that what the snapshots before did not have."""

    number: int  # of the snapshot, from 1; the highest is the newest
    num_blocks: int
    num_bytes: int  # of their KV
    num_written: int  # blocks
    written_bytes: int
    num_items: int
    num_users: int
    took_s: float


@dataclass(frozen=True, slots=True)
class RestoreResult:
    """A snapshot that was restored: blocks put into pools, that did not fit, were there already, or were damaged; and
    the items and users that became known."""

    number: int
    num_blocks: int
    num_bytes: int
    num_skipped: int
    num_present: int
    num_corrupt: int
    num_items: int
    num_users: int
    took_s: float


@runtime_checkable
class Engine(Protocol):
    """Ranks, changes what it ranks from, and tells about itself; called on an event loop, which it never blocks.

    Times are seconds on the engine's clock. A call that is cancelled, or whose deadline passes, is dropped before its
    next step; a write that has started runs to its end. Failures are `RcjaxError`s; a write that fails changes nothing.
    """

    async def recommend(
        self, request: RecommendRequest, *, arrival_s: float | None = None, deadline_s: float | None = None
    ) -> RecommendResult:
        """Ranks the candidates; `arrival_s` is when the request came, from which its times count."""
        ...

    def generate(
        self, request: GenerateRequest, *, arrival_s: float | None = None, deadline_s: float | None = None
    ) -> AsyncGenerator[GeneratedPiece | GenerateResult, None]:
        """Pieces as they come, and at last the result; closing the generator ends the generation.

        A reader who leaves too many tokens unread gets a `ResourceExhaustedError`.
        """
        ...

    async def apply(self, write: Write, *, deadline_s: float | None = None) -> WriteResult:
        """Applies a write; requests that are sent after the answer see it."""
        ...

    @property
    def info(self) -> EngineInfo:
        """What is served; `UnavailableError` while the engine is starting."""
        ...

    async def stats(self) -> EngineStats: ...

    def drain(self, slice_index: int) -> None:
        """Sends no more requests to a slice; it finishes what it has, and keeps its blocks up to date."""
        ...

    def undrain(self, slice_index: int) -> None:
        """Sends requests to a drained slice again."""
        ...

    async def rebalance_from(self, placement_file: Path) -> Rebalanced:
        """Makes the placement in a file say which slices hold an item, while requests and writes go on."""
        ...

    async def save_request_log(self, file: Path) -> int:
        """Writes the ids of the items of the last requests, to learn a placement from; returns how many requests."""
        ...

    async def take_snapshot(self) -> SnapshotResult:
        """Takes a snapshot, while requests and writes go on."""
        ...

    async def restore_snapshot(self, number: int) -> RestoreResult:
        """Restores a snapshot by its number (0: the newest) into free pages, while requests and writes go on."""
        ...
