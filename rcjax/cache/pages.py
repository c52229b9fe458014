"""The page pool: which pages of a pool's KV arrays are free."""

from collections.abc import Sequence

from rcjax.cache.errors import IntegrityError
from rcjax.errors import ResourceExhaustedError

NULL_PAGE = 0


class PagePool:
    """Hands out page numbers `1..num_pages-1`; page 0 is the null page that pads page tables.

    Knows nothing of what the pages hold. Last freed, first reused; a fresh pool counts up from page 1.
    """

    def __init__(self, num_pages: int, page_tokens: int):
        if num_pages < 2:
            raise ValueError(f"{num_pages=} leaves no page beside the null page; at least 2 are needed")
        if page_tokens < 1:
            raise ValueError(f"{page_tokens=} must be at least 1")
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        self._free = list(range(num_pages - 1, NULL_PAGE, -1))  # a stack: its end is taken first
        self._is_used = bytearray(num_pages)

    @property
    def capacity_pages(self) -> int:
        """Pages that can hold tokens: all but the null page."""
        return self.num_pages - 1

    @property
    def num_free(self) -> int:
        return len(self._free)

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
        """Takes `num` pages, or none and raises `ResourceExhaustedError`; O(1) a page."""
        if num < 0:
            raise ValueError(f"{num=} pages to allocate must not be negative")
        if num > self.num_free:
            raise ResourceExhaustedError(
                f"{num} pages wanted, {self.num_free} free of {self.capacity_pages}; free some or enlarge it"
            )
        pages = tuple(self._free.pop() for _ in range(num))
        for page in pages:
            self._is_used[page] = 1
        return pages

    def free(self, pages: Sequence[int]) -> None:
        """Gives `pages` back, or none and raises ValueError if one of them is not allocated; O(1) a page."""
        for page in pages:
            if not self.is_used(page):
                raise ValueError(f"{page=} is not allocated (page {NULL_PAGE} never is)")
        if len(set(pages)) != len(pages):
            raise ValueError(f"a page is named twice in {pages=}")
        for page in pages:
            self._is_used[page] = 0
        self._free.extend(reversed(pages))

    def check_integrity(self) -> None:
        """Raises `IntegrityError` unless every page but the null page is either free or used; O(pages)."""
        free = set(self._free)
        if len(free) != len(self._free):
            raise IntegrityError("a page is in the free list twice")
        if self._is_used[NULL_PAGE] or NULL_PAGE in free:
            raise IntegrityError("the null page is in circulation")
        for page in range(1, self.num_pages):
            if (page in free) == self.is_used(page):
                raise IntegrityError(f"{page=} is {'both free and used' if page in free else 'neither free nor used'}")


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
