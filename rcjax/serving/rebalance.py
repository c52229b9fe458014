"""Rebalancing: from one placement to another while requests and writes go on, with the fewest blocks built."""

from collections.abc import Callable, Sequence
from typing import Protocol

from rcjax.cache.placement import Placement, moves
from rcjax.prompt import BlockKind, Owner
from rcjax.request import Rebalanced
from rcjax.serving.fan_out import FanOut
from rcjax.serving.owners import Both, ItemOwners, OwnerRule, Placed, placement_of
from rcjax.serving.parts import BlockToBuild, Library, Planner
from rcjax.serving.versions import VersionKeeper

BATCH_ITEMS = 64  # of each slice at a time, so that writes need not wait long for the thread that plans them


class Steps(Protocol):
    """The thread that a rebalance takes its steps on (`rcjax.serving.writer.Writer`)."""

    def soon(self, step: Callable[[], None]) -> None:
        """Has it call `step`, after what waits there already."""
        ...

    def after_begun(self, step: Callable[[], None]) -> None:
        """Has it call `step` once all writes have ended that are begun now."""
        ...


class Rebalance:
    """One rebalance. `ended` is called once, with what it did or with the error for which the former owners stay.

    1. From now on items are written to their owners by both placements.
    2. Once the writes have ended that knew the former only, what a slice lacks of the new one is built, batch by batch.
    3. The new placement alone says who owns an item.
    4. Once the writes have ended that knew of both, slices drop what is not theirs any more.
    """

    def __init__(
        self,
        following: OwnerRule,
        planner: Planner,
        library: Library,
        versions: VersionKeeper,
        owners: ItemOwners,
        fan_out: FanOut,
        steps: Steps,
        ended: Callable[[Rebalanced | Exception], None],
    ):
        self._planner = planner
        self._library = library
        self._versions = versions
        self._owners = owners
        self._fan_out = fan_out
        self._steps = steps
        self._ended = ended
        self._former = owners.rule
        self._following = following
        self._arriving: dict[int, list[Owner]] = {}
        self._num_arriving = self._num_built = 0

    def begin(self) -> None:
        self._owners.swap(Both(self._former, self._following))
        self._steps.after_begun(self._guarded(self._find_arriving))

    def _guarded(self, step: Callable[[], None]) -> Callable[[], None]:
        def guarded() -> None:
            try:
                step()
            except Exception as error:
                self._fail(error)

        return guarded

    def _fail(self, error: Exception) -> None:
        self._owners.swap(self._former)
        self._ended(error)

    def _find_arriving(self) -> None:
        self._arriving = _gained(self._former, self._following, self._library.item_owners)
        self._num_arriving = sum(map(len, self._arriving.values()))
        self._build_batch()

    def _build_batch(self) -> None:
        """Builds some of what arrives, and then the next, until all is there."""
        if not self._arriving:
            self._owners.swap(self._following)
            self._steps.after_begun(self._guarded(self._drop_leaving))
            return
        batch = {index: items[-BATCH_ITEMS:] for index, items in self._arriving.items()}
        left = {index: items[:-BATCH_ITEMS] for index, items in self._arriving.items()}
        self._arriving = {index: items for index, items in left.items() if items}
        version = self._versions.begin_read()  # before anything is looked up: what is written later replaces it

        def then(num_built: int) -> None:
            self._versions.end_read(version)
            self._num_built += num_built
            self._steps.soon(self._guarded(self._build_batch))

        def failed(error: Exception) -> None:
            self._versions.end_read(version)
            self._fail(error)

        try:
            self._fan_out.fill(self._blocks(batch), version, then, failed)
        except Exception:
            self._versions.end_read(version)
            raise

    def _blocks(self, batch: dict[int, list[Owner]]) -> dict[int, Sequence[BlockToBuild]]:
        """The blocks of items of each slice; those deleted meanwhile are left out. Slices share them."""
        items = dict.fromkeys(item for of_slice in batch.values() for item in of_slice)
        found = {item: self._planner.item_block(item) for item in items}
        parts = {index: [found[item] for item in of_slice] for index, of_slice in batch.items()}
        return {index: blocks for index, part in parts.items() if (blocks := [one for one in part if one is not None])}

    def _drop_leaving(self) -> None:
        leaving = _gained(self._following, self._former, self._library.item_owners)
        names = {index: [(BlockKind.ITEM, item) for item in items] for index, items in leaving.items()}
        result = Rebalanced(self._num_arriving, self._num_built, sum(map(len, leaving.values())))
        version = self._versions.begin_write()  # newer than all that the slices hold

        def end(outcome: Rebalanced | Exception) -> None:
            self._versions.end_write(version)
            self._ended(outcome)

        # The owners are swapped: a slice that cannot drop keeps what it evicts sooner or later.
        self._fan_out.drop(names, version, lambda _: end(result), end)


def renumbered(placement: Placement, former: OwnerRule, library: Library) -> OwnerRule:
    """The rule of a placement whose slices are numbered so that the fewest blocks have to come to one."""
    # Newcomers of the placement stand where the hash of their id says, whatever its slices are called.
    known = placement_of(former, [item.full_id for item in library.item_owners])
    return Placed(moves(known, placement).placement)


def _gained(former: OwnerRule, following: OwnerRule, items: Sequence[Owner]) -> dict[int, list[Owner]]:
    """The items that each slice owns by `following` and not by `former`."""
    gained: dict[int, list[Owner]] = {}
    for item in items:
        had = former.slices_of(item.full_id)
        for index in following.slices_of(item.full_id):
            if index not in had:
                gained.setdefault(index, []).append(item)
    return gained
