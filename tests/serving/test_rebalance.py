"""Rebalances: which blocks they build and drop, and what they leave alone while others go on."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manual_slice import ManualMesh, put, user

from rcjax.cache.placement import Placement
from rcjax.errors import ResourceExhaustedError, UnavailableError
from rcjax.prompt import BlockKind
from rcjax.request import DeleteItems, PutUser, Rebalanced
from rcjax.serving import rebalance
from rcjax.serving.owners import ItemOwners, Placed

ITEM = BlockKind.ITEM
IDS = ("a", "b", "c", "d", "e", "f")


def placed(*owners: str, ids: tuple[str, ...] = IDS, num_slices: int = 3) -> Placement:
    """A digit for each slice of an item, as in "0" or "02"."""
    pairs = [(row, int(digit)) for row, digits in enumerate(owners) for digit in digits]
    rows, slices = np.array(pairs, np.int64).reshape(-1, 2).T
    return Placement.of_pairs(ids[: len(owners)], rows, slices, num_slices)


def filled(placement: Placement) -> ManualMesh:
    mesh = ManualMesh(placement.num_slices, owners=ItemOwners(Placed(placement)))
    for number, item_id in enumerate(placement.item_ids):
        mesh.do(put(item_id, number))
    mesh.do(PutUser(user("u", 7)))
    return mesh


def holders(mesh: ManualMesh) -> list[str]:
    """As `placed` takes them."""
    return [
        "".join(str(one.index) for one in mesh.slices if (ITEM, item_id) in one.held)
        for item_id in IDS[: mesh.library.num_items]
    ]


part = st.lists(st.sampled_from(["0", "1", "2", "01", "02", "12", "012"]), min_size=6, max_size=6)


@settings(max_examples=40)
@given(former=part, following=part)
def test_the_fewest_blocks_are_built_and_the_rest_dropped(former: list[str], following: list[str]) -> None:
    with filled(placed(*former)) as mesh:
        future = mesh.router.rebalance(placed(*following))
        mesh.run()

        def renamed(names: tuple[int, ...]) -> list[str]:
            return ["".join(sorted(str(names[int(digit)]) for digit in digits)) for digits in following]

        def num_new(owners: list[str], had: list[str]) -> int:
            return sum(len(set(now) - set(before)) for now, before in zip(owners, had, strict=True))

        now = holders(mesh)
        assert now in [renamed(names) for names in permutations(range(3))]
        fewest = min(num_new(renamed(names), former) for names in permutations(range(3)))
        assert future.result(0) == Rebalanced(fewest, fewest, num_new(former, now))
        assert num_new(now, former) == fewest
        assert [mesh.router.owners.slices_of(item_id) for item_id in IDS] == [tuple(map(int, one)) for one in now]
        assert mesh.library.versions._reads == {}
        assert mesh.library.versions._writes == {}


def test_requests_and_writes_go_on_and_are_right() -> None:
    with filled(placed("0", "0", "0", "1", "1", "2")) as mesh:
        straggler = mesh.write(put("a", 10))  # knows the former owners only
        future = mesh.router.rebalance(placed("1", "0", "0", "1", "1", "2"))
        mesh.settle()
        assert mesh.router.owners.slices_of("a") == (0, 1)
        asked = mesh.ask("u", "a", "b")
        newer = mesh.write(put("a", 11))  # goes to both
        assert [len(one.work) for one in mesh.slices] == [3, 1, 0]
        mesh.run()
        assert (straggler.result(0).num_built, newer.result(0).num_built) == (1, 2)
        assert [ranked.score for ranked in asked.result(0).ranking] == [0.0, 1.0]
        assert future.result(0) == Rebalanced(1, 1, 1)  # built what the straggler put, which 11 overtook
        assert [one.holds(ITEM, "a", 11) for one in mesh.slices] == [False, True, False]


def test_what_a_straggler_put_is_moved_too() -> None:
    with filled(placed("0", "0", "1", "1", "2", "2")) as mesh:
        straggler = mesh.write(put("a", 10))
        future = mesh.router.rebalance(placed("1", "0", "1", "1", "2", "2"))
        mesh.run()
        assert straggler.result(0).num_built == 1
        assert future.result(0) == Rebalanced(1, 1, 1)
        assert [one.holds(ITEM, "a", 10) for one in mesh.slices] == [False, True, False]


def test_what_is_deleted_meanwhile_does_not_come_back() -> None:
    with filled(placed("0", "0", "1", "1", "2", "2")) as mesh:
        future = mesh.router.rebalance(placed("1", "0", "1", "1", "2", "2"))
        mesh.settle()
        assert [name for name, *_ in mesh.slices[1].work] == ["fill"]  # planned before the deletion
        deletion = mesh.write(DeleteItems(("a",)))
        mesh.slices[1].work.rotate(-1)  # and done after it
        mesh.run()
        assert deletion.result(0).num_deleted == 1
        assert future.result(0).num_built == 1
        assert all((ITEM, "a") not in one.held for one in mesh.slices)


def test_blocks_are_built_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebalance, "BATCH_ITEMS", 2)
    with filled(placed("0", "0", "0", "0", "0", "1")) as mesh:
        future = mesh.router.rebalance(placed("01", "01", "01", "01", "01", "1"))
        mesh.settle()
        fills = []
        while mesh.slices[1].work:
            before = len(mesh.slices[1].held)
            fills.append((mesh.slices[1].step(), len(mesh.slices[1].held) - before))
            mesh.settle()
        assert fills == [("fill", 2), ("fill", 2), ("fill", 1)]
        assert future.result(0) == Rebalanced(5, 5, 0)


def test_where_a_slice_cannot_build_the_former_owners_stay() -> None:
    with filled(placed("0", "0", "1", "1", "2", "2")) as mesh:
        former = mesh.router.owners.rule
        future = mesh.router.rebalance(placed("1", "0", "1", "1", "2", "2"))
        mesh.settle()
        _, fill, _ = mesh.slices[1].work.popleft()
        fill.set_exception(ResourceExhaustedError("the pool is full"))
        mesh.run()
        assert str(future.exception(0)) == "the pool is full"
        assert mesh.router.owners.rule is former
        assert mesh.library.versions._reads == {}
        again = mesh.router.rebalance(placed("1", "0", "1", "1", "2", "2"))
        mesh.run()
        assert again.result(0) == Rebalanced(1, 1, 1)


def test_a_dying_slice_does_not_hold_it_up() -> None:
    with filled(placed("0", "0", "1", "1", "2", "2")) as mesh:
        future = mesh.router.rebalance(placed("2", "0", "1", "1", "2", "0"))
        mesh.settle()
        mesh.slices[2].die()
        mesh.run()
        assert future.result(0) == Rebalanced(2, 1, 2)
        assert [one.holds(ITEM, "f", 5) for one in mesh.slices[:2]] == [True, False]


def test_one_at_a_time_and_of_as_many_slices() -> None:
    with filled(placed("0", "0", "1", "1", "2", "2")) as mesh:
        first, second = (mesh.router.rebalance(placed("1", "0", "1", "1", "2", "2")) for _ in range(2))
        mesh.run()
        with pytest.raises(ResourceExhaustedError, match="a rebalance is under way"):
            second.result(0)
        assert first.result(0).num_arriving == 1
        with pytest.raises(ValueError, match="a placement on 2 slices; the mesh has 3"):
            mesh.router.rebalance(placed("0", "1", num_slices=2))


def test_stopping_answers_it() -> None:
    with filled(placed("0", "0", "1", "1", "2", "2")) as mesh:
        future = mesh.router.rebalance(placed("1", "0", "1", "1", "2", "2"))
        mesh.settle()
        mesh.router.stop(0.0)
        with pytest.raises(UnavailableError, match="stopped"):
            future.result(0)
