"""What a block directory tells of itself: its gauges and counters, and whether its books agree."""

from collections.abc import Callable

from rcjax.cache.accounts import PageAccounts
from rcjax.cache.blocks import CachedBlock, ListedBlock, PoolStats
from rcjax.cache.held import HeldBlocks
from rcjax.cache.integrity import IntegrityCheck
from rcjax.cache.pages import PagePool
from rcjax.cache.ready import ReadyBlocks


class DirectoryReport:
    """The part of `BlockDirectory` that only looks."""

    pool: PagePool
    num_hits: int
    num_misses: int
    num_collisions: int
    _ready: ReadyBlocks
    _held: HeldBlocks
    _accounts: PageAccounts
    _check: IntegrityCheck

    @property
    def num_evictions(self) -> int:
        return self._accounts.num_evictions

    def stats(self) -> PoolStats:
        """O(kinds), whatever the number of blocks."""
        columns = self._ready.columns
        return PoolStats(
            num_blocks=dict(+columns.num_blocks_by_kind),
            num_tokens=columns.num_tokens_in_all,
            pages_total=self.pool.capacity_pages,
            pages_used=self.pool.num_used,
            pages_pinned=self.pool.num_used - self._ready.num_evictable_pages,  # what is not evictable is pinned
            num_hits=self.num_hits,
            num_misses=self.num_misses,
            num_evictions=self._accounts.num_evictions,
            num_collisions=self.num_collisions,
        )

    def list_slots(self, start: int, stop: int) -> list[ListedBlock] | None:
        """The ready blocks in these slots; None where `start` is beyond the last one.

        For lists that are made a part at a time: a block that moves in between may be left out, or be named twice.
        """
        return self._ready.listed(start, stop) if start < self._ready.columns.num_slots else None

    def by_key(self, key: bytes) -> CachedBlock | None:
        """The ready block of that key, whatever its tokens; counts neither as a use nor as a miss."""
        slot = self._ready.columns.find(key)
        return None if slot < 0 else self._ready.handle(slot)

    def is_known(self, key: bytes) -> bool:
        """Whether the block of that key is ready or pending, so that it cannot be reserved."""
        return self._held.find(key) is not None or self._ready.columns.find(key) >= 0

    def pages_used_by_kind(self) -> dict[str, int]:
        """Pages held by kind, whatever the blocks' state; they add up to the pool's used pages."""
        return dict(+self._accounts.by_kind)

    def check_integrity(self) -> None:
        """Raises `IntegrityError` where the books do not add up; O(pages), for tests."""
        self._check.run_whole()

    def check_integrity_within(self, budget_s: float, clock: Callable[[], float]) -> bool:
        """The same a part at a time, for idle times; whether a round over everything has ended.

        Takes about `budget_s` and goes on next time where it stopped, whatever has changed in between.
        """
        return self._check.run(budget_s, clock)
