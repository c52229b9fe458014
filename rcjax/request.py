"""What goes into an engine and what comes out: frozen values, which can be sent, logged and replayed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from rcjax.catalog.types import Event, Item, User
from rcjax.tables import ranking_to_pandas

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, slots=True)
class RecommendRequest:
    """Rank `candidates` (ids of known items, or items given inline) for a user.

    `user_id` names a user that the engine knows; `history`, where given, is used instead of the stored one and may come
    without a `user_id`. `top_k=0` returns every candidate. `arm` names one of the engine's arms. `tenant`, here and in
    writes, says whose the ids are: a server sets it by who calls. Of both, empty is the default one.

    Example:

        >>> mug = Item("mug-1", "Stoneware mug")  # sent along, as the engine does not know it
        >>> asked = RecommendRequest((mug, *request.candidates), history=(Event("pot-1", "Teapot"),), top_k=2)
        >>> (result,) = engine.recommend([asked])
        >>> len(result.ranking)
        2
    """

    candidates: tuple[str | Item, ...]
    user_id: str = ""
    history: tuple[Event, ...] | None = None
    top_k: int = 0
    arm: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Continue a text, or the prompt of a request from the blocks that its arm takes from the cache.

    The likeliest token is taken at `temperature` 0, else one is drawn from softmax(logits / temperature), by `seed`.

    Example:

        >>> with RecommenderClient(target) as client:
        ...     *pieces, result = client.generate(GenerateRequest("A mug is", max_new_tokens=3, seed=1))
        >>> result.num_new_tokens <= 3
        True
    """

    prompt: str | RecommendRequest
    max_new_tokens: int = 32
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class GeneratedPiece:
    """What a generation gave since the last piece; `text` has whole characters only, and may be empty.

    Example:

        >>> with RecommenderClient(target) as client:
        ...     *pieces, result = client.generate(GenerateRequest(request, max_new_tokens=3))
        >>> sum(len(piece.token_ids) for piece in pieces) == result.num_new_tokens
        True
    """

    token_ids: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """The end of a generation that went well.

    `tokens` are those of the prompt. `is_complete` says that the model ended the text itself. Times run from arrival;
    `ttft_ms` is 0 where there is no token.

    Example:

        >>> with RecommenderClient(target) as client:
        ...     *pieces, result = client.generate(GenerateRequest(request, max_new_tokens=3))
        >>> result.tokens.prompt_len == engine.prompt(request).num_tokens
        True
    """

    num_new_tokens: int
    is_complete: bool
    tokens: "TokenCounts"
    ttft_ms: float
    total_ms: float
    slice_index: int = 0


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
    are those of `cached` whose KV is that of other histories' tokens. Of blocks that missed and came from elsewhere
    instead, `fetched` counts tokens from another slice, `host` from host memory, `disk` from the disk.
    """

    cached: int = 0
    selected: int = 0
    fresh: int = 0
    built: int = 0
    probed: int = 0
    semantic: int = 0
    fetched: int = 0
    host: int = 0
    disk: int = 0

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        return TokenCounts(  # spelled out, as every answer is added to the totals
            self.cached + other.cached,
            self.selected + other.selected,
            self.fresh + other.fresh,
            self.built + other.built,
            self.probed + other.probed,
            self.semantic + other.semantic,
            self.fetched + other.fetched,
            self.host + other.host,
            self.disk + other.disk,
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
    """A ranking, best first, and where the prompt's tokens and the request's time went.

    Example:

        >>> (result,) = engine.recommend([request])
        >>> best = result.ranking[0]
        >>> best.rank, best.item_id in request.candidates
        (1, True)
        >>> result.tokens.prompt_len == result.tokens.cached + result.tokens.selected + result.tokens.fresh
        True
        >>> list(result.to_pandas(shop.items).columns)
        ['rank', 'item_id', 'score', 'title']
    """

    ranking: tuple[RankedItem, ...]
    tokens: TokenCounts
    times: StageTimes
    arm: str
    slice_index: int = 0  # of the slice that answered

    def to_pandas(self, items: Mapping[str, Item] | None = None) -> "DataFrame":
        """The ranking as a table of `rank`, `item_id`, `score`, and the `title` of those of `items`, where given.

        ImportError says what to install where there is no pandas.
        """
        return ranking_to_pandas(self.ranking, items)


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What one call may carry whatever the model, and what a server takes of one connection.

    `max_text_bytes` are of all texts of an item or an event together, as UTF-8; other lengths are in characters.
    `max_top_k` bounds how many items a ranking names, also where it names all.
    """

    max_id_len: int = 256
    max_text_len: int = 20_000  # of each text field
    max_text_bytes: int = 65_536
    max_categories: int = 32  # of one item
    max_items: int = 1_000  # in one PutItems or DeleteItems
    max_events: int = 1_000  # in one call
    max_top_k: int = 1_000
    max_message_bytes: int = 32 * 2**20  # of a request; gRPC itself answers a larger one
    max_streams: int = 1_000  # calls under way on one connection; with more a client waits, or is told UNAVAILABLE
    min_ping_s: float = 10.0  # a client that pings more often than this is disconnected


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
    num_slices: int = 1
    tensor: int = 1  # devices of a slice, over which its heads are split
    limits: ServiceLimits = ServiceLimits()


