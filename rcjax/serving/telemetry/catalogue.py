"""Every metric that a server exports; docs/operations.md says what to do about each."""

from rcjax.serving.telemetry.metric import Metric

READY = Metric("rcjax_ready", "gauge", "Whether the engine is there: 1, or 0 while it starts and once it is lost.")
ENGINE_INFO = Metric(
    "rcjax_engine_info", "gauge", "What is served; always 1.", ("version", "model", "template", "dtype", "device")
)
COMPILATIONS = Metric("rcjax_compilations_total", "counter", "Programs compiled after warm-up.")
ITEMS = Metric("rcjax_items", "gauge", "Items in the library.")
USERS = Metric("rcjax_users", "gauge", "Users in the library.")
RETRIES = Metric("rcjax_retries_total", "counter", "Requests given to another slice, as theirs had died.")
IMBALANCE = Metric(
    "rcjax_imbalance_ratio", "gauge", "The most seconds of work that a living slice was given, over their mean."
)

RPCS = Metric("rcjax_rpcs_total", "counter", "RPCs that ended, by gRPC status.", ("method", "code"))
RPC_SECONDS = Metric("rcjax_rpc_duration_seconds", "histogram", "From an RPC's start to its end.", ("method",))
RPCS_UNDER_WAY = Metric("rcjax_rpcs_under_way", "gauge", "RPCs that have not ended.", ("method",))

REQUESTS = Metric("rcjax_requests_total", "counter", "Requests that were let in and answered.", ("code",))
REQUEST_SECONDS = Metric(
    "rcjax_request_duration_seconds", "histogram", "From a request's arrival to its answer.", ("code",)
)
TTFT = Metric("rcjax_request_ttft_seconds", "histogram", "From arrival to the first ranked item.", ("arm",))
STAGE_SECONDS = Metric("rcjax_request_stage_seconds", "histogram", "Where a request's time went.", ("arm", "stage"))
REJECTIONS = Metric("rcjax_rejections_total", "counter", "Requests that were not let in, by reason.", ("reason",))
WAITING = Metric("rcjax_requests_waiting", "gauge", "Requests that were let in and wait for a planner or a slice.")
BACKLOG = Metric("rcjax_backlog_seconds", "gauge", "Seconds that slices need for all requests that were let in.")

PROMPT_TOKENS = Metric(
    "rcjax_prompt_tokens_total", "counter", "Tokens of answered prompts, by kind of block.", ("kind", "source")
)
MISSED_TOKENS = Metric(
    "rcjax_missed_tokens_total", "counter", "Tokens of blocks that a request missed, by origin.", ("kind", "origin")
)
PROBED_TOKENS = Metric("rcjax_probed_tokens_total", "counter", "Tokens computed by the probes of selection.")
SEMANTIC_TOKENS = Metric("rcjax_semantic_tokens_total", "counter", "Cached tokens borrowed from other histories.")

PASS_SECONDS = Metric("rcjax_pass_seconds", "histogram", "Seconds of a pass on the device.", ("purpose",))
PASS_ROWS = Metric("rcjax_pass_rows", "histogram", "Rows of a pass that were used: its batch.", ("purpose",))
PASS_PADDING = Metric(
    "rcjax_pass_padding_ratio", "histogram", "Share of a pass's tokens that were padding.", ("purpose",)
)
PASS_TOKENS = Metric("rcjax_pass_tokens_total", "counter", "Tokens that passes computed.", ("purpose", "use"))
BUSY_SECONDS = Metric(
    "rcjax_slice_busy_seconds_total", "counter", "Seconds that a slice ran passes.", ("slice", "purpose")
)

