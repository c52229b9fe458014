"""Lending: what a slice answers when another one asks for copies of its blocks."""

from collections.abc import Sequence

from rcjax.engine.block_cache import BlockCache
from rcjax.engine.fetch import Delivery
from rcjax.engine.plan import PlannedBlock


def lend(cache: BlockCache, wanted: Sequence[PlannedBlock]) -> Delivery:
    """Copies of the blocks that are cached, on this slice's devices and perhaps not ready yet; never waits.

    A copy is begun before any later write, so it holds what the pages hold now, whatever becomes of the blocks.
    """
    directory = cache.directory
    found = [directory.find(planned.key, planned.block.token_ids) for planned in wanted]
    held = [cached for cached in found if cached is not None]
    pages = [page for cached in held for page in cached.pages]
    parts = cache.executor.start_read(pages)
    for cached in held:  # to be asked for is a use
        directory.pin(cached)
        directory.unpin(cached)
    cache.num_lent_pages += len(pages)
    return Delivery(
        tuple(cached is not None for cached in found),
        tuple(None if cached is None else cached.order for cached in found),
        parts,
    )
