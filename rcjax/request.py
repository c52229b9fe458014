"""What goes into an engine and what comes out: frozen values, which can be sent, logged and replayed."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from rcjax.catalog.types import Event, Item, User


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


class RankedItem(NamedTuple):
    """A candidate and its place."""

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
        return TokenCounts(  # spelled out, as every answer is added to the totals
            self.cached + other.cached,
            self.selected + other.selected,
            self.fresh + other.fresh,
            self.built + other.built,
            self.probed + other.probed,
            self.semantic + other.semantic,
        )

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
    dtype_reason: str = ""


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


@dataclass(frozen=True, slots=True)
class PutItems:
    """Adds or replaces items and builds their KV; an item whose text did not change costs nothing."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class DeleteItems:
    """Forgets items and frees their KV; ids that are unknown are passed over."""

    item_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PutUser:
    """Adds or replaces a user with their whole history and builds its KV."""

    user: User


@dataclass(frozen=True, slots=True)
class AppendEvents:
    """Appends events, oldest first, to a known user's history, extending its cached KV."""

    user_id: str
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class DeleteUser:
    """Forgets a user and frees the KV of their history."""

    user_id: str


Write = PutItems | DeleteItems | PutUser | AppendEvents | DeleteUser


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a write did.

    `num_built` blocks had to be computed, summed over slices; `num_tokens` are those of the blocks that it made ready,
    computed or not; `num_deleted` of the items or users that it deletes existed.
    """

    num_built: int = 0
    num_deleted: int = 0
    num_tokens: int = 0


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

    async def apply(self, write: Write, *, deadline_s: float | None = None) -> WriteResult:
        """Applies a write; requests that are sent after the answer see it."""
        ...

    @property
    def info(self) -> EngineInfo:
        """What is served; `UnavailableError` while the engine is starting."""
        ...

    async def stats(self) -> EngineStats: ...
