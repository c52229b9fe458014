"""Whether a pool's pages and its blocks agree."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from rcjax.cache.blocks import SCRATCH, BlockState, CachedBlock
from rcjax.cache.errors import IntegrityError
from rcjax.cache.eviction import EvictionPolicy
from rcjax.cache.pages import PagePool


@dataclass(frozen=True, slots=True)
class PageCounts:
    by_kind: Counter[str]
    num_evictable: int


def recount_pages(pool: PagePool, policy: EvictionPolicy, blocks: Iterable[CachedBlock]) -> PageCounts:
    """Counts the pages of `blocks`, all that hold any; `IntegrityError` unless each used page is in just one.

    Checks also that a block has as many pages as its tokens need, that blocks without pins are ready ones,
    and that these and no others are known to the policy.
    """
    holder: dict[int, CachedBlock] = {}
    by_kind: Counter[str] = Counter()
    evictable: list[CachedBlock] = []
    for block in blocks:
        if block.kind != SCRATCH and len(block.pages) != pool.pages_for(block.num_tokens):
            raise IntegrityError(f"not the pages of {block.num_tokens} tokens: {block}")
        for page in block.pages:
            if page in holder:
                raise IntegrityError(f"{page=} is in two blocks: {holder[page]} and {block}")
            if not pool.is_used(page):
                raise IntegrityError(f"{page=} is not allocated, but is in {block}")
            holder[page] = block
        by_kind[block.kind] += len(block.pages)
        if block.pins < 0 or (not block.pins and block.state is not BlockState.READY):
            raise IntegrityError(f"a {block.state} block must have a pin: {block}")
        if not block.pins:
            evictable.append(block)
    if len(holder) != pool.num_used:
        raise IntegrityError(f"{pool.num_used} pages are used, {len(holder)} of them by blocks")
    if len(policy) != len(evictable) or any(block.key not in policy for block in evictable):
        raise IntegrityError(f"the policy knows {len(policy)} blocks, not the {len(evictable)} evictable ones")
    return PageCounts(by_kind, sum(len(block.pages) for block in evictable))
