"""Blocks that a simulated slice or tier keeps while there is room."""

from collections.abc import Callable

from rcjax.cache.eviction import GreedyDual


class BoundedBlocks:
    """Items' blocks in at most `capacity_tokens`, evicted by GreedyDual as an engine's pool is.

    `on_evict` hears of each item that had to make room, with its tokens.
    """

    def __init__(self, capacity_tokens: int, on_evict: Callable[[int, int], None]):
        self._capacity_tokens = capacity_tokens
        self._on_evict = on_evict
        self._order = GreedyDual()
        self._slots: dict[int, int] = {}  # of those that are here
        self._items: list[int] = []  # by slot, as are the others
        self._tokens: list[int] = []
        self._costs: list[float] = []
        self._free: list[int] = []
        self.num_tokens = 0

    def __contains__(self, item: int) -> bool:
        return item in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    def use(self, item: int) -> bool:
        """Whether the item is here; it is then the one that was used last."""
        slot = self._slots.get(item)
        if slot is None:
            return False
        self._order.remove(slot)
        self._order.add(slot, self._costs[slot])
        return True

    def put(self, item: int, num_tokens: int, token_cost: float) -> bool:
        """Keeps an item that is not here; False where it is larger than all the room there is."""
        if num_tokens > self._capacity_tokens:
            return False
        while self.num_tokens + num_tokens > self._capacity_tokens:
            self._evict()
        slot = self._free.pop() if self._free else len(self._items)
        if slot == len(self._items):
            self._items.append(item)
            self._tokens.append(num_tokens)
            self._costs.append(token_cost)
        else:
            self._items[slot], self._tokens[slot], self._costs[slot] = item, num_tokens, token_cost
        self._slots[item] = slot
        self.num_tokens += num_tokens
        self._order.add(slot, token_cost)
        return True

    def drop(self, item: int) -> None:
        """Takes an item out that is here, without telling of an eviction."""
        slot = self._slots.pop(item)
        self._order.remove(slot)
        self._free.append(slot)
        self.num_tokens -= self._tokens[slot]

    def _evict(self) -> None:
        slot = self._order.pop()
        item, num_tokens = self._items[slot], self._tokens[slot]
        del self._slots[item]
        self._free.append(slot)
        self.num_tokens -= num_tokens
        self._on_evict(item, num_tokens)