@dataclass(frozen=True, slots=True)
class SliceStats:
    """Counters since start-up and gauges of now, of one slice.

    `state` is `open`, `draining` (gets no more requests, and has done with them once `num_under_way` is 0) or `dead`.
    Of `num_hits` blocks, `num_replica_hits` had been copied from another slice before. Of `num_misses`, `num_fetched`
    came from another slice, `num_from_host` and `num_from_disk` from tiers, and the others were computed.
    """

    state: str
    queue_s: float  # expected until it starts on a request that it gets now
    num_under_way: int  # requests
    num_requests: int  # that it was given, tried elsewhere before or not
    num_hits: int
    num_misses: int
    num_evictions: int
    pages_total: int
    pages_used: int
    num_replica_hits: int = 0
    num_fetched: int = 0
    num_from_host: int = 0
    num_from_disk: int = 0
    fetched_bytes: int = 0
    from_host_bytes: int = 0
    from_disk_bytes: int = 0
    lent_bytes: int = 0  # to other slices
    spilled_bytes: int = 0  # to tiers


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters since start-up and gauges of now. Gauges of pages and bytes are of the slices that live."""

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
    slices: tuple[SliceStats, ...] = ()  # by index
    policy: str = ""  # how a request's slice is chosen, as the settings name it
    num_decisions: int = 0  # choices so far
    num_retries: int = 0  # of these, those for requests whose slice had died
    imbalance: float = 1.0  # the most seconds of work that a living slice was given, over their mean
    num_replica_hits: int = 0  # these and those below as in `SliceStats`
    num_fetched: int = 0
    num_from_host: int = 0
    num_from_disk: int = 0
    fetched_bytes: int = 0
    from_host_bytes: int = 0
    from_disk_bytes: int = 0
    spilled_bytes: int = 0
    host_bytes_used: int = 0  # by the tiers, which all slices share
    disk_bytes_used: int = 0
    num_corrupt: int = 0  # blocks of the tiers whose KV turned out to be damaged


@dataclass(frozen=True, slots=True)
class PutItems:
    """Adds or replaces items and builds their KV; an item whose text did not change costs nothing."""

    items: tuple[Item, ...]
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class DeleteItems:
    """Forgets items and frees their KV; ids that are unknown are passed over."""

    item_ids: tuple[str, ...]
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class PutUser:
    """Adds or replaces a user with their whole history and builds its KV."""

    user: User
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class AppendEvents:
    """Appends events, oldest first, to a known user's history, extending its cached KV."""

    user_id: str
    events: tuple[Event, ...]
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class DeleteUser:
    """Forgets a user and frees the KV of their history."""

    user_id: str
    tenant: str = ""


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


@dataclass(frozen=True, slots=True)
class Rebalanced:
    """What a rebalance did: blocks that slices were to have anew, how many of these had to be computed, and blocks that
    slices were to have no longer."""

    num_arriving: int
    num_built: int
    num_leaving: int
