"""Reading a snapshot's KV: from a segment to where it is copied to a device from, each block against its digest."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from pydantic import ValidationError

from rcjax.cache.keys import BlockKeys
from rcjax.cache.saved import digest_of_bytes
from rcjax.cache.snapshot.manifest import Manifest, SegmentUse
from rcjax.cache.snapshot.pool import PIECE_PAGES
from rcjax.cache.snapshot.segments import SavedBlock, SegmentIndex, digest_of, index_name, kv_name
from rcjax.cache.snapshot.store import SnapshotStore
from rcjax.kernels.kv import KVFormat, KVPages

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RankedBlock:
    """A block of a snapshot; rank 0 is the hottest. `where` are the pools that shall have it, by index."""

    rank: int
    segment: str
    saved: SavedBlock
    where: tuple[int, ...] = ()


def ranked_blocks(
    store: SnapshotStore, manifest: Manifest, keys: BlockKeys, kv_format: KVFormat
) -> tuple[list[RankedBlock], list[str]]:
    """The blocks of a snapshot, hottest first, and the names of those whose entries are damaged."""
    found: list[RankedBlock] = []
    corrupt: list[str] = []
    for use in manifest.segments:
        blocks = _index(store, use)
        if blocks is None:
            corrupt += [f"block {at} of segment {use.name}" for at, _ in use.rows.tolist()]
            continue
        for at, rank in use.rows.tolist():
            saved = blocks[at]
            is_right = saved.num_bytes == saved.num_pages * kv_format.page_bytes
            if is_right and keys.key(saved.kind, saved.owner, saved.token_ids).hex() == saved.key:
                found.append(RankedBlock(rank, use.name, saved))
            else:
                corrupt.append(str(saved))
    return sorted(found, key=lambda block: block.rank), corrupt


def _index(store: SnapshotStore, use: SegmentUse) -> list[SavedBlock] | None:
    """The blocks of a segment; None, and a warning, where its index is missing or damaged."""
    value = store.read(index_name(use.name))
    if value is None or digest_of(value) != use.digest:
        _log.warning("the index of segment %s is missing or damaged; its blocks are computed anew", use.name)
        return None
    try:
        return SegmentIndex.model_validate_json(value).blocks
    except ValidationError:
        _log.warning("the index of segment %s is of another version; its blocks are computed anew", use.name)
        return None


def groups(blocks: Iterable[RankedBlock]) -> Iterator[list[RankedBlock]]:
    """Groups of blocks for the same pools, as many as one write takes, in the order in which they lie in segments."""
    group: list[RankedBlock] = []
    num_pages = 0
    for block in sorted(blocks, key=lambda block: (block.where, block.segment, block.saved.at)):
        if group and (block.where != group[0].where or num_pages + block.saved.num_pages > PIECE_PAGES):
            yield group
            group, num_pages = [], 0
        group.append(block)
        num_pages += block.saved.num_pages
    if group:
        yield group


def read_group(store: SnapshotStore, group: Sequence[RankedBlock], parts: Sequence[KVPages]) -> list[bool]:
    """Reads blocks into the pages of `parts`, one after another; of each whether it is all there, and intact.

    Nothing is copied on the host: KV is read to where a device takes it from, and held against its digest there.
    """
    first_pages = itertools.accumulate((block.saved.num_pages for block in group), initial=0)
    places = [_places(parts, at, block.saved.num_pages) for at, block in zip(first_pages, group, strict=False)]
    return [
        is_there and digest_of_bytes(bytes.fromhex(block.saved.key), own) == block.saved.digest
        for is_there, block, own in zip(_read(store, group, places), group, places, strict=True)
    ]


def _read(store: SnapshotStore, group: Sequence[RankedBlock], places: Sequence[list[memoryview]]) -> list[bool]:
    """Which of the blocks are there, read at once where they lie side by side."""
    is_side_by_side = all(
        after.segment == block.segment and after.saved.at == block.saved.at + block.saved.num_bytes
        for block, after in itertools.pairwise(group)
    )
    together = [place for own in places for place in own]
    if is_side_by_side and store.read_into(kv_name(group[0].segment), group[0].saved.at, together):
        return [True] * len(group)
    # A part may be there: what was cut off need not be all.
    return [
        store.read_into(kv_name(block.segment), block.saved.at, own) for block, own in zip(group, places, strict=True)
    ]


def _places(parts: Sequence[KVPages], first: int, num_pages: int) -> list[memoryview]:
    """Where the bytes of so many pages belong, in the order in which a segment has them."""
    places: list[memoryview] = []
    for of_parts in zip(*map(jax.tree.leaves, parts), strict=True):
        for layer in range(len(of_parts[0])):
            start = 0
            for pages in (array[layer] for array in of_parts):
                own = pages[max(first - start, 0) : max(first + num_pages - start, 0)]
                if own.size:
                    places.append(memoryview(own.reshape(-1).view(np.uint8)))
                start += len(pages)
    return places
