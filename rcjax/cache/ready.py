"""The blocks that can be found: as columns while idle, with a handle as long as somebody holds one."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from weakref import ref

from rcjax.cache.blocks import NO_SLOT, READY, RETIRED, CachedBlock, ListedBlock
from rcjax.cache.columns import BlockColumns
from rcjax.cache.errors import IntegrityError
from rcjax.cache.eviction import GreedyDual
from rcjax.cache.orders import BlockOrders
from rcjax.cache.pages import PagePool
from rcjax.cache.replicas import Replicas
from rcjax.cache.versions import Name

NUM_RECENT = 2048  # handles kept after their last reader left: what is popular is wanted again at once


class _HandleRef(ref[CachedBlock]):
    """A weak reference to a block's handle, which knows the slot."""

    __slots__ = ("slot",)
    slot: int


class ReadyBlocks:
    """Ready blocks, those without pins in the order in which they can be evicted.

    A block has at most one handle at a time. The handles of pinned blocks are kept here, and for a while those of
    blocks that were read last; others live for as long as the caller keeps them, and are found again until then.
    """

    def __init__(self, pool: PagePool, policy: GreedyDual, orders: BlockOrders):
        self._pool = pool
        self._policy = policy
        self._orders = orders
        self.columns = BlockColumns(pool.capacity_pages)
        self._handles: dict[int, _HandleRef] = {}  # by slot, all that live
        self._pinned: dict[int, CachedBlock] = {}  # by slot
        self.recent: OrderedDict[bytes, CachedBlock] = OrderedDict()  # by key, used last at the end
        self.replicas = Replicas()
        self.num_evictable_pages = 0
        handles = self._handles

        def forget(dead: "ref[CachedBlock]") -> None:
            assert isinstance(dead, _HandleRef)
            if handles.get(dead.slot) is dead:
                del handles[dead.slot]

        self._forget = forget
        self._fill = self._fill_handle

    def find_name(self, name: Name) -> int:
        return self.columns.find_name(*name)

    def slots(self) -> list[int]:
        """All slots in use, the blocks used longest ago first, those in use now last."""
        used = [slot for slot in range(self.columns.num_slots) if self.columns.is_used(slot)]
        return sorted(used, key=lambda slot: (slot in self._pinned, self._policy.last_use(slot)))

    def listed(self, start: int, stop: int) -> list[ListedBlock]:
        """The blocks in the slots `start..stop-1`, without a handle for each."""
        columns = self.columns
        return [
            ListedBlock(
                columns.key(slot),
                columns.kind(slot),
                columns.owner(slot),
                self._pool.pages_for(columns.num_tokens[slot]),
                math.inf if slot in self._pinned else self._policy.last_use(slot),
            )
            for slot in range(start, min(stop, columns.num_slots))
            if columns.is_used(slot)
        ]

    def handles(self) -> Iterator[CachedBlock]:
        return map(self.handle, self.slots())

    def handle(self, slot: int) -> CachedBlock:
        """The block's handle: the one that lives, or a new one."""
        known = self._handles.get(slot)
        block = None if known is None else known()
        if block is None:
            block = CachedBlock.ready(slot, self._fill)
            known = self._handles[slot] = _HandleRef(block, self._forget)
            known.slot = slot
        return block

    def live_handle(self, slot: int) -> CachedBlock | None:
        known = self._handles.get(slot)
        return None if known is None else known()

    def add(self, block: CachedBlock) -> None:
        """Takes in a pinned block, whose key and name must be free."""
        slot = self.columns.add(block.key, block.kind, block.owner, block.token_ids, block.pages[0], block.cost)
        self._pool.link(block.pages, slot)
        block.state = READY
        block.slot = slot
        self._pinned[slot] = block
        known = self._handles[slot] = _HandleRef(block, self._forget)
        known.slot = slot
        if block.is_replica:
            self.replicas.add(slot)

    def adopt(self, block: CachedBlock) -> None:
        """Makes a replica a block like others."""
        self.replicas.remove(block.slot)
        block.is_replica = False

    def remove(self, slot: int) -> CachedBlock:
        """Gives a block up, with the pins that it has; the caller retires it, or frees its pages."""
        block = self.handle(slot)
        if block.pins:
            del self._pinned[slot]
            self._pool.link(block.pages)
        else:
            self._policy.remove(slot)
            self.num_evictable_pages -= len(block.pages)
        self._let_go(block)
        return block

    def evict(self, last_look: Callable[[CachedBlock], None] | None) -> tuple[bytes, str, int]:
        """Gives the block up that is the next to go and frees its pages; returns its key, kind and how many these were.

        Replicas go first. As `remove`, without making a handle where there is none, unless it is wanted for a
        `last_look`, while the block still has its pages.
        """
        replica = self.replicas.next_to_go
        if replica is None:
            slot = self._policy.pop()
        else:
            slot = replica
            self._policy.remove(slot)
        if last_look is not None:
            last_look(self.handle(slot))
        columns = self.columns
        key, kind = columns.key(slot), columns.kind(slot)
        pages = self._pool.run(columns.first_page[slot], self._pool.pages_for(columns.num_tokens[slot]))
        self.num_evictable_pages -= len(pages)
        block = self.live_handle(slot)
        if block is None:
            columns.remove(slot)
            self.replicas.remove(slot)
        else:
            self._let_go(block)
            block.pages = ()
        self._pool.free(pages)
        return key, kind, len(pages)

    def pin(self, block: CachedBlock) -> None:
        if not block.pins:
            self._policy.remove(block.slot)
            self.num_evictable_pages -= len(block.pages)
            self._pinned[block.slot] = block
            if block.is_replica:
                self.replicas.note_pinned(block.slot)
        block.pins += 1

    def unpin(self, block: CachedBlock) -> None:
        """Takes a pin back; the last makes the block evictable, as just used."""
        block.pins -= 1
        if not block.pins:
            slot, key, num_pages, recent = block.slot, block.key, len(block.pages), self.recent
            del self._pinned[slot]
            self._policy.add(slot, block.cost / num_pages)
            self.num_evictable_pages += num_pages
            if block.is_replica:
                self.replicas.note_unpinned(slot, num_pages)
            recent[key] = block
            recent.move_to_end(key)
            if len(recent) > NUM_RECENT:
                recent.popitem(last=False)

    def check_slot(self, slot: int) -> None:
        """Raises `IntegrityError` where columns, pages, policy, pins and handle of a slot disagree."""
        columns = self.columns
        if not columns.is_used(slot):
            known = (self._policy, self._pinned, self.replicas)
            if any(slot in blocks for blocks in known) or self.live_handle(slot) is not None:
                raise IntegrityError(f"a block is known in {slot=}, which is free")
            return
        columns.check_slot(slot)
        num_pages = self._pool.pages_for(columns.num_tokens[slot])
        pages = self._pool.checked_run(columns.first_page[slot], num_pages, slot)
        if (slot in self._policy) == (slot in self._pinned):
            raise IntegrityError(f"the block in {slot=} must be either pinned or evictable")
        self.replicas.check_slot(slot, slot in self._pinned, num_pages)
        if slot in self._policy:
            self._policy.check_slot(slot)
        block = self.live_handle(slot)
        if slot in self._pinned and block is not self._pinned[slot]:
            raise IntegrityError(f"the pinned block in {slot=} is not the one that is found there: {block}")
        if block is not None:
            self._check_handle(block, slot, pages)

    def check_counts(self) -> None:
        """Raises `IntegrityError` where the sums over all slots are not as counted."""
        self.columns.check_counts()
        self.replicas.check_counts()
        if len(self._policy) + len(self._pinned) != self.columns.num_blocks_by_kind.total():
            raise IntegrityError(f"{len(self._policy)} evictable and {len(self._pinned)} pinned blocks are not all")

    @property
    def num_pinned_pages(self) -> int:
        """Pages of pinned blocks; O(these)."""
        return sum(len(block.pages) for block in self._pinned.values())

    def _check_handle(self, block: CachedBlock, slot: int, pages: tuple[int, ...]) -> None:
        columns = self.columns
        found = (block.key, block.kind, block.owner, block.pages, block.state, block.slot, block.is_replica)
        is_replica = slot in self.replicas
        expected = (columns.key(slot), columns.kind(slot), columns.owner(slot), pages, READY, slot, is_replica)
        if found != expected or not columns.holds(slot, block.token_ids):
            raise IntegrityError(f"the handle of {slot=} is not what is kept there: {block}")
        if (block.pins > 0) != (slot in self._pinned):
            raise IntegrityError(f"the block in {slot=} has {block.pins} pins, against the books")

    def _fill_handle(self, block: CachedBlock) -> None:
        columns, slot = self.columns, block.slot
        block.key = columns.key(slot)
        block.kind = columns.kind(slot)
        block.owner = columns.owner(slot)
        block.token_ids = columns.token_ids(slot)
        block.cost = columns.cost[slot]
        block.pages = self._pool.run(columns.first_page[slot], self._pool.pages_for(columns.num_tokens[slot]))
        block.order = self._orders.find(block.key)
        block.is_replica = slot in self.replicas
        block.brings_order = False
        block.version = 0
        block.superseded = False

    def _let_go(self, block: CachedBlock) -> None:
        block.fill()  # while there is something to fill it with
        self.columns.remove(block.slot)
        self.replicas.remove(block.slot)
        self.recent.pop(block.key, None)
        del self._handles[block.slot]
        block.state = RETIRED
        block.slot = NO_SLOT
