"""Replicas: ready blocks that were copied from another slice. They go first, and keep few pages."""

from collections import OrderedDict

from rcjax.cache.errors import IntegrityError


class Replicas:
    """Which ready blocks are replicas, by slot, and which of these nobody reads, used longest ago first.

    Those that nobody reads may keep `max_pages` in all. Pinned ones are not held against that: their readers need
    their pages whatever these are called.
    """

    def __init__(self) -> None:
        self.max_pages = 0
        self.num_idle_pages = 0
        self._pinned: set[int] = set()
        self._idle: OrderedDict[int, int] = OrderedDict()  # pages by slot

    def __len__(self) -> int:
        return len(self._pinned) + len(self._idle)

    def __contains__(self, slot: int) -> bool:
        return slot in self._pinned or slot in self._idle

    @property
    def next_to_go(self) -> int | None:
        """The one that nobody reads and that was used longest ago."""
        return next(iter(self._idle), None)

    @property
    def surplus(self) -> int | None:
        """The next to go, if those that nobody reads keep too many pages."""
        return self.next_to_go if self.num_idle_pages > self.max_pages else None

    def add(self, slot: int) -> None:
        """Takes in a pinned block."""
        self._pinned.add(slot)

    def remove(self, slot: int) -> None:
        """Lets go of a block; nothing happens where it is no replica."""
        self._pinned.discard(slot)
        self.num_idle_pages -= self._idle.pop(slot, 0)

    def note_pinned(self, slot: int) -> None:
        if slot in self._idle:
            self.num_idle_pages -= self._idle.pop(slot)
            self._pinned.add(slot)

    def note_unpinned(self, slot: int, num_pages: int) -> None:
        if slot in self._pinned:
            self._pinned.remove(slot)
            self._idle[slot] = num_pages
            self.num_idle_pages += num_pages

    def check_slot(self, slot: int, is_pinned: bool, num_pages: int) -> None:
        """Raises `IntegrityError` where a ready block is listed as pinned or not against the books."""
        if slot in self._pinned and not is_pinned:
            raise IntegrityError(f"the replica in {slot=} is listed as pinned, and is not")
        if self._idle.get(slot, num_pages) != num_pages or (slot in self._idle and is_pinned):
            raise IntegrityError(f"the replica in {slot=} of {num_pages} pages is listed with {self._idle[slot]}")

    def check_counts(self) -> None:
        """Raises `IntegrityError` where the pages are miscounted."""
        if self.num_idle_pages != sum(self._idle.values()):
            raise IntegrityError(f"replicas that nobody reads have not {self.num_idle_pages} pages")
