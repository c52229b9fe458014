"""The page pool: which pages of a pool's KV arrays are free, and which follow one another."""

from array import array
from collections.abc import Sequence

import numpy as np

from rcjax.cache.errors import IntegrityError
from rcjax.errors import ResourceExhaustedError

NULL_PAGE = 0
NOWHERE = -1  # in place of the number of a page: what would go there is not wanted
NOBODY = -1


class PagePool:
    """Hands out page numbers `1..num_pages-1`; page 0 is the null page that pads page tables.

    Knows nothing of what the pages hold. Last freed, first reused; a fresh pool counts up from page 1.

    Pages that belong together are linked: each knows the next, and the last knows the number of their owner, or that
    there is none. So an owner needs to keep the first page only, and a page that two owners claim is noticed.
    """

    def __init__(self, num_pages: int, page_tokens: int):
        if num_pages < 2:
            raise ValueError(f"{num_pages=} leaves no page beside the null page; at least 2 are needed")
        if page_tokens < 1:
            raise ValueError(f"{page_tokens=} must be at least 1")
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self.num_free = num_pages - 1
        # What follows a page: another page; after the last free one, and after the last one of a run without owner,
        # the null page; after the last one of a run with an owner, -1 minus the owner's number.
        self._next = array("i", range(1, num_pages + 1))
        self._next[-1] = NULL_PAGE
        self._first_free = 1
        self._is_used = bytearray(num_pages)

    @property
    def capacity_pages(self) -> int:
        """Pages that can hold tokens: all but the null page."""
        return self.num_pages - 1

    @property
    def num_used(self) -> int:
        return self.capacity_pages - self.num_free

    def is_used(self, page: int) -> bool:
        """Whether `page` is allocated; never so for the null page and for pages that do not exist."""
        return 0 <= page < self.num_pages and bool(self._is_used[page])

    def pages_for(self, num_tokens: int) -> int:
        """Pages that `num_tokens` tokens fill, the last one perhaps partly."""
        if num_tokens < 0:
            raise ValueError(f"{num_tokens=} must not be negative")
        return -(-num_tokens // self.page_tokens)

    def allocate(self, num: int) -> tuple[int, ...]:
        """Takes `num` pages, linked and without owner, or none and raises `ResourceExhaustedError`; O(1) a page."""
        if num < 0:
            raise ValueError(f"{num=} pages to allocate must not be negative")
        if num > self.num_free:
            raise ResourceExhaustedError(
                f"{num} pages wanted, {self.num_free} free of {self.capacity_pages}; free some or enlarge it"
            )
        if not num:
            return ()
        pages = self.run(self._first_free, num)
        self._first_free = self._next[pages[-1]]
        self._next[pages[-1]] = NULL_PAGE
        self.num_free -= num
        for page in pages:
            self._is_used[page] = 1
        return pages

    def free(self, pages: Sequence[int]) -> None:
        """Gives `pages` back, or none and raises ValueError if one of them is not allocated; O(1) a page."""
        is_used = self._is_used
        for at, page in enumerate(pages):
            if not 0 <= page < self.num_pages or not is_used[page]:
                for freed in pages[:at]:
                    is_used[freed] = 1
                raise ValueError(f"{page=} is not allocated, or is named twice (page {NULL_PAGE} never is allocated)")
            is_used[page] = 0
        following = self._first_free
        for page in reversed(pages):
            self._next[page] = following
            following = page
        self._first_free = following
        self.num_free += len(pages)

    def link(self, pages: Sequence[int], owner: int = NOBODY) -> None:
        """Makes one run of allocated pages, of that owner."""
        following = -1 - owner
        for page in reversed(pages):
            self._next[page] = following
            following = page

    def run(self, first: int, num: int) -> tuple[int, ...]:
        """The `num` pages that are linked from `first` on."""
        following = self._next
        pages = []
        page = first
        for _ in range(num):
            pages.append(page)
            page = following[page]
        return tuple(pages)

    def checked_run(self, first: int, num: int, owner: int = NOBODY) -> tuple[int, ...]:
        """As `run`; raises `IntegrityError` unless these pages are used and are all that `owner` has."""
        pages: list[int] = []
        page = first
        for _ in range(num):
            if not self.is_used(page):
                raise IntegrityError(f"{page=} is not allocated, but is in use by {owner=}, after {pages}")
            pages.append(page)
            page = self._next[page]
        if num and page != -1 - owner:
            raise IntegrityError(f"pages {pages} are followed by {page} and not by the end of {owner=}")
        return tuple(pages)

    def check_links(self, start: int, end: int) -> None:
        """Raises `IntegrityError` where one of the pages `start..end-1` leads from free pages to used ones or back."""
        is_used = np.frombuffer(self._is_used, np.uint8)
        following = np.frombuffer(self._next, np.int32)[start:end]
        leads_on = following > NULL_PAGE
        wrong = (following < 0) & (is_used[start:end] == 0)
        wrong |= following >= self.num_pages
        at = np.minimum(np.where(leads_on, following, NULL_PAGE), self.num_pages - 1)
        wrong |= leads_on & (is_used[at] != is_used[start:end])
        if is_used[NULL_PAGE] or wrong.any():
            raise IntegrityError(f"links lead astray from pages {(start + np.flatnonzero(wrong)[:4]).tolist()}")

    def check_counts(self) -> None:
        """Raises `IntegrityError` unless as many pages are marked used as are not counted as free; vectorised."""
        num_used = int(np.count_nonzero(np.frombuffer(self._is_used, np.bool_)))
        if num_used != self.num_used:
            raise IntegrityError(f"{num_used} pages are marked used, {self.num_used} are not free")

    def check_integrity(self) -> None:
        """Raises `IntegrityError` unless every page but the null page is either free or used; O(pages)."""
        self.check_counts()
        self.check_links(1, self.num_pages)
        page, num = self._first_free, 0
        while page > NULL_PAGE and num <= self.num_free:
            num += 1
            page = self._next[page]
        if (page, num) != (NULL_PAGE, self.num_free):
            raise IntegrityError(f"{self.num_free} pages are free, {num} of them are found")


def num_pages_for_budget(budget_bytes: int, page_bytes: int, *, min_pages: int = 2) -> int:
    """How many pages, the null page counted, fit in `budget_bytes`; ValueError if fewer than `min_pages`.

    `page_bytes` is one page's keys and values over all layers.
    """
    if page_bytes < 1:
        raise ValueError(f"{page_bytes=} must be at least 1")
    num_pages = budget_bytes // page_bytes
    if num_pages < min_pages:
        raise ValueError(
            f"{budget_bytes=} holds {num_pages} pages of {page_bytes=}, {min_pages=}; "
            f"raise the budget to at least {min_pages * page_bytes} bytes"
        )
    return num_pages
