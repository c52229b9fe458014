"""Taking a snapshot: what was saved before stays where it is, what is new goes into new segments."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rcjax.cache.blocks import ListedBlock
from rcjax.cache.keys import BlockKeys
from rcjax.cache.snapshot.base import Base, SavedPlace
from rcjax.cache.snapshot.manifest import Manifest, RecordsPart, numbers_in, write_manifest
from rcjax.cache.snapshot.orders import order_records
from rcjax.cache.snapshot.pool import PIECE_PAGES, Pool
from rcjax.cache.snapshot.records import Record, write_records
from rcjax.cache.snapshot.report import SnapshotReport
from rcjax.cache.snapshot.retention import delete_unreferenced
from rcjax.cache.snapshot.segments import SegmentBuilder, digest_of, index_name, kv_name
from rcjax.cache.snapshot.store import SnapshotStore
from rcjax.prompt import BlockKind, Owner

SEGMENT_BYTES = 2**26  # of KV in a segment, or one block if that is larger; each slice holds one in memory

Records = Mapping[str, Callable[[], Record]]  # by id; made when needed


@dataclass(frozen=True)
class Content:
    """What a snapshot holds besides KV, asked for once the KV is written: items and users by id.

    `is_known` says whether an item or user is still there: nothing of another goes into the snapshot.
    """

    items: Callable[[], Records] = dict
    users: Callable[[], Records] = dict
    is_known: Callable[[str, Owner], bool] = lambda kind, owner: True


class Pace:
    """Rests between pieces for `rest_share` of the time that they took, so that others get processor and disk."""

    def __init__(self, rest_share: float, clock: Callable[[], float], sleep: Callable[[float], object]):
        self._rest_share = rest_share
        self._clock = clock
        self._sleep = sleep
        self._since_s = clock()

    def rest(self) -> None:
        """To be called after each piece."""
        if self._rest_share > 0:
            self._sleep((self._clock() - self._since_s) * self._rest_share)
        self._since_s = self._clock()


def save_snapshot(
    store: SnapshotStore,
    keys: BlockKeys,
    pools: Sequence[Pool],
    content: Content | None = None,
    *,
    keep: int = 1,
    rest_share: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> SnapshotReport:
    """Saves the ready blocks and orders of all pools and `content` as the newest snapshot, and keeps the `keep` newest.

    Call it from a thread of its own: it reads the pools in pieces, between the passes of those who own them. A block
    that several hold is written once, and not at all where a former snapshot has it. Until the manifest is written,
    which is the last step, the former snapshots are all there is; if this fails, what it wrote is deleted. Raises
    `DiskError` where the store cannot be written, `ResourceExhaustedError` while another writes.
    """
    with store.exclusive():
        saver = _Saver(store, keys, pools, content or Content(), lambda: Pace(rest_share, clock, sleep))
        try:
            report = saver.save()
        except BaseException:
            saver.clean_up()
            raise
        delete_unreferenced(store, keep)
        return report


@dataclass(slots=True)
class _Listed:
    """A block that is to be in the snapshot: how lately it was used (0 to 1), and the pools that hold it."""

    block: ListedBlock
    heat: float
    holders: list[int]


@dataclass(eq=False)
class _Saver:
    store: SnapshotStore
    keys: BlockKeys
    pools: Sequence[Pool]
    content: Content
    new_pace: Callable[[], Pace]
    inline: set[bytes] = field(default_factory=set)
    written: list[str] = field(default_factory=list)  # names of values

    def save(self) -> SnapshotReport:
        numbers = numbers_in(self.store)
        listed = self._list()
        base = Base.read(self.store, self.keys, self.pools[0].pages.format)
        places = base.places_to_keep({key: one.block for key, one in listed.items()}, self.content.is_known)
        missing = [one for key, one in listed.items() if key not in places]
        for built in self._write_missing(missing):
            places.update(built)
        pace = self.new_pace()
        orders = self._records(self._order_records(), base.record_parts, pace)
        items, users = (self._records(of(), base.record_parts, pace) for of in (self.content.items, self.content.users))
        places = {
            key: place
            for key, place in places.items()
            if self.content.is_known(listed[key].block.kind, listed[key].block.owner)
        }
        hot_first = sorted(places, key=lambda key: -listed[key].heat)
        manifest = Manifest(
            number=numbers[-1] + 1 if numbers else 1,
            taken_at_s=time.time(),
            identity=self.keys.identity,
            instruction=self.keys.instruction.hex(),
            kv_shape=base.kv_shape,
            segments=base.uses([places[key] for key in hot_first]),
            items=items,
            users=users,
            orders=orders,
        )
        write_manifest(self.store, manifest)
        self.written = []
        new = [place for place in places.values() if place.is_new]
        return SnapshotReport(
            num_blocks=len(places),
            num_bytes=sum(place.num_bytes for place in places.values()),
            num_skipped=len(self.inline),
            number=manifest.number,
            num_written=len(new),
            written_bytes=sum(place.num_bytes for place in new),
            num_items=sum(part.num_records for part in items),
            num_users=sum(part.num_records for part in users),
        )

    def clean_up(self) -> None:
        """Deletes what was written for nothing, as far as that can be done."""
        for name in self.written:
            self.store.delete_quietly(name)

    # ---- listing

    def _list(self) -> dict[bytes, _Listed]:
        """What is to be in the snapshot, by key."""
        found: dict[bytes, _Listed] = {}
        for index, pool in enumerate(self.pools):
            pace = self.new_pace()
            blocks = []
            for some in pool.listed():
                blocks += some
                pace.rest()
            blocks.sort(key=lambda block: block.last_use)
            for place, block in enumerate(blocks):
                if block.kind == BlockKind.INSTRUCTION:
                    continue
                if block.owner.is_inline:
                    self.inline.add(block.key)
                    continue
                one = found.setdefault(block.key, _Listed(block, 0.0, []))
                one.heat = max(one.heat, (place + 1) / len(blocks))
                if index not in one.holders:
                    one.holders.append(index)
        return found

    # ---- KV

    def _write_missing(self, missing: Sequence[_Listed]) -> Iterator[dict[bytes, SavedPlace]]:
        """Writes blocks into new segments, each by one of the pools that hold it, all pools at once."""
        of_pool: list[list[ListedBlock]] = [[] for _ in self.pools]
        num_pages = [0] * len(self.pools)
        # Hot ones first, so that what is restored first lies together.
        for one in sorted(missing, key=lambda one: (one.block.kind, -one.heat)):
            index = min(one.holders, key=num_pages.__getitem__)
            of_pool[index].append(one.block)
            num_pages[index] += one.block.num_pages
        with ThreadPoolExecutor(len(self.pools), "rcjax-snapshot") as threads:
            yield from threads.map(self._write_blocks, self.pools, of_pool)

    def _write_blocks(self, pool: Pool, blocks: Sequence[ListedBlock]) -> dict[bytes, SavedPlace]:
        pace, places = self.new_pace(), dict[bytes, SavedPlace]()
        builder = SegmentBuilder()
        former_kind = ""
        for piece in _pieces(blocks):
            # Items and histories lie apart: users come and go, and segments with them.
            if builder.num_bytes >= SEGMENT_BYTES or (builder.num_bytes and piece[0].kind != former_kind):
                places |= self._write_segment(builder)
                builder = SegmentBuilder()
            former_kind = piece[0].kind
            for block in pool.read([one.key for one in piece]):
                builder.add(block.key, block.kind, block.owner, block.token_ids, block.pages)
            pace.rest()
        if builder.blocks:
            places |= self._write_segment(builder)
        return places

    def _write_segment(self, builder: SegmentBuilder) -> dict[bytes, SavedPlace]:
        index = builder.index()
        for name, value in ((kv_name(builder.name), builder.kv()), (index_name(builder.name), index)):
            self.written.append(name)
            self.store.write(name, value)
        digest = digest_of(index)
        return {
            bytes.fromhex(block.key): SavedPlace(builder.name, builder.num_bytes, digest, at, block.num_bytes, True)
            for at, block in enumerate(builder.blocks)
        }

    # ---- records

    def _order_records(self) -> Records:
        found: dict[str, Any] = {}
        for pool in self.pools:
            found |= pool.run(partial(order_records, pool.directory))
        return {name: partial(dict, record) for name, record in found.items()}

    def _records(self, records: Records, known: set[str], pace: Pace) -> list[RecordsPart]:
        return write_records(self.store, records, known, pace.rest, self.written.append)


def _pieces(blocks: Sequence[ListedBlock]) -> Iterator[list[ListedBlock]]:
    """Groups blocks in order, of one kind, as many as one read takes and at least one."""
    piece: list[ListedBlock] = []
    num_pages = 0
    for block in blocks:
        if piece and (num_pages + block.num_pages > PIECE_PAGES or block.kind != piece[0].kind):
            yield piece
            piece, num_pages = [], 0
        piece.append(block)
        num_pages += block.num_pages
    if piece:
        yield piece
