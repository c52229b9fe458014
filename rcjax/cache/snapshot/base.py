"""What a new snapshot builds on: the segments of the newest one, and which of their blocks it may keep there."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rcjax.cache.blocks import ListedBlock
from rcjax.cache.keys import BlockKeys
from rcjax.cache.snapshot.manifest import Manifest, SegmentUse, numbers_in, read_manifest
from rcjax.cache.snapshot.segments import SegmentIndex, digest_of, index_name
from rcjax.cache.snapshot.store import SnapshotStore
from rcjax.errors import InvalidRequestError
from rcjax.kernels.kv import KVFormat
from rcjax.prompt import BlockKind, Owner

_log = logging.getLogger(__name__)

MIN_LIVE_SHARE = 0.5  # of a segment's bytes: where less is still wanted, that is written anew
MAX_SMALL_SEGMENTS = 8  # with less than an eighth of the bytes of the largest; more of them are written as one


@dataclass(frozen=True, slots=True)
class SavedPlace:
    """Where a block is saved: the segment, its bytes, the digest of its index, and the place in that."""

    segment: str
    segment_bytes: int
    digest: str
    at: int
    num_bytes: int
    is_new: bool


@dataclass(frozen=True, slots=True)
class _Block:
    key: bytes
    kind: str
    owner: Owner
    place: SavedPlace


@dataclass(eq=False)
class Base:
    """The segments of the newest snapshot that is of the same set-up; none where there is no such."""

    kv_shape: tuple[int, int, int]
    segments: list[list[_Block]] = field(default_factory=list)
    record_parts: set[str] = field(default_factory=set)

    @staticmethod
    def read(store: SnapshotStore, keys: BlockKeys, kv_format: KVFormat) -> "Base":
        base = Base((kv_format.num_layers, kv_format.num_kv_heads, kv_format.head_dim))
        manifest = _newest_same(store, keys, kv_format)
        if manifest is None:
            return base
        there = set(store.list("segments/")) | set(store.list("library/"))
        for use in manifest.segments:
            blocks = _read_blocks(store, use) if f"segments/{use.name}" in there else None
            if blocks is not None:
                base.segments.append(blocks)
        parts = (*manifest.items, *manifest.users, *manifest.orders)
        base.record_parts = {part.digest for part in parts if f"library/{part.digest}" in there}
        return base

    def places_to_keep(
        self, wanted: Mapping[bytes, ListedBlock], is_known: Callable[[str, Owner], bool]
    ) -> dict[bytes, SavedPlace]:
        """Where blocks are saved that need not be written again.

        Not those in a segment that is mostly of no use any more, that is one of too many small ones, or that has
        anything of a user who is gone: such a segment is left behind, so that it goes with the last snapshot that
        refers to it.
        """
        kept = [blocks for blocks in self.segments if self._is_worth_keeping(blocks, wanted, is_known)]
        largest = max((blocks[0].place.segment_bytes for blocks in kept), default=0)
        small = [blocks for blocks in kept if blocks[0].place.segment_bytes < largest / 8]
        if len(small) > MAX_SMALL_SEGMENTS:
            kept = [blocks for blocks in kept if blocks not in small]
        return {block.key: block.place for blocks in kept for block in blocks if block.key in wanted}

    @staticmethod
    def _is_worth_keeping(
        blocks: Sequence[_Block], wanted: Mapping[bytes, ListedBlock], is_known: Callable[[str, Owner], bool]
    ) -> bool:
        if any(block.kind == BlockKind.HISTORY and not is_known(block.kind, block.owner) for block in blocks):
            return False
        num_live = sum(block.place.num_bytes for block in blocks if block.key in wanted)
        return num_live >= MIN_LIVE_SHARE * sum(block.place.num_bytes for block in blocks)

    @staticmethod
    def uses(hot_first: Sequence[SavedPlace]) -> list[SegmentUse]:
        """The segments of a manifest with these blocks."""
        ranks: dict[str, dict[int, int]] = {}
        segments: dict[str, SavedPlace] = {}
        for rank, place in enumerate(hot_first):
            segments[place.segment] = place
            ranks.setdefault(place.segment, {})[place.at] = rank
        return [SegmentUse.of(name, place.segment_bytes, place.digest, ranks[name]) for name, place in segments.items()]


def _newest_same(store: SnapshotStore, keys: BlockKeys, kv_format: KVFormat) -> Manifest | None:
    for number in reversed(numbers_in(store)):
        try:
            manifest = read_manifest(store, number)
        except InvalidRequestError as error:
            _log.warning("%s; it is built on an older one", error)
            continue
        return manifest if manifest.is_same(keys, kv_format) else None
    return None


def _read_blocks(store: SnapshotStore, use: SegmentUse) -> list[_Block] | None:
    """The blocks of a segment; None, and they are written anew, where its index is damaged."""
    value = store.read(index_name(use.name))
    if value is None or digest_of(value) != use.digest:
        _log.warning("the index of segment %s is damaged; its blocks are saved anew", use.name)
        return None
    return [
        _Block(
            bytes.fromhex(block.key),
            block.kind,
            block.owner,
            SavedPlace(use.name, use.num_bytes, use.digest, at, block.num_bytes, False),
        )
        for at, block in enumerate(SegmentIndex.model_validate_json(value).blocks)
    ]
