"""Whether a directory's books agree: the whole at once, or a few blocks at a time between other work."""

from collections import Counter
from collections.abc import Callable

from rcjax.cache.accounts import PageAccounts
from rcjax.cache.errors import IntegrityError
from rcjax.cache.held import HeldBlocks
from rcjax.cache.pages import PagePool
from rcjax.cache.ready import ReadyBlocks

_STEP_SLOTS = 16
_STEP_PAGES = 2**15


class IntegrityCheck:
    """Rounds over all slots and pages of a directory, which may change between any two steps.

    What a step looks at is whole at that moment: one block with all that knows of it, or the sums over all blocks.
    Nothing is carried from step to step but the place, so changes in between cannot look like faults. That no page is
    in two blocks follows block by block: the last of its pages names the block.
    """

    def __init__(self, pool: PagePool, ready: ReadyBlocks, held: HeldBlocks, accounts: PageAccounts):
        self._pool = pool
        self._ready = ready
        self._held = held
        self._accounts = accounts
        self._slot = 0
        self._page = 1
        self._sum = 0
        self._sums = (self._check_held, ready.check_counts, pool.check_counts, self._check_pages)

    def run(self, budget_s: float, clock: Callable[[], float]) -> bool:
        """Goes on for about `budget_s`, at least one step; whether a round has ended.

        Raises `IntegrityError` where the books do not add up.
        """
        until = clock() + budget_s
        while True:
            if self._step():
                return True
            if clock() >= until:
                return False

    def run_whole(self) -> None:
        """A round from start to end, and the list of free pages."""
        self._slot, self._page, self._sum = 0, 1, 0
        while not self._step():
            pass
        self._pool.check_integrity()

    def _step(self) -> bool:
        num_slots, num_pages = self._ready.columns.num_slots, self._pool.num_pages
        if self._slot < num_slots:
            end = min(self._slot + _STEP_SLOTS, num_slots)
            for slot in range(self._slot, end):
                self._ready.check_slot(slot)
            self._slot = end
        elif self._page < num_pages:
            end = min(self._page + _STEP_PAGES, num_pages)
            self._pool.check_links(self._page, end)
            self._page = end
        else:
            self._sums[self._sum]()
            self._sum += 1
            if self._sum == len(self._sums):
                self._slot, self._page, self._sum = 0, 1, 0
                return True
        return False

    def _check_held(self) -> None:
        self._held.check_integrity(self._pool)

    def _check_pages(self) -> None:
        by_kind: Counter[str] = Counter(self._ready.columns.count_pages_by_kind(self._pool.page_tokens))
        num_ready = by_kind.total()
        for block in self._held:
            by_kind[block.kind] += len(block.pages)
        if +by_kind != +self._accounts.by_kind:
            raise IntegrityError(f"pages are miscounted: {self._accounts.by_kind} should be {+by_kind}")
        if by_kind.total() != self._pool.num_used:
            raise IntegrityError(f"{self._pool.num_used} pages are used, {by_kind.total()} of them by blocks")
        num_evictable = num_ready - self._ready.num_pinned_pages
        if num_evictable != self._ready.num_evictable_pages:
            raise IntegrityError(f"{num_evictable} pages are evictable, not {self._ready.num_evictable_pages}")
