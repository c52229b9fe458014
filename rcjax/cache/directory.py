"""The block directory: which blocks one pool holds, in which pages, and who is reading them."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import Int32

from rcjax.cache.accounts import PageAccounts
from rcjax.cache.blocks import PENDING, READY, SCRATCH, CachedBlock, checked_ids
from rcjax.cache.directory_report import DirectoryReport
from rcjax.cache.eviction import GreedyDual
from rcjax.cache.held import HeldBlocks
from rcjax.cache.integrity import IntegrityCheck
from rcjax.cache.keys import TokenIds
from rcjax.cache.orders import BlockOrders, NamedOrder
from rcjax.cache.pages import PagePool
from rcjax.cache.ready import ReadyBlocks
from rcjax.cache.replicas import Replicas
from rcjax.cache.versions import KnownVersions
from rcjax.prompt import Owner


def _ignore(key: bytes) -> None:
    pass


class BlockDirectory(DirectoryReport):
    """Finds, reserves, pins and evicts the blocks of one page pool. Used from one thread.

    A block's life: `reserve` (pending, pinned by its reserver) -> compute its KV -> `commit` (ready: can be
    found) or `abort`; then `unpin`. A ready block without pins can be evicted by any later `reserve` or
    `grow`: pin what `lookup` returns before reserving anything else. At most one block per (kind, owner) is
    ready: owners whose blocks shall live side by side need different names.

    Versions say which of two contents of one name is the newer, whatever the order of the calls: a block is reserved
    at the version of the plan or write that wants it, and cannot become ready once something newer was, or a newer
    `drop` came. For this to hold, a plan's version must be smaller than that of every write that it has not seen.

    `on_commit` is called with each key that has become findable, `on_evict` with each that no longer is.
    `pool` and `policy` belong to the directory: nothing else may allocate from the one or add to the other.
    """

    def __init__(
        self,
        pool: PagePool,
        policy: GreedyDual,
        *,
        on_commit: Callable[[bytes], None] = _ignore,
        on_evict: Callable[[bytes], None] = _ignore,
    ):
        self.pool = pool
        self._on_commit = on_commit
        self._orders = BlockOrders()
        self._ready = ReadyBlocks(pool, policy, self._orders)
        self._versions = KnownVersions()
        self._held = HeldBlocks(self._versions)
        self._accounts = PageAccounts(pool, self._ready, self._held, on_evict)
        self._check = IntegrityCheck(pool, self._ready, self._held, self._accounts)
        self.num_hits = 0
        self.num_misses = 0
        self.num_collisions = 0

    # ---- finding

    def lookup(self, key: bytes, token_ids: TokenIds) -> CachedBlock | None:
        """The ready block of that key and those tokens; None counts as a miss. To read it is to pin it, which is a use.

        The key discovers, the tokens verify. A block whose key matches and whose tokens do not is never a
        hit: it counts as a miss and as a collision, and stays. `reserve` refuses that key for as long as it
        does, so the tokens in question can be computed fresh but not cached.
        """
        ready = self._ready
        columns = ready.columns
        slot = columns.find(key)
        if slot < 0:
            self.num_misses += 1
            return None
        if not columns.holds(slot, token_ids):
            self.num_misses += 1
            self.num_collisions += 1
            return None
        self.num_hits += 1
        return ready.handle(slot)

    def acquire(self, key: bytes, token_ids: TokenIds) -> CachedBlock | None:
        """As `lookup`, and pins the block. Tokens that are the same array as last time are not compared again."""
        ready = self._ready
        block = ready.recent.get(key)
        if block is not None and block.verified_ids is token_ids:
            self.num_hits += 1
        else:
            block = self.lookup(key, token_ids)
            if block is None:
                return None
            if isinstance(token_ids, np.ndarray) and not token_ids.flags.writeable:
                block.verified_ids = token_ids
        ready.pin(block)
        return block

    def find(self, key: bytes, token_ids: TokenIds) -> CachedBlock | None:
        """As `lookup`, but counts nothing: for others than those whom the pool serves."""
        slot = self._ready.columns.find(key)
        return self._ready.handle(slot) if slot >= 0 and self._ready.columns.holds(slot, token_ids) else None

    def current(self, kind: str, owner: Owner) -> CachedBlock | None:
        """The ready block of an item or user, whatever its content; counts neither as a use nor as a miss."""
        slot = self._ready.find_name((kind, owner))
        return None if slot < 0 else self._ready.handle(slot)

    def ready_blocks(self) -> Iterator[CachedBlock]:
        """Every ready block, used longest ago first, pinned ones last; change nothing while iterating."""
        return self._ready.handles()

    # ---- building

    @property
    def num_available_pages(self) -> int:
        """Pages that a `reserve` could get now: free ones and those of evictable blocks."""
        return self._accounts.num_available

    def reserve(
        self, key: bytes, kind: str, owner: Owner, token_ids: TokenIds, cost: float, version: int = 0
    ) -> CachedBlock:
        """Gives a new block its pages, evicting others as needed; it is pending, and pinned by the caller.

        `cost`, seconds to compute it, divided by the number of pages is what eviction weighs the block with. Pages
        may hold what others left in them. A block of a version that is overtaken already gets its pages all the same:
        the caller can compute and read it, nobody will find it. Raises `ResourceExhaustedError`, with nothing
        evicted, where even evicting all that can be evicted would not do; ValueError where the key is pending or
        ready already.
        """
        ids = self._checked(key, kind, token_ids, cost)
        pages = self._accounts.take(self.pool.pages_for(len(ids)), kind)
        return self._held.add_pending(CachedBlock(key, kind, owner, ids, pages, cost, version, self._orders.find(key)))

    def grow(self, block: CachedBlock, key: bytes, token_ids: TokenIds, cost: float, version: int = 0) -> CachedBlock:
        """Turns a ready block that the caller alone has pinned into a pending longer one, in the same pages.

        `token_ids` starts with the block's own, whose KV stays where it is; only missing pages are allocated.
        The caller's pin moves to the result, and `block` is retired, without pages or pins. `abort` of the
        result frees everything: the old KV is not brought back. Raises `BlockBusyError` where others have
        `block` pinned, otherwise as `reserve` does; after an error nothing has changed.
        """
        block.require_sole_reader()
        ids = self._checked(key, block.kind, token_ids, cost)
        if len(ids) <= block.num_tokens or not np.array_equal(ids[: block.num_tokens], block.token_ids):
            raise ValueError(f"the {len(ids)} token ids must start with the block's {block.num_tokens} and add some")
        pages = self._accounts.take_over(block, self.pool.pages_for(len(ids)))
        grown = CachedBlock(key, block.kind, block.owner, ids, pages, cost, version, self._orders.find(key))
        return self._held.add_pending(grown)

    def commit(self, block: CachedBlock) -> None:
        """Makes a pending block ready, its KV being written; the reserver's pin stays.

        The former ready block of its (kind, owner) is retired, and pending ones of a smaller version, or of the same
        one and reserved earlier, can no longer become ready. A block that was itself overtaken or dropped
        meanwhile is retired at once: its pins may read it, nobody can find it.
        """
        if block.kind == SCRATCH:
            raise ValueError("a scratch block cannot be committed; release it")
        self._held.require_pending(block)
        name = (block.kind, block.owner)
        if block.superseded:
            self._held.pending_to_retired(block)
            return
        self._held.supersede(name, block.version, before=block)
        former = self._ready.find_name(name)
        if former >= 0:
            self._accounts.retire(former)
        self._held.remove_pending(block)
        self._ready.add(block)
        self._versions.note(name, block.version)
        self._orders.settle(block)
        self._on_commit(block.key)

    def abort(self, block: CachedBlock) -> None:
        """Gives up a pending block and the reserver's pin; the pages are freed when no pin is left."""
        self._held.require_pending(block)
        self._held.pending_to_retired(block)
        self.unpin(block)

    def reserve_scratch(self, num_pages: int) -> CachedBlock:
        """Pages for a request's own use, such as decoding; nobody finds them, `release` gives them back."""
        if num_pages < 1:
            raise ValueError(f"{num_pages=} must be at least 1")
        pages = self._accounts.take(num_pages, SCRATCH)
        return self._held.add_pending(CachedBlock.scratch(pages))

    def release(self, block: CachedBlock) -> None:
        """Frees a scratch block; ValueError for another."""
        if block.kind != SCRATCH:
            raise ValueError(f"only scratch blocks are released, this one is {block.kind!r}; unpin or abort it")
        self.abort(block)

    def drop(self, kind: str, owner: Owner, version: int = 0) -> bool:
        """Forgets an item or user, built or being built: unfindable at once; whether there was anything.

        Pages are freed when the last pin goes. Blocks of `version` or smaller that are pending cannot become ready
        any more, nor can those of smaller versions that are reserved later. What is newer stays.
        """
        name = (kind, owner)
        was_pending = self._held.supersede(name, version)
        if self._versions.newest(name) > version:
            return was_pending
        self._versions.note(name, version)
        self._orders.drop(name)
        current = self._ready.find_name(name)
        if current >= 0:
            self._accounts.retire(current)
        return current >= 0 or was_pending

    def discard(self, block: CachedBlock) -> None:
        """Makes a ready block unfindable, its KV not to be trusted; whoever wants that content computes it anew."""
        if block.state is READY:
            self._accounts.retire(block.slot)

    # ---- other slices and tiers

    @property
    def replicas(self) -> Replicas:
        """The ready blocks that were copied from other slices for a request, and how many pages they may keep."""
        return self._ready.replicas

    def mark_replica(self, block: CachedBlock) -> None:
        """Makes a pending block one that is to go before others, and does not count as held here."""
        self._held.require_pending(block)
        block.is_replica = True

    def adopt(self, block: CachedBlock) -> None:
        """Makes a ready replica a block like others; nothing happens to another."""
        if block.is_replica and block.state is READY:
            self._ready.adopt(block)

    def on_last_look(self, last_look: Callable[[CachedBlock], None]) -> None:
        """Calls `last_look` from now on with each block that is about to be evicted, its pages still its own."""
        self._accounts.last_look = last_look

    # ---- versions

    def forget_versions(self, before: int) -> None:
        """Says that no plan or write of a smaller version lives, nor ever will: what is older need not be kept."""
        self._versions.forget(before)

    # ---- orders of correction

    def set_order(self, block: CachedBlock, order: TokenIds) -> None:
        """Stores with a block the order in which its tokens are worth correcting; ValueError if it is none of them.

        It outlives the block: whenever content of that key is cached again, it has the order. It goes when its item
        or user is dropped, or gets other content.
        """
        self._orders.give(block, order)

    def put_order(self, key: bytes, kind: str, owner: Owner, order: TokenIds) -> bool:
        """Stores an order for content that is not cached; False, and nothing stored, where its name has other content
        in cache, or an order already."""
        return self._orders.offer(key, (kind, owner), order, self.current(kind, owner))

    def orders(self) -> Mapping[bytes, NamedOrder]:
        """All that are stored, by key, whether their content is cached or not; a view, which changes with them."""
        return self._orders

    # ---- reading

    def pin(self, block: CachedBlock) -> None:
        """Keeps a block's pages from being freed until as many `unpin` calls."""
        if block.state is READY:
            self._ready.pin(block)
        elif block.pins:
            block.pins += 1
        else:
            raise ValueError(f"{block.kind} block of {block.owner} has been freed; look it up again")

    def unpin(self, block: CachedBlock) -> None:
        """Takes a pin back; the last makes a ready block evictable, as just used, and frees a retired one."""
        if not block.pins:
            raise ValueError(f"{block.kind} block of {block.owner} is not pinned")
        if block.state is READY:
            self._ready.unpin(block)
            if block.is_replica and not block.pins:
                self._accounts.trim_replicas()
            return
        if block.state is PENDING and block.pins == 1:
            raise ValueError("the reserver's pin stays until commit or abort")
        block.pins -= 1
        if not block.pins:
            self._held.forget(block)
            self._accounts.free(block)

    def _checked(self, key: bytes, kind: str, token_ids: TokenIds, cost: float) -> Int32[np.ndarray, "S"]:
        """The token ids of a block that may be reserved; ValueError for one that may not."""
        if self._held.find(key) is not None:
            raise ValueError(f"a block with key {key.hex()} is pending already")
        if self._ready.columns.find(key) >= 0:
            raise ValueError(f"a block with key {key.hex()} is ready already")
        return checked_ids(key, kind, token_ids, cost)
