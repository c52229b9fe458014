"""What goes into an engine and what comes out: the vocabulary between the gRPC service and the engine."""

import operator
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Protocol, runtime_checkable

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import RcjaxError


@dataclass(frozen=True, slots=True)
class RecommendRequest:
    """Rank `candidates` (ids of known items, or items given inline) for a user.

    `user_id` names a user that the engine knows; `history`, where given, is used instead of the stored one
    and may come without a `user_id`. `top_k=0` returns every candidate. `arm` names one of the engine's
    configured arms; empty means its default.
    """

    candidates: tuple[str | Item, ...]
    user_id: str = ""
    history: tuple[Event, ...] | None = None
    top_k: int = 0
    arm: str = ""


@dataclass(frozen=True, slots=True)
class RankedItem:
    item_id: str
    score: float
    rank: int  # from 1


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """Where a prompt's tokens came from: `cached + selected + fresh == prompt_len`.

    `built` counts tokens of blocks that missed and were computed for this request before its own pass; `probed`
    those that the probes of its selection policy computed, through as many layers as the policy says. `semantic`
    are those of `cached` whose KV is that of other histories' tokens.
    """

    cached: int = 0
    selected: int = 0
    fresh: int = 0
    built: int = 0
    probed: int = 0
    semantic: int = 0

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        return TokenCounts(*map(operator.add, astuple(self), astuple(other)))

    @property
    def prompt_len(self) -> int:
        return self.cached + self.selected + self.fresh


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Where a request's time went, in milliseconds; `ttft` runs from arrival to the first ranked item."""

    queue_ms: float = 0.0
    plan_ms: float = 0.0
    build_ms: float = 0.0
    probe_ms: float = 0.0
    extend_ms: float = 0.0
    readout_ms: float = 0.0
    ttft_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class RecommendResult:
    ranking: tuple[RankedItem, ...]
    tokens: TokenCounts
    times: StageTimes
    arm: str


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What this engine serves; constant after start-up."""

    model: str
    fingerprint: str
    template: str
    dtype: str
    device: str
    version: str
    page_tokens: int
    max_candidates: int
    max_item_tokens: int
    max_history_tokens: int
    arms: tuple[str, ...]
    default_arm: str


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since start-up and gauges of now."""

    num_items: int = 0
    num_users: int = 0
    num_requests: int = 0
    num_failed: int = 0
    num_compilations: int = 0  # after warm-up
    num_hits: int = 0
    num_misses: int = 0
    num_evictions: int = 0
    pages_total: int = 0
    pages_used: int = 0
    pool_bytes: int = 0
    tokens: TokenCounts = field(default_factory=TokenCounts)


@runtime_checkable
class Engine(Protocol):
    """Synchronous and single-threaded: one thread makes every call, and no call blocks on the network.

    A call that changes items or users raises an `RcjaxError` and changes nothing when any part of it is bad.
    """

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[RecommendResult | RcjaxError]:
        """Ranks each request on its own: a bad one yields its error in its place and harms no other."""
        ...

    def put_items(self, items: Sequence[Item]) -> int:
        """Adds or replaces items and builds their KV; returns how many blocks had to be computed."""
        ...

    def delete_items(self, item_ids: Sequence[str]) -> int:
        """Forgets items and frees their KV; returns how many existed."""
        ...

    def put_user(self, user: User) -> None:
        """Adds or replaces a user and builds the KV of their history."""
        ...

    def append_events(self, user_id: str, events: Sequence[Event]) -> None:
        """Appends to a known user's history, extending its cached KV; `NotFoundError` for another."""
        ...

    def delete_user(self, user_id: str) -> bool:
        """Forgets a user and frees their KV; whether the user existed."""
        ...

    def info(self) -> EngineInfo: ...

    def stats(self) -> EngineStats: ...