SLICE_STATE = Metric("rcjax_slice_state", "gauge", "1 for the state that a slice is in.", ("slice", "state"))
SLICE_QUEUE = Metric(
    "rcjax_slice_queue_seconds", "gauge", "Seconds until a slice starts on a request that it gets now.", ("slice",)
)
SLICE_UNDER_WAY = Metric("rcjax_slice_requests_under_way", "gauge", "Requests that a slice has.", ("slice",))
SLICE_REQUESTS = Metric("rcjax_slice_requests_total", "counter", "Requests that a slice was given.", ("slice",))
LOOKUPS = Metric("rcjax_block_lookups_total", "counter", "Blocks wanted, by where they were.", ("slice", "tier"))
EVICTIONS = Metric("rcjax_evictions_total", "counter", "Blocks that made room in a pool.", ("slice",))
NOT_SPILLED = Metric(
    "rcjax_blocks_not_spilled_total", "counter", "Evicted blocks that no tier took, for want of time.", ("slice",)
)
MOVED_BYTES = Metric("rcjax_moved_bytes_total", "counter", "Bytes of KV that were moved.", ("slice", "path"))
POOL_PAGES = Metric("rcjax_pool_pages", "gauge", "Pages of a slice's pool.", ("slice",))
POOL_PAGES_USED = Metric("rcjax_pool_pages_used", "gauge", "Pages of a slice's pool that hold blocks.", ("slice",))
POOL_BYTES = Metric("rcjax_pool_bytes", "gauge", "Bytes of a slice's pool.", ("slice",))
TIER_BYTES = Metric("rcjax_tier_bytes", "gauge", "Bytes that a tier holds.", ("tier",))
CORRUPT = Metric("rcjax_corrupt_blocks_total", "counter", "Blocks whose kept KV was damaged.", ("where",))

SNAPSHOTS = Metric("rcjax_snapshots_total", "counter", "Snapshots taken.")
SNAPSHOT_FAILURES = Metric("rcjax_snapshot_failures_total", "counter", "Snapshots that could not be taken.")
SNAPSHOT_TIME = Metric("rcjax_snapshot_timestamp_seconds", "gauge", "When the last snapshot was there, since 1970.")
SNAPSHOT_SECONDS = Metric("rcjax_snapshot_duration_seconds", "gauge", "What the last snapshot took.")
SNAPSHOT_BYTES = Metric("rcjax_snapshot_bytes", "gauge", "KV in the last snapshot, and what of it was new.", ("part",))
RESTORED = Metric("rcjax_restored_blocks_total", "counter", "Blocks that snapshots gave back.")

OF_RPCS = (RPCS, RPC_SECONDS, RPCS_UNDER_WAY)
OF_REQUESTS = (REQUESTS, REQUEST_SECONDS, TTFT, STAGE_SECONDS, REJECTIONS, WAITING, BACKLOG)
OF_TOKENS = (PROMPT_TOKENS, MISSED_TOKENS, PROBED_TOKENS, SEMANTIC_TOKENS)
OF_PASSES = (PASS_SECONDS, PASS_ROWS, PASS_PADDING, PASS_TOKENS, BUSY_SECONDS)
OF_SLICES = (SLICE_STATE, SLICE_QUEUE, SLICE_UNDER_WAY, SLICE_REQUESTS)
OF_BLOCKS = (LOOKUPS, EVICTIONS, NOT_SPILLED, MOVED_BYTES, POOL_PAGES, POOL_PAGES_USED, POOL_BYTES, TIER_BYTES, CORRUPT)
OF_SNAPSHOTS = (SNAPSHOTS, SNAPSHOT_FAILURES, SNAPSHOT_TIME, SNAPSHOT_SECONDS, SNAPSHOT_BYTES, RESTORED)
OF_ENGINE = (READY, ENGINE_INFO, COMPILATIONS, ITEMS, USERS, RETRIES, IMBALANCE)
METRICS = (*OF_ENGINE, *OF_RPCS, *OF_REQUESTS, *OF_TOKENS, *OF_PASSES, *OF_SLICES, *OF_BLOCKS, *OF_SNAPSHOTS)
