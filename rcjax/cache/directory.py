"""The block directory: which blocks one pool holds, in which pages, and who is reading them."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
from jaxtyping import Int32

from rcjax.cache.blocks import SCRATCH, BlockState, CachedBlock, PoolStats
from rcjax.cache.errors import BlockBusyError, IntegrityError
from rcjax.cache.eviction import EvictionPolicy
from rcjax.cache.index import BlockIndex
from rcjax.cache.integrity import recount_pages
from rcjax.cache.keys import TokenIds, as_token_ids
from rcjax.cache.pages import PagePool
from rcjax.errors import ResourceExhaustedError


class BlockDirectory:
    """Finds, reserves, pins and evicts the blocks of one page pool. Used from one thread.

    A block's life: `reserve` (pending, pinned by its reserver) -> compute its KV -> `commit` (ready: can be
    found) or `abort`; then `unpin`. A ready block without pins can be evicted by any later `reserve` or
    `grow`: pin what `lookup` returns before reserving anything else. At most one block per (kind, owner) is
    ready: owners whose blocks shall live side by side need different names.

    `pool` and `policy` belong to the directory: nothing else may allocate from the one or add to the other.
    """

    def __init__(self, pool: PagePool, policy: EvictionPolicy):
        self.pool = pool
        self._policy = policy
        self._index = BlockIndex()
        # Running sums, so that stats() and an admission check cost nothing; check_integrity() recounts them.
        self._evictable_pages = 0
        self._pages_by_kind: Counter[str] = Counter()
        self._num_hits = 0
        self._num_misses = 0
        self._num_collisions = 0
        self._num_evictions = 0

    # ---- finding

    def lookup(self, key: bytes, token_ids: TokenIds) -> CachedBlock | None:
        """The ready block of that key and those tokens, noting the use; None counts as a miss.

        The key discovers, the tokens verify. A block whose key matches and whose tokens do not is never a
        hit: it counts as a miss and as a collision, and stays. `reserve` refuses that key for as long as it
        does, so the tokens in question can be computed fresh but not cached.
        """
        block = self._index.find(key)
        if block is None or block.state is not BlockState.READY:
            self._num_misses += 1
            return None
        if not np.array_equal(block.token_ids, token_ids):
            self._num_misses += 1
            self._num_collisions += 1
            return None
        self._num_hits += 1
        if not block.pins:
            self._policy.touch(key)
        return block

    def current(self, kind: str, owner: str) -> CachedBlock | None:
        """The ready block of an item or user, whatever its content; counts neither as a use nor as a miss."""
        return self._index.current(kind, owner)

    def ready_blocks(self) -> Iterator[CachedBlock]:
        """Every ready block, oldest first; commit, drop, grow and evict nothing while iterating."""
        return self._index.ready_blocks()

    # ---- building

    @property
    def num_available_pages(self) -> int:
        """Pages that a `reserve` could get now: free ones and those of evictable blocks."""
        return self.pool.num_free + self._evictable_pages

    def reserve(self, key: bytes, kind: str, owner: str, token_ids: TokenIds, cost: float) -> CachedBlock:
        """Gives a new block its pages, evicting others as needed; it is pending, and pinned by the caller.

        `cost` divided by the number of pages is what eviction weighs the block with. Pages may hold what
        others left in them. Raises `ResourceExhaustedError`, with nothing evicted, where even evicting all
        that can be evicted would not do; ValueError where the key is pending or ready already.
        """
        ids = self._checked(key, kind, token_ids, cost)
        pages = self._take_pages(self.pool.pages_for(len(ids)), kind)
        block = CachedBlock(key, kind, owner, ids, pages, cost)
        self._index.add_pending(block)
        return block

    def grow(self, block: CachedBlock, key: bytes, token_ids: TokenIds, cost: float) -> CachedBlock:
        """Turns a ready block that the caller alone has pinned into a pending longer one, in the same pages.

        `token_ids` starts with the block's own, whose KV stays where it is; only missing pages are allocated.
        The caller's pin moves to the result, and `block` is retired, without pages or pins. `abort` of the
        result frees everything: the old KV is not brought back. Raises `BlockBusyError` where others have
        `block` pinned, otherwise as `reserve` does; after an error nothing has changed.
        """
        if block.state is not BlockState.READY or not block.pins:
            raise ValueError(f"only a ready block pinned by the caller can grow: {block.state=!s} {block.pins=}")
        if block.pins > 1:
            raise BlockBusyError(f"{block.kind} block of {block.owner!r} has {block.pins - 1} other readers")
        ids = self._checked(key, block.kind, token_ids, cost)
        if len(ids) <= block.num_tokens or not np.array_equal(ids[: block.num_tokens], block.token_ids):
            raise ValueError(f"the {len(ids)} token ids must start with the block's {block.num_tokens} and add some")
        more = self._take_pages(self.pool.pages_for(len(ids)) - len(block.pages), block.kind)
        grown = CachedBlock(key, block.kind, block.owner, ids, block.pages + more, cost)
        self._index.ready_to_retired(block)
        self._index.forget(block)
        block.pins, block.pages = 0, ()
        self._index.add_pending(grown)
        return grown

    def commit(self, block: CachedBlock) -> None:
        """Makes a pending block ready, its KV being written; the reserver's pin stays.

        The former ready block of its (kind, owner) is retired, and pending ones reserved earlier can no
        longer become ready: the newest reservation wins. A block that was itself overtaken or dropped
        meanwhile is retired at once: its pins may read it, nobody can find it.
        """
        if block.kind == SCRATCH:
            raise ValueError("a scratch block cannot be committed; release it")
        self._require_pending(block)
        if block.superseded:
            self._index.pending_to_retired(block)
            return
        self._index.supersede(self._index.rivals(block.kind, block.owner, before=block))
        former = self._index.current(block.kind, block.owner)
        if former is not None:
            self._retire(former)
        self._index.pending_to_ready(block)

    def set_order(self, block: CachedBlock, order: TokenIds) -> None:
        """Stores with a block the order in which its tokens are worth correcting; ValueError if it is none of them."""
        offsets = as_token_ids(order)
        if not np.array_equal(np.sort(offsets), np.arange(block.num_tokens)):
            raise ValueError(f"the order of a block of {block.num_tokens} tokens must name each offset once: {order}")
        block.order = offsets

    def abort(self, block: CachedBlock) -> None:
        """Gives up a pending block and the reserver's pin; the pages are freed when no pin is left."""
        self._require_pending(block)
        self._index.pending_to_retired(block)
        self.unpin(block)

    def reserve_scratch(self, num_pages: int) -> CachedBlock:
        """Pages for a request's own use, such as decoding; nobody finds them, `release` gives them back."""
        if num_pages < 1:
            raise ValueError(f"{num_pages=} must be at least 1")
        pages = self._take_pages(num_pages, SCRATCH)
        block = CachedBlock(b"", SCRATCH, "", as_token_ids(()), pages, 0.0, superseded=True)
        self._index.add_pending(block)
        return block

    def release(self, block: CachedBlock) -> None:
        """Frees a scratch block; ValueError for another."""
        if block.kind != SCRATCH:
            raise ValueError(f"only scratch blocks are released, this one is {block.kind!r}; unpin or abort it")
        self.abort(block)

    def drop(self, kind: str, owner: str) -> bool:
        """Forgets an item or user, built or being built: unfindable at once; whether there was anything.

        Pages are freed when the last pin goes; a pending block cannot become ready any more.
        """
        pending = self._index.rivals(kind, owner)
        self._index.supersede(pending)
        current = self._index.current(kind, owner)
        if current is not None:
            self._retire(current)
        return current is not None or bool(pending)

    # ---- reading

    def pin(self, block: CachedBlock) -> None:
        """Keeps a block's pages from being freed until as many `unpin` calls."""
        if block.state is BlockState.RETIRED and not block.pins:
            raise ValueError(f"{block.kind} block of {block.owner!r} has been freed; look it up again")
        if not block.pins:
            self._policy.remove(block.key)
            self._evictable_pages -= len(block.pages)
        block.pins += 1

    def unpin(self, block: CachedBlock) -> None:
        """Takes a pin back; the last makes a ready block evictable, as just used, and frees a retired one."""
        if not block.pins:
            raise ValueError(f"{block.kind} block of {block.owner!r} is not pinned")
        if block.state is BlockState.PENDING and block.pins == 1:
            raise ValueError("the reserver's pin stays until commit or abort")
        block.pins -= 1
        if block.pins:
            return
        if block.state is BlockState.READY:
            self._policy.add(block.key, block.cost / len(block.pages))
            self._evictable_pages += len(block.pages)
        else:
            self._free(block)

    @contextmanager
    def pinned(self, blocks: Iterable[CachedBlock]) -> Iterator[None]:
        """Pins `blocks` (once for each time it occurs) for the length of a `with`, or none if one fails.

        A block pinned this way must not be grown inside: its pin would move to the grown block.
        """
        with ExitStack() as stack:
            for block in blocks:
                self.pin(block)
                stack.callback(self.unpin, block)
            yield

    # ---- reporting

    def stats(self) -> PoolStats:
        """O(kinds), whatever the number of blocks."""
        return PoolStats(
            num_blocks=dict(+self._index.num_ready_by_kind),
            num_tokens=self._index.num_ready_tokens,
            pages_total=self.pool.capacity_pages,
            pages_used=self.pool.num_used,
            pages_pinned=self.pool.num_used - self._evictable_pages,  # what is used and unpinned is evictable
            num_hits=self._num_hits,
            num_misses=self._num_misses,
            num_evictions=self._num_evictions,
            num_collisions=self._num_collisions,
        )

    def pages_used_by_kind(self) -> dict[str, int]:
        """Pages held by kind, whatever the blocks' state; they add up to the pool's used pages."""
        return dict(+self._pages_by_kind)

    def check_integrity(self) -> None:
        """Raises `IntegrityError` where the books do not add up; O(pages), for tests and idle times."""
        self.pool.check_integrity()
        self._index.check_integrity()
        recount = recount_pages(self.pool, self._policy, self._index.all_blocks())
        if (+self._pages_by_kind, self._evictable_pages) != (recount.by_kind, recount.num_evictable):
            raise IntegrityError(f"{self._pages_by_kind=} and {self._evictable_pages=} should be {recount}")

    # ---- the steps of the above

    def _checked(self, key: bytes, kind: str, token_ids: TokenIds, cost: float) -> Int32[np.ndarray, "S"]:
        if kind == SCRATCH:
            raise ValueError(f"{kind=} is reserved; use reserve_scratch")
        found = self._index.find(key)
        if found is not None:
            raise ValueError(f"a block with key {key.hex()} is {found.state} already")
        if not (math.isfinite(cost) and cost >= 0):
            raise ValueError(f"{cost=} must be finite and not negative")
        ids = as_token_ids(token_ids)
        if not len(ids):
            raise ValueError("a block without tokens has nothing to cache; leave it out")
        return ids

    def _take_pages(self, num: int, kind: str) -> tuple[int, ...]:
        if num > self.num_available_pages:
            raise ResourceExhaustedError(
                f"{num} pages wanted; {self.pool.num_free} free and {self._evictable_pages} evictable of "
                f"{self.pool.capacity_pages}, the others are in use; retry later or enlarge the pool"
            )
        while self.pool.num_free < num:
            self._evict_one()
        self._pages_by_kind[kind] += num
        return self.pool.allocate(num)

    def _require_pending(self, block: CachedBlock) -> None:
        if block.state is not BlockState.PENDING:
            raise ValueError(f"{block.kind} block of {block.owner!r} is not pending but {block.state}")

    def _retire(self, block: CachedBlock) -> None:
        """Makes a ready block unfindable, and frees it if nobody reads it."""
        self._index.ready_to_retired(block)
        if not block.pins:
            self._policy.remove(block.key)
            self._evictable_pages -= len(block.pages)
            self._free(block)

    def _evict_one(self) -> None:
        block = self._index.find(self._policy.pop())
        if block is None:
            raise IntegrityError("the policy chose a block that the index does not have")
        self._index.ready_to_retired(block)
        self._evictable_pages -= len(block.pages)
        self._free(block)
        self._num_evictions += 1

    def _free(self, block: CachedBlock) -> None:
        """Gives a retired block's pages back."""
        self._index.forget(block)
        self._pages_by_kind[block.kind] -= len(block.pages)
        self.pool.free(block.pages)
        block.pages = ()
