from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Item(_message.Message):
    __slots__ = ("item_id", "title", "description", "brand", "categories", "price")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    BRAND_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    title: str
    description: str
    brand: str
    categories: _containers.RepeatedScalarFieldContainer[str]
    price: float
    def __init__(self, item_id: _Optional[str] = ..., title: _Optional[str] = ..., description: _Optional[str] = ..., brand: _Optional[str] = ..., categories: _Optional[_Iterable[str]] = ..., price: _Optional[float] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("item_id", "title", "text", "rating", "timestamp_s")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    RATING_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_S_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    title: str
    text: str
    rating: float
    timestamp_s: int
    def __init__(self, item_id: _Optional[str] = ..., title: _Optional[str] = ..., text: _Optional[str] = ..., rating: _Optional[float] = ..., timestamp_s: _Optional[int] = ...) -> None: ...

class History(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class User(_message.Message):
    __slots__ = ("user_id", "events")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, user_id: _Optional[str] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("item_id", "item")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    item: Item
    def __init__(self, item_id: _Optional[str] = ..., item: _Optional[_Union[Item, _Mapping]] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("user_id", "candidates", "history", "top_k", "arm")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    history: History
    top_k: int
    arm: str
    def __init__(self, user_id: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., history: _Optional[_Union[History, _Mapping]] = ..., top_k: _Optional[int] = ..., arm: _Optional[str] = ...) -> None: ...

class RankedItem(_message.Message):
    __slots__ = ("item_id", "score", "rank")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    score: float
    rank: int
    def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ..., rank: _Optional[int] = ...) -> None: ...

class TokenCounts(_message.Message):
    __slots__ = ("cached", "selected", "fresh", "built", "probed", "semantic", "fetched", "host", "disk")
    CACHED_FIELD_NUMBER: _ClassVar[int]
    SELECTED_FIELD_NUMBER: _ClassVar[int]
    FRESH_FIELD_NUMBER: _ClassVar[int]
    BUILT_FIELD_NUMBER: _ClassVar[int]
    PROBED_FIELD_NUMBER: _ClassVar[int]
    SEMANTIC_FIELD_NUMBER: _ClassVar[int]
    FETCHED_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    DISK_FIELD_NUMBER: _ClassVar[int]
    cached: int
    selected: int
    fresh: int
    built: int
    probed: int
    semantic: int
    fetched: int
    host: int
    disk: int
    def __init__(self, cached: _Optional[int] = ..., selected: _Optional[int] = ..., fresh: _Optional[int] = ..., built: _Optional[int] = ..., probed: _Optional[int] = ..., semantic: _Optional[int] = ..., fetched: _Optional[int] = ..., host: _Optional[int] = ..., disk: _Optional[int] = ...) -> None: ...

class StageTimes(_message.Message):
    __slots__ = ("queue_ms", "plan_ms", "build_ms", "extend_ms", "readout_ms", "ttft_ms", "probe_ms")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    PLAN_MS_FIELD_NUMBER: _ClassVar[int]
    BUILD_MS_FIELD_NUMBER: _ClassVar[int]
    EXTEND_MS_FIELD_NUMBER: _ClassVar[int]
    READOUT_MS_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    PROBE_MS_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    plan_ms: float
    build_ms: float
    extend_ms: float
    readout_ms: float
    ttft_ms: float
    probe_ms: float
    def __init__(self, queue_ms: _Optional[float] = ..., plan_ms: _Optional[float] = ..., build_ms: _Optional[float] = ..., extend_ms: _Optional[float] = ..., readout_ms: _Optional[float] = ..., ttft_ms: _Optional[float] = ..., probe_ms: _Optional[float] = ...) -> None: ...

class RecommendResponse(_message.Message):
    __slots__ = ("ranking", "tokens", "times", "arm", "slice_index")
    RANKING_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TIMES_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    SLICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    ranking: _containers.RepeatedCompositeFieldContainer[RankedItem]
    tokens: TokenCounts
    times: StageTimes
    arm: str
    slice_index: int
    def __init__(self, ranking: _Optional[_Iterable[_Union[RankedItem, _Mapping]]] = ..., tokens: _Optional[_Union[TokenCounts, _Mapping]] = ..., times: _Optional[_Union[StageTimes, _Mapping]] = ..., arm: _Optional[str] = ..., slice_index: _Optional[int] = ...) -> None: ...

class PutItemsRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ...) -> None: ...

class PutItemsResponse(_message.Message):
    __slots__ = ("num_built",)
    NUM_BUILT_FIELD_NUMBER: _ClassVar[int]
    num_built: int
    def __init__(self, num_built: _Optional[int] = ...) -> None: ...

class DeleteItemsRequest(_message.Message):
    __slots__ = ("item_ids",)
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class DeleteItemsResponse(_message.Message):
    __slots__ = ("num_deleted",)
    NUM_DELETED_FIELD_NUMBER: _ClassVar[int]
    num_deleted: int
    def __init__(self, num_deleted: _Optional[int] = ...) -> None: ...

class PutUserRequest(_message.Message):
    __slots__ = ("user",)
    USER_FIELD_NUMBER: _ClassVar[int]
    user: User
    def __init__(self, user: _Optional[_Union[User, _Mapping]] = ...) -> None: ...

class PutUserResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AppendEventsRequest(_message.Message):
    __slots__ = ("user_id", "events")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    events: _containers.RepeatedCompositeFieldContainer[Event]
    def __init__(self, user_id: _Optional[str] = ..., events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ...) -> None: ...

class AppendEventsResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeleteUserRequest(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class DeleteUserResponse(_message.Message):
    __slots__ = ("existed",)
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    existed: bool
    def __init__(self, existed: bool = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class InfoResponse(_message.Message):
    __slots__ = ("model", "fingerprint", "template", "dtype", "device", "version", "page_tokens", "max_candidates", "max_item_tokens", "max_history_tokens", "arms", "default_arm", "dtype_reason", "num_slices", "tensor", "limits")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEM_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_HISTORY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ARMS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_ARM_FIELD_NUMBER: _ClassVar[int]
    DTYPE_REASON_FIELD_NUMBER: _ClassVar[int]
    NUM_SLICES_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
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
    arms: _containers.RepeatedScalarFieldContainer[str]
    default_arm: str
    dtype_reason: str
    num_slices: int
    tensor: int
    limits: ServiceLimits
    def __init__(self, model: _Optional[str] = ..., fingerprint: _Optional[str] = ..., template: _Optional[str] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., version: _Optional[str] = ..., page_tokens: _Optional[int] = ..., max_candidates: _Optional[int] = ..., max_item_tokens: _Optional[int] = ..., max_history_tokens: _Optional[int] = ..., arms: _Optional[_Iterable[str]] = ..., default_arm: _Optional[str] = ..., dtype_reason: _Optional[str] = ..., num_slices: _Optional[int] = ..., tensor: _Optional[int] = ..., limits: _Optional[_Union[ServiceLimits, _Mapping]] = ...) -> None: ...

class ServiceLimits(_message.Message):
    __slots__ = ("max_id_len", "max_text_len", "max_text_bytes", "max_categories", "max_items", "max_events", "max_top_k", "max_message_bytes", "max_streams", "min_ping_s")
    MAX_ID_LEN_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_LEN_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_EVENTS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAMS_FIELD_NUMBER: _ClassVar[int]
    MIN_PING_S_FIELD_NUMBER: _ClassVar[int]
    max_id_len: int
    max_text_len: int
    max_text_bytes: int
    max_categories: int
    max_items: int
    max_events: int
    max_top_k: int
    max_message_bytes: int
    max_streams: int
    min_ping_s: float
    def __init__(self, max_id_len: _Optional[int] = ..., max_text_len: _Optional[int] = ..., max_text_bytes: _Optional[int] = ..., max_categories: _Optional[int] = ..., max_items: _Optional[int] = ..., max_events: _Optional[int] = ..., max_top_k: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_streams: _Optional[int] = ..., min_ping_s: _Optional[float] = ...) -> None: ...

class StatsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatsResponse(_message.Message):
    __slots__ = ("num_items", "num_users", "num_requests", "num_failed", "num_compilations", "num_hits", "num_misses", "num_evictions", "pages_total", "pages_used", "pool_bytes", "tokens", "slices", "policy", "num_decisions", "num_retries", "imbalance", "num_replica_hits", "num_fetched", "num_from_host", "num_from_disk", "fetched_bytes", "from_host_bytes", "from_disk_bytes", "spilled_bytes", "host_bytes_used", "disk_bytes_used", "num_corrupt")
    NUM_ITEMS_FIELD_NUMBER: _ClassVar[int]
    NUM_USERS_FIELD_NUMBER: _ClassVar[int]
    NUM_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    NUM_FAILED_FIELD_NUMBER: _ClassVar[int]
    NUM_COMPILATIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_HITS_FIELD_NUMBER: _ClassVar[int]
    NUM_MISSES_FIELD_NUMBER: _ClassVar[int]
    NUM_EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    PAGES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PAGES_USED_FIELD_NUMBER: _ClassVar[int]
    POOL_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    NUM_DECISIONS_FIELD_NUMBER: _ClassVar[int]
    NUM_RETRIES_FIELD_NUMBER: _ClassVar[int]
    IMBALANCE_FIELD_NUMBER: _ClassVar[int]
    NUM_REPLICA_HITS_FIELD_NUMBER: _ClassVar[int]
    NUM_FETCHED_FIELD_NUMBER: _ClassVar[int]
    NUM_FROM_HOST_FIELD_NUMBER: _ClassVar[int]
    NUM_FROM_DISK_FIELD_NUMBER: _ClassVar[int]
    FETCHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    FROM_HOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    FROM_DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    SPILLED_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOST_BYTES_USED_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_USED_FIELD_NUMBER: _ClassVar[int]
    NUM_CORRUPT_FIELD_NUMBER: _ClassVar[int]
    num_items: int
    num_users: int
    num_requests: int
    num_failed: int
    num_compilations: int
    num_hits: int
    num_misses: int
    num_evictions: int
    pages_total: int
    pages_used: int
    pool_bytes: int
    tokens: TokenCounts
    slices: _containers.RepeatedCompositeFieldContainer[SliceStats]
    policy: str
    num_decisions: int
    num_retries: int
    imbalance: float
    num_replica_hits: int
    num_fetched: int
    num_from_host: int
    num_from_disk: int
    fetched_bytes: int
    from_host_bytes: int
    from_disk_bytes: int
    spilled_bytes: int
    host_bytes_used: int
    disk_bytes_used: int
    num_corrupt: int
    def __init__(self, num_items: _Optional[int] = ..., num_users: _Optional[int] = ..., num_requests: _Optional[int] = ..., num_failed: _Optional[int] = ..., num_compilations: _Optional[int] = ..., num_hits: _Optional[int] = ..., num_misses: _Optional[int] = ..., num_evictions: _Optional[int] = ..., pages_total: _Optional[int] = ..., pages_used: _Optional[int] = ..., pool_bytes: _Optional[int] = ..., tokens: _Optional[_Union[TokenCounts, _Mapping]] = ..., slices: _Optional[_Iterable[_Union[SliceStats, _Mapping]]] = ..., policy: _Optional[str] = ..., num_decisions: _Optional[int] = ..., num_retries: _Optional[int] = ..., imbalance: _Optional[float] = ..., num_replica_hits: _Optional[int] = ..., num_fetched: _Optional[int] = ..., num_from_host: _Optional[int] = ..., num_from_disk: _Optional[int] = ..., fetched_bytes: _Optional[int] = ..., from_host_bytes: _Optional[int] = ..., from_disk_bytes: _Optional[int] = ..., spilled_bytes: _Optional[int] = ..., host_bytes_used: _Optional[int] = ..., disk_bytes_used: _Optional[int] = ..., num_corrupt: _Optional[int] = ...) -> None: ...

class SliceStats(_message.Message):
    __slots__ = ("state", "queue_s", "num_under_way", "num_requests", "num_hits", "num_misses", "num_evictions", "pages_total", "pages_used", "num_replica_hits", "num_fetched", "num_from_host", "num_from_disk", "fetched_bytes", "from_host_bytes", "from_disk_bytes", "lent_bytes", "spilled_bytes")
    STATE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_S_FIELD_NUMBER: _ClassVar[int]
    NUM_UNDER_WAY_FIELD_NUMBER: _ClassVar[int]
    NUM_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    NUM_HITS_FIELD_NUMBER: _ClassVar[int]
    NUM_MISSES_FIELD_NUMBER: _ClassVar[int]
    NUM_EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    PAGES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    PAGES_USED_FIELD_NUMBER: _ClassVar[int]
    NUM_REPLICA_HITS_FIELD_NUMBER: _ClassVar[int]
    NUM_FETCHED_FIELD_NUMBER: _ClassVar[int]
    NUM_FROM_HOST_FIELD_NUMBER: _ClassVar[int]
    NUM_FROM_DISK_FIELD_NUMBER: _ClassVar[int]
    FETCHED_BYTES_FIELD_NUMBER: _ClassVar[int]
    FROM_HOST_BYTES_FIELD_NUMBER: _ClassVar[int]
    FROM_DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    LENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SPILLED_BYTES_FIELD_NUMBER: _ClassVar[int]
    state: str
    queue_s: float
    num_under_way: int
    num_requests: int
    num_hits: int
    num_misses: int
    num_evictions: int
    pages_total: int
    pages_used: int
    num_replica_hits: int
    num_fetched: int
    num_from_host: int
    num_from_disk: int
    fetched_bytes: int
    from_host_bytes: int
    from_disk_bytes: int
    lent_bytes: int
    spilled_bytes: int
    def __init__(self, state: _Optional[str] = ..., queue_s: _Optional[float] = ..., num_under_way: _Optional[int] = ..., num_requests: _Optional[int] = ..., num_hits: _Optional[int] = ..., num_misses: _Optional[int] = ..., num_evictions: _Optional[int] = ..., pages_total: _Optional[int] = ..., pages_used: _Optional[int] = ..., num_replica_hits: _Optional[int] = ..., num_fetched: _Optional[int] = ..., num_from_host: _Optional[int] = ..., num_from_disk: _Optional[int] = ..., fetched_bytes: _Optional[int] = ..., from_host_bytes: _Optional[int] = ..., from_disk_bytes: _Optional[int] = ..., lent_bytes: _Optional[int] = ..., spilled_bytes: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("slice_index",)
    SLICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    slice_index: int
    def __init__(self, slice_index: _Optional[int] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UndrainRequest(_message.Message):
    __slots__ = ("slice_index",)
    SLICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    slice_index: int
    def __init__(self, slice_index: _Optional[int] = ...) -> None: ...

class UndrainResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RebalanceRequest(_message.Message):
    __slots__ = ("placement_file",)
    PLACEMENT_FILE_FIELD_NUMBER: _ClassVar[int]
    placement_file: str
    def __init__(self, placement_file: _Optional[str] = ...) -> None: ...

class RebalanceResponse(_message.Message):
    __slots__ = ("num_arriving", "num_built", "num_leaving")
    NUM_ARRIVING_FIELD_NUMBER: _ClassVar[int]
    NUM_BUILT_FIELD_NUMBER: _ClassVar[int]
    NUM_LEAVING_FIELD_NUMBER: _ClassVar[int]
    num_arriving: int
    num_built: int
    num_leaving: int
    def __init__(self, num_arriving: _Optional[int] = ..., num_built: _Optional[int] = ..., num_leaving: _Optional[int] = ...) -> None: ...

class SaveRequestLogRequest(_message.Message):
    __slots__ = ("file",)
    FILE_FIELD_NUMBER: _ClassVar[int]
    file: str
    def __init__(self, file: _Optional[str] = ...) -> None: ...

class SaveRequestLogResponse(_message.Message):
    __slots__ = ("num_requests",)
    NUM_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    num_requests: int
    def __init__(self, num_requests: _Optional[int] = ...) -> None: ...

class RecommendStreamRequest(_message.Message):
    __slots__ = ("request_id", "request", "timeout_s")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    request: RecommendRequest
    timeout_s: float
    def __init__(self, request_id: _Optional[str] = ..., request: _Optional[_Union[RecommendRequest, _Mapping]] = ..., timeout_s: _Optional[float] = ...) -> None: ...

class RecommendStreamResponse(_message.Message):
    __slots__ = ("index", "request_id", "response", "error")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    index: int
    request_id: str
    response: RecommendResponse
    error: _status_pb2.Status
    def __init__(self, index: _Optional[int] = ..., request_id: _Optional[str] = ..., response: _Optional[_Union[RecommendResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("text", "request", "max_new_tokens", "temperature", "seed")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    text: str
    request: RecommendRequest
    max_new_tokens: int
    temperature: float
    seed: int
    def __init__(self, text: _Optional[str] = ..., request: _Optional[_Union[RecommendRequest, _Mapping]] = ..., max_new_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., seed: _Optional[int] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("piece", "end")
    PIECE_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    piece: GeneratedPiece
    end: GenerateEnd
    def __init__(self, piece: _Optional[_Union[GeneratedPiece, _Mapping]] = ..., end: _Optional[_Union[GenerateEnd, _Mapping]] = ...) -> None: ...

class GeneratedPiece(_message.Message):
    __slots__ = ("token_ids", "text")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    text: str
    def __init__(self, token_ids: _Optional[_Iterable[int]] = ..., text: _Optional[str] = ...) -> None: ...

class GenerateEnd(_message.Message):
    __slots__ = ("finish_reason", "num_new_tokens", "tokens", "ttft_ms", "total_ms", "slice_index")
    class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FINISH_REASON_UNSPECIFIED: _ClassVar[GenerateEnd.FinishReason]
        STOP: _ClassVar[GenerateEnd.FinishReason]
        LENGTH: _ClassVar[GenerateEnd.FinishReason]
    FINISH_REASON_UNSPECIFIED: GenerateEnd.FinishReason
    STOP: GenerateEnd.FinishReason
    LENGTH: GenerateEnd.FinishReason
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    NUM_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    SLICE_INDEX_FIELD_NUMBER: _ClassVar[int]
    finish_reason: GenerateEnd.FinishReason
    num_new_tokens: int
    tokens: TokenCounts
    ttft_ms: float
    total_ms: float
    slice_index: int
    def __init__(self, finish_reason: _Optional[_Union[GenerateEnd.FinishReason, str]] = ..., num_new_tokens: _Optional[int] = ..., tokens: _Optional[_Union[TokenCounts, _Mapping]] = ..., ttft_ms: _Optional[float] = ..., total_ms: _Optional[float] = ..., slice_index: _Optional[int] = ...) -> None: ...

class PutItemsStreamRequest(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Item]
    def __init__(self, items: _Optional[_Iterable[_Union[Item, _Mapping]]] = ...) -> None: ...

class PutItemsStreamResponse(_message.Message):
    __slots__ = ("chunk_index", "put", "error", "num_items", "num_failed")
    CHUNK_INDEX_FIELD_NUMBER: _ClassVar[int]
    PUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    NUM_ITEMS_FIELD_NUMBER: _ClassVar[int]
    NUM_FAILED_FIELD_NUMBER: _ClassVar[int]
    chunk_index: int
    put: PutItemsResponse
    error: _status_pb2.Status
    num_items: int
    num_failed: int
    def __init__(self, chunk_index: _Optional[int] = ..., put: _Optional[_Union[PutItemsResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., num_items: _Optional[int] = ..., num_failed: _Optional[int] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SnapshotResponse(_message.Message):
    __slots__ = ("number", "num_blocks", "num_bytes", "num_written", "written_bytes", "num_items", "num_users", "took_s")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_WRITTEN_FIELD_NUMBER: _ClassVar[int]
    WRITTEN_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_ITEMS_FIELD_NUMBER: _ClassVar[int]
    NUM_USERS_FIELD_NUMBER: _ClassVar[int]
    TOOK_S_FIELD_NUMBER: _ClassVar[int]
    number: int
    num_blocks: int
    num_bytes: int
    num_written: int
    written_bytes: int
    num_items: int
    num_users: int
    took_s: float
    def __init__(self, number: _Optional[int] = ..., num_blocks: _Optional[int] = ..., num_bytes: _Optional[int] = ..., num_written: _Optional[int] = ..., written_bytes: _Optional[int] = ..., num_items: _Optional[int] = ..., num_users: _Optional[int] = ..., took_s: _Optional[float] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class RestoreResponse(_message.Message):
    __slots__ = ("number", "num_blocks", "num_bytes", "num_skipped", "num_present", "num_corrupt", "num_items", "num_users", "took_s")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NUM_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_SKIPPED_FIELD_NUMBER: _ClassVar[int]
    NUM_PRESENT_FIELD_NUMBER: _ClassVar[int]
    NUM_CORRUPT_FIELD_NUMBER: _ClassVar[int]
    NUM_ITEMS_FIELD_NUMBER: _ClassVar[int]
    NUM_USERS_FIELD_NUMBER: _ClassVar[int]
    TOOK_S_FIELD_NUMBER: _ClassVar[int]
    number: int
    num_blocks: int
    num_bytes: int
    num_skipped: int
    num_present: int
    num_corrupt: int
    num_items: int
    num_users: int
    took_s: float
    def __init__(self, number: _Optional[int] = ..., num_blocks: _Optional[int] = ..., num_bytes: _Optional[int] = ..., num_skipped: _Optional[int] = ..., num_present: _Optional[int] = ..., num_corrupt: _Optional[int] = ..., num_items: _Optional[int] = ..., num_users: _Optional[int] = ..., took_s: _Optional[float] = ...) -> None: ...
