"""Who holds a pool's pages: how many each kind of block has, and how they change hands."""

from collections import Counter
from collections.abc import Callable

from rcjax.cache.blocks import CachedBlock
from rcjax.cache.held import HeldBlocks
from rcjax.cache.pages import PagePool
from rcjax.cache.ready import ReadyBlocks
from rcjax.errors import ResourceExhaustedError


class PageAccounts:
    """Gives a pool's pages to blocks and takes them back, evicting ready blocks where too few are free.

    `on_evict` is called with the key of each block that loses its place among the ready ones here. `last_look`, where
    set, is called with each that is about to be evicted, its pages still its own.
    """

    def __init__(self, pool: PagePool, ready: ReadyBlocks, held: HeldBlocks, on_evict: Callable[[bytes], None]):
        self._pool = pool
        self._ready = ready
        self._held = held
        self._on_evict = on_evict
        self.by_kind: Counter[str] = Counter()  # a running sum, as all that reporting and admission ask for
        self.num_evictions = 0
        self.last_look: Callable[[CachedBlock], None] | None = None

    @property
    def num_available(self) -> int:
        """Free pages and those of evictable blocks."""
        return self._pool.num_free + self._ready.num_evictable_pages

    def take(self, num: int, kind: str) -> tuple[int, ...]:
        """Pages for a block of that kind; `ResourceExhaustedError`, with nothing evicted, where there are too few."""
        pool, ready, by_kind = self._pool, self._ready, self.by_kind
        if num > pool.num_free + ready.num_evictable_pages:
            raise ResourceExhaustedError(
                f"{num} pages wanted; {pool.num_free} free and {ready.num_evictable_pages} evictable of "
                f"{pool.capacity_pages}, the others are in use; retry later or enlarge the pool"
            )
        while pool.num_free < num:
            evicted, evicted_kind, num_evicted = ready.evict(self.last_look)
            by_kind[evicted_kind] -= num_evicted
            self.num_evictions += 1
            self._on_evict(evicted)
        by_kind[kind] += num
        return pool.allocate(num)

    def take_over(self, block: CachedBlock, num: int) -> tuple[int, ...]:
        """`num` pages that start with those of a ready block that one reader has pinned, who gives it up for them.

        The block is retired, without pages or pins. Raises as `take` does, with nothing changed.
        """
        more = self.take(num - len(block.pages), block.kind)
        self._ready.remove(block.slot)
        pages = block.pages + more
        self._pool.link(pages)
        block.pins, block.pages = 0, ()
        self._on_evict(block.key)
        return pages

    def retire(self, slot: int) -> None:
        """Makes a ready block unfindable, and frees it if nobody reads it."""
        block = self._ready.remove(slot)
        if block.pins:
            self._held.add_retired(block)
        else:
            self.free(block)
        self._on_evict(block.key)

    def trim_replicas(self) -> None:
        """Retires the replicas, used longest ago first, that are one too many."""
        while (slot := self._ready.replicas.surplus) is not None:
            self.retire(slot)
            self.num_evictions += 1

    def free(self, block: CachedBlock) -> None:
        """Gives a retired block's pages back."""
        self.by_kind[block.kind] -= len(block.pages)
        self._pool.free(block.pages)
        block.pages = ()
