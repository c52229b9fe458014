"""Restoring a snapshot: its records, then KV, the hottest first, into the free pages of as many pools as there are."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from rcjax.cache.keys import BlockKeys
from rcjax.cache.snapshot.manifest import Manifest, RecordsPart, read_manifest
from rcjax.cache.snapshot.orders import owner_of, put_orders
from rcjax.cache.snapshot.pool import Installed, Pool
from rcjax.cache.snapshot.reading import RankedBlock, groups, ranked_blocks, read_group
from rcjax.cache.snapshot.records import Record, read_records
from rcjax.cache.snapshot.report import SnapshotReport
from rcjax.cache.snapshot.store import SnapshotStore
from rcjax.errors import InvalidRequestError
from rcjax.prompt import Owner

NUM_READS = 4  # under way at once: while one is checked or copied to a device, others wait for the disk

IsWanted = Callable[[int, str, Owner], bool]  # by pool, kind and owner


def open_snapshot(
    store: SnapshotStore,
    keys: BlockKeys,
    pools: Sequence[Pool],
    *,
    is_wanted: IsWanted = lambda index, kind, owner: True,
    number: int | None = None,
    version: int = 0,
) -> "Restoring":
    """The newest snapshot, or the one of that number, to be restored into `pools`; reads its manifest only.

    `is_wanted` says whether the block of a kind and owner belongs into a pool; those that no pool wants count nowhere.
    `version` is that of a read that lives until the end: what is deleted meanwhile does not come back. Raises
    `NotFoundError` where there is no such snapshot, `InvalidRequestError` where it is not readable or its KV is not
    what these pools hold.
    """
    manifest = read_manifest(store, number)
    manifest.check_same(keys, pools[0].pages.format)
    return Restoring(store, keys, pools, manifest, is_wanted, version)


@dataclass(eq=False)
class Restoring:
    """A snapshot on its way back; for one thread, while the pools' owners go on with what they do.

    First `records` of items and users, as `is_wanted` may ask for what is known; then `restore` once or more, and
    `finish`.
    """

    store: SnapshotStore
    keys: BlockKeys
    pools: Sequence[Pool]
    manifest: Manifest
    is_wanted: IsWanted
    version: int
    _waiting: list[RankedBlock] | None = None  # hottest first; None: not looked at yet
    _num_chosen: int = 0
    _restored: list[RankedBlock] = field(default_factory=list)
    _done: Installed = field(default_factory=Installed)
    _corrupt: list[str] = field(default_factory=list)

    def records(self, kind: Literal["items", "users"]) -> Iterator[list[Record]]:
        """Some at a time; `InvalidRequestError` where some are damaged, as what is known shall not shrink unseen."""
        parts: list[RecordsPart] = getattr(self.manifest, kind)
        for found in read_records(self.store, parts):
            if isinstance(found, RecordsPart):
                raise InvalidRequestError(
                    f"{self.store}: {found.num_records} {kind} of snapshot {self.manifest.number} are damaged or "
                    f"missing (library/{found.digest}); restore another snapshot, or none"
                )
            yield found

    def restore(self, share: float = 1.0) -> None:
        """Restores the hottest blocks, up to that share of those that the pools have room for and lack."""
        if self._waiting is None:
            self._waiting = self._choose()
            self._num_chosen = len(self._waiting)
        num = round(share * self._num_chosen) - (self._num_chosen - len(self._waiting))
        now, self._waiting = self._waiting[: max(num, 0)], self._waiting[max(num, 0) :]
        with ThreadPoolExecutor(NUM_READS, "rcjax-restore") as threads:
            for done, corrupt in threads.map(self._restore_group, groups(now)):
                self._done += done
                self._corrupt += [str(block.saved) for block in corrupt]
        self._restored += now

    def finish(self) -> SnapshotReport:
        """Restores the orders of correction, and the order in which blocks were used; says what was done in all."""
        self._restore_orders()
        cold_first = sorted(self._restored, key=lambda block: -block.rank)
        for index, pool in enumerate(self.pools):
            pool.use([bytes.fromhex(block.saved.key) for block in cold_first if index in block.where])
        return self.report

    @property
    def report(self) -> SnapshotReport:
        """What was done so far."""
        return SnapshotReport(
            num_blocks=self._done.num_blocks,
            num_bytes=self._done.num_pages * self.pools[0].pages.format.page_bytes,
            num_skipped=self._done.num_skipped,
            num_present=self._done.num_present,
            corrupt=tuple(self._corrupt),
            number=self.manifest.number,
        )

    # ---- what is restored where

    def _choose(self) -> list[RankedBlock]:
        """The blocks that some pool wants, lacks and has room for, hottest first; the others are counted."""
        blocks, corrupt = ranked_blocks(self.store, self.manifest, self.keys, self.pools[0].pages.format)
        self._corrupt += corrupt
        where: dict[int, list[int]] = {block.rank: [] for block in blocks}
        for index, pool in enumerate(self.pools):
            for block in self._chosen_for(index, pool, blocks):
                where[block.rank].append(index)
        return [dataclasses.replace(block, where=tuple(where[block.rank])) for block in blocks if where[block.rank]]

    def _chosen_for(self, index: int, pool: Pool, blocks: Sequence[RankedBlock]) -> list[RankedBlock]:
        wanted = [block for block in blocks if self.is_wanted(index, block.saved.kind, block.saved.owner)]
        is_held = pool.holds([(block.saved.kind, block.saved.owner) for block in wanted])
        absent = [block for block, held in zip(wanted, is_held, strict=True) if not held]
        self._done.num_present += len(wanted) - len(absent)
        num_free = pool.run(lambda: pool.directory.pool.num_free)
        chosen = []
        for block in absent:
            if block.saved.num_pages <= num_free:
                num_free -= block.saved.num_pages
                chosen.append(block)
        self._done.num_skipped += len(absent) - len(chosen)
        return chosen

    # ---- KV

    def _restore_group(self, group: Sequence[RankedBlock]) -> tuple[Installed, list[RankedBlock]]:
        pools = [self.pools[index] for index in group[0].where]
        saved = [block.saved for block in group]
        parts = pools[0].pages.host_parts(sum(block.num_pages for block in saved))
        is_intact = read_group(self.store, group, parts)
        done = Installed()
        for pool in pools:
            done += pool.install(saved, is_intact, parts, self.version)
        return done, [block for block, intact in zip(group, is_intact, strict=True) if not intact]

    # ---- orders

    def _restore_orders(self) -> None:
        for found in read_records(self.store, self.manifest.orders):
            if isinstance(found, RecordsPart):
                self._corrupt += [f"an order in {found.digest}"] * found.num_records
                continue
            for index, pool in enumerate(self.pools):
                put_orders(pool, [one for one in found if self.is_wanted(index, one["kind"], owner_of(one))])
