"""Which block to give up when pages run out."""

import heapq
import math
from typing import Protocol, runtime_checkable


@runtime_checkable
class EvictionPolicy(Protocol):
    """Orders the blocks that may be evicted now: the directory adds a block when its last reader leaves and
    removes it when a reader comes, so a policy never has to know of pins."""

    def add(self, key: bytes, cost_per_page: float) -> None:
        """Makes a block evictable, as just used; ValueError if it is already."""
        ...

    def touch(self, key: bytes) -> None:
        """Notes a use of an evictable block; KeyError for another."""
        ...

    def remove(self, key: bytes) -> None:
        """Takes a block out of reach; KeyError if it is not evictable."""
        ...

    def pop(self) -> bytes:
        """Removes and returns the block to evict; LookupError when there is none."""
        ...

    def __len__(self) -> int: ...

    def __contains__(self, key: bytes) -> bool: ...


class GreedyDual:
    """Least recently used, weighted by what it costs to compute a page of the block again.

    A use sets a block's priority to H = L + cost / pages; the lowest H goes first, and L rises to the H of
    each block evicted, so that what is not used ages against what is. Ties go to the block used longest ago.
    With one cost per page for all blocks this is exactly LRU.

    Source: N. Young, "The k-server dual and loose competitiveness for paging", Algorithmica 11 (1994); with
    sizes, as GreedyDual-Size, P. Cao and S. Irani, "Cost-aware WWW proxy caching algorithms", USITS 1997.

    Each call is O(log n), amortised. A touch leaves its old heap entry behind, to be skipped when it
    surfaces; the heap is rebuilt when most of it is such entries.
    """

    def __init__(self) -> None:
        self._inflation = 0.0  # L
        self._num_uses = 0
        self._live: dict[bytes, tuple[float, int, float]] = {}  # key -> (H, when used, cost per page)
        self._heap: list[tuple[float, int, bytes]] = []

    def add(self, key: bytes, cost_per_page: float) -> None:
        if key in self._live:
            raise ValueError(f"block {key.hex()} is already evictable")
        if not (math.isfinite(cost_per_page) and cost_per_page >= 0):
            raise ValueError(f"{cost_per_page=} must be finite and not negative")
        self._use(key, cost_per_page)

    def touch(self, key: bytes) -> None:
        _, _, cost_per_page = self._live[key]
        self._use(key, cost_per_page)

    def remove(self, key: bytes) -> None:
        del self._live[key]

    def pop(self) -> bytes:
        while self._heap:
            priority, used, key = heapq.heappop(self._heap)
            if self._live.get(key, (None, None))[:2] == (priority, used):
                del self._live[key]
                self._inflation = priority
                return key
        raise LookupError("no block is evictable")

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, key: bytes) -> bool:
        return key in self._live

    def _use(self, key: bytes, cost_per_page: float) -> None:
        self._num_uses += 1
        priority = self._inflation + cost_per_page
        self._live[key] = (priority, self._num_uses, cost_per_page)
        heapq.heappush(self._heap, (priority, self._num_uses, key))
        if len(self._heap) > 64 + 2 * len(self._live):
            self._heap = [(priority, used, key) for key, (priority, used, _) in self._live.items()]
            heapq.heapify(self._heap)
