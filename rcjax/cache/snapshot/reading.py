"""Reading a snapshot's KV: blocks that lie together are read together, and each is held against its digest."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from rcjax.cache.keys import BlockKeys
from rcjax.cache.saved import digest_of_bytes, pages_from_bytes
from rcjax.cache.snapshot.manifest import Manifest, SegmentUse
from rcjax.cache.snapshot.segments import SavedBlock, SegmentIndex, digest_of, index_name, kv_name
from rcjax.cache.snapshot.store import SnapshotStore
from rcjax.kernels.kv import KVFormat, KVPages

_log = logging.getLogger(__name__)

READ_BYTES = 2**23  # read at once, or one block's if those are more
MAX_GAP_BYTES = 2**16  # read along and thrown away, rather than to read twice


@dataclass(frozen=True, slots=True)
class RankedBlock:
    """A block of a snapshot; rank 0 is the hottest. `where` are the pools that shall have it, by index."""

    rank: int
    segment: str
    saved: SavedBlock
    where: tuple[int, ...] = ()


def ranked_blocks(store: SnapshotStore, manifest: Manifest, keys: BlockKeys) -> tuple[list[RankedBlock], list[str]]:
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
            if keys.key(saved.kind, saved.owner, saved.token_ids).hex() == saved.key:
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


def reads(blocks: Iterable[RankedBlock]) -> Iterator[list[RankedBlock]]:
    """Groups of blocks that are read at once, each in the order in which they lie in one segment."""
    group: list[RankedBlock] = []
    for block in sorted(blocks, key=lambda block: (block.segment, block.saved.at)):
        if group and not _may_join(group, block):
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def _may_join(group: Sequence[RankedBlock], block: RankedBlock) -> bool:
    first, last = group[0], group[-1]
    gap = block.saved.at - (last.saved.at + last.saved.num_bytes)
    num_bytes = block.saved.at + block.saved.num_bytes - first.saved.at
    return block.segment == first.segment and gap <= MAX_GAP_BYTES and num_bytes <= READ_BYTES


def read_group(
    store: SnapshotStore, group: Sequence[RankedBlock], kv_format: KVFormat
) -> tuple[list[tuple[RankedBlock, KVPages]], list[RankedBlock]]:
    """The blocks of a group with their pages, and those that are damaged or missing."""
    start, last = group[0].saved.at, group[-1].saved
    value = store.read(kv_name(group[0].segment), start, last.at + last.num_bytes)
    if value is None:  # a part may be there: what was cut off need not be all
        if len(group) == 1:
            return [], list(group)
        intact: list[tuple[RankedBlock, KVPages]] = []
        corrupt: list[RankedBlock] = []
        for block in group:
            found, damaged = read_group(store, [block], kv_format)
            intact += found
            corrupt += damaged
        return intact, corrupt
    intact, corrupt = [], []
    view = memoryview(value)
    for block in group:
        saved = block.saved
        own = view[saved.at - start : saved.at - start + saved.num_bytes]
        is_intact = digest_of_bytes(bytes.fromhex(saved.key), own) == saved.digest
        pages = pages_from_bytes(own, kv_format, saved.num_pages) if is_intact else None
        if pages is not None:
            intact.append((block, pages))
        else:
            corrupt.append(block)
    return intact, corrupt
