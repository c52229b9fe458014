"""What a slice counts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rcjax.engine.block_cache import BlockCache
from rcjax.engine.origin import Origin
from rcjax.engine.pass_tally import PassCounts, PassTally
from rcjax.engine.token_tally import Tokens, TokenTally


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """Counters since start-up and gauges of now, of one slice.

    Of `num_hits` blocks, `num_replica_hits` had been copied from another slice before, the others are local. Of
    `num_misses`, `num_fetched` came from another slice, `num_from_host` and `num_from_disk` from tiers, and the others
    were computed.
    `num_not_spilled` were evicted and not kept, as too many others were just being copied to the host. `num_computed`
    are the blocks that were computed, whoever wanted them. `passes` are by purpose, the tokens as in `TokenTally`.
    """

    num_hits: int
    num_misses: int
    num_evictions: int
    pages_total: int
    pages_used: int
    pool_bytes: int
    num_local_hits: int
    num_computed: int
    passes: Mapping[str, PassCounts]
    prompt_tokens: Tokens
    missed_tokens: Tokens
    num_replica_hits: int = 0
    num_fetched: int = 0
    num_from_host: int = 0
    num_from_disk: int = 0
    num_not_spilled: int = 0
    fetched_bytes: int = 0
    from_host_bytes: int = 0
    from_disk_bytes: int = 0
    lent_bytes: int = 0
    spilled_bytes: int = 0

    @classmethod
    def nothing(cls) -> "WorkerStats":
        """Of a slice of which nothing has been heard."""
        return cls(0, 0, 0, 0, 0, 0, 0, 0, {}, {}, {})

    @classmethod
    def of(cls, cache: BlockCache, passes: PassTally, tokens: TokenTally) -> "WorkerStats":
        directory = cache.directory
        stats = cls(
            num_hits=cache.num_hits,
            num_misses=cache.num_misses,
            num_evictions=directory.num_evictions,
            pages_total=directory.pool.capacity_pages,
            pages_used=directory.pool.num_used,
            pool_bytes=cache.executor.pool_bytes,
            num_local_hits=cache.num_local_hits,
            num_computed=cache.num_computed,
            passes=passes.read(),
            prompt_tokens=tokens.prompt,
            missed_tokens=tokens.missed,
        )
        fetches, spilling = cache.fetches, cache.spilling
        if fetches is None:
            return stats
        page_bytes = cache.executor.format.page_bytes
        return replace(
            stats,
            num_replica_hits=cache.num_replica_hits,
            num_fetched=fetches.num_blocks[Origin.SLICE],
            num_from_host=fetches.num_blocks[Origin.HOST],
            num_from_disk=fetches.num_blocks[Origin.DISK],
            num_not_spilled=0 if spilling is None else spilling.num_skipped,
            fetched_bytes=page_bytes * fetches.num_pages[Origin.SLICE],
            from_host_bytes=page_bytes * fetches.num_pages[Origin.HOST],
            from_disk_bytes=page_bytes * fetches.num_pages[Origin.DISK],
            lent_bytes=page_bytes * cache.num_lent_pages,
            spilled_bytes=0 if spilling is None else page_bytes * spilling.num_pages,
        )
