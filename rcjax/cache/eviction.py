"""Which block to give up when pages run out."""

import heapq
import math
from array import array
from dataclasses import dataclass
from functools import lru_cache

from rcjax.cache.errors import IntegrityError

_STEPS = 16  # cost classes between a cost and its double: neighbours differ by 4.4%
_FREE = -(2**15)  # the class of what costs nothing; the smallest double of all is in class -17,184
_HIGHEST = 1000 * _STEPS  # whose cost, and a few times that, are still doubles
_END, _ABSENT = -1, -2  # in place of a neighbour's slot
_BEFORE, _AFTER, _CLASS = 0, 1, 2  # fields of a slot's links


@lru_cache(maxsize=4096)  # blocks of as many tokens and pages cost the same
def cost_class(cost: float) -> int:
    """The class of costs that are rounded to the same `class_cost`."""
    if not (math.isfinite(cost) and cost >= 0):
        raise ValueError(f"{cost=} must be finite and not negative")
    return min(round(math.log2(cost) * _STEPS), _HIGHEST) if cost else _FREE


def class_cost(number: int) -> float:
    return 0.0 if number == _FREE else 2.0 ** (number / _STEPS)


@dataclass(slots=True)
class _Queue:
    """The slots of one cost class, used longest ago first, as a list linked through the columns."""

    cost: float
    first: int = _END
    last: int = _END
    in_heap: bool = False


class GreedyDual:
    """Least recently used, weighted by what it costs to compute a page of the block again.

    Knows blocks by their slots, numbers from 0 up, and only those that may be evicted now: its caller adds a block
    when the last reader leaves and removes it when a reader comes. A use sets a block's priority to H = L + cost per
    page; the lowest H goes first, and L rises to the H of each block evicted, so that what is not used ages against
    what is. Ties go to the block used longest ago. With one cost per page for all blocks this is exactly LRU.

    Source: N. Young, "The k-server dual and loose competitiveness for paging", Algorithmica 11 (1994); with
    sizes, as GreedyDual-Size, P. Cao and S. Irani, "Cost-aware WWW proxy caching algorithms", USITS 1997.

    Costs are rounded to classes, within 2.2%. Among blocks of one class H rises with every use, as L does, so a list
    in order of use is in order of H too, and only the first of each list can be the next to go. A use takes O(1); the
    choice between the lists takes O(log C) for C classes that are in use.
    """

    def __init__(self) -> None:
        self._inflation = 0.0  # L
        self._num_uses = 0
        self._num = 0
        self._queues: dict[int, _Queue] = {}  # by class
        # The first slot of each list, once. Where that was used or removed since, the entry is too low, never too high.
        self._heap: list[tuple[float, float, int]] = []  # (H, when used, class)
        # By slot, 32 bytes each. What is used together lies together: most of the time goes into fetching it.
        self._links = array("i")  # the slot before, the slot after, the class, and a spare one
        self._uses = array("d")  # H, and when used last

    def add(self, slot: int, cost_per_page: float) -> None:
        """Makes a block evictable, as just used; ValueError if it is already."""
        number, at, links, uses = cost_class(cost_per_page), 4 * slot, self._links, self._uses
        while at >= len(links):
            links.extend((_END, _ABSENT, 0, 0))
            uses.extend((0.0, 0.0))
        if links[at + _AFTER] != _ABSENT:
            raise ValueError(f"the block in {slot=} is already evictable")
        queue = self._queues.get(number)
        if queue is None:
            queue = self._queues[number] = _Queue(class_cost(number))
        self._num += 1
        self._num_uses = used = self._num_uses + 1
        uses[2 * slot] = priority = self._inflation + queue.cost
        uses[2 * slot + 1] = used
        last = queue.last
        links[at + _BEFORE] = last
        links[at + _AFTER] = _END
        links[at + _CLASS] = number
        queue.last = slot
        if last == _END:
            queue.first = slot
        else:
            links[4 * last + _AFTER] = slot
        if not queue.in_heap:
            queue.in_heap = True
            heapq.heappush(self._heap, (priority, float(used), number))

    def remove(self, slot: int) -> None:
        """Takes a block out of reach; KeyError if it is not evictable."""
        links, at = self._links, 4 * slot
        after = links[at + _AFTER] if at < len(links) else _ABSENT
        if after == _ABSENT:
            raise KeyError(f"the block in {slot=} is not evictable")
        before = links[at + _BEFORE]
        queue = self._queues[links[at + _CLASS]]
        if before == _END:
            queue.first = after
        else:
            links[4 * before + _AFTER] = after
        if after == _END:
            queue.last = before
        else:
            links[4 * after + _BEFORE] = before
        links[at + _AFTER] = _ABSENT
        self._num -= 1

    def pop(self) -> int:
        """Removes and returns the block to evict; LookupError when there is none."""
        while self._heap:
            entry = self._heap[0]
            number = entry[2]
            queue = self._queues[number]
            slot = queue.first
            if slot == _END:
                heapq.heappop(self._heap)
                queue.in_heap = False
                continue
            actual = (self._uses[2 * slot], self._uses[2 * slot + 1], number)
            if actual == entry:
                self._inflation = entry[0]
                self.remove(slot)
                return slot
            heapq.heapreplace(self._heap, actual)
        raise LookupError("no block is evictable")

    def last_use(self, slot: int) -> float:
        """When the block was last used here, as a number that rises with each use of any; 0 if never."""
        return self._uses[2 * slot + 1] if 2 * slot < len(self._uses) else 0.0

    def __len__(self) -> int:
        return self._num

    def __contains__(self, slot: int) -> bool:
        return 0 <= 4 * slot < len(self._links) and self._links[4 * slot + _AFTER] != _ABSENT

    def check_slot(self, slot: int) -> None:
        """Raises `IntegrityError` where an evictable block and its neighbours in the list disagree."""
        before, after, number, _ = self._links[4 * slot : 4 * slot + 4]
        queue = self._queues[number]
        if (queue.first if before == _END else self._links[4 * before + _AFTER]) != slot:
            raise IntegrityError(f"the list of evictable blocks does not lead to {slot=}")
        if (queue.last if after == _END else self._links[4 * after + _BEFORE]) != slot:
            raise IntegrityError(f"the list of evictable blocks does not lead back to {slot=}")
        if after != _END and self._uses[2 * slot : 2 * slot + 2] >= self._uses[2 * after : 2 * after + 2]:
            raise IntegrityError(f"{slot=} and the one after it in the list of evictable blocks are out of order")
