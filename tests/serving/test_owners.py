"""Owners of items: each rule, and the swap from one to another."""

import numpy as np
import pytest

from rcjax.cache.placement import HashMethod, Placement, PlacementInput, request_matrix
from rcjax.cache.placement.method import silent
from rcjax.serving.owners import Both, Everywhere, Hashed, ItemOwners, Placed, placement_of

IDS = tuple(f"item-{number}" for number in range(200))
PLACED = Placement.of_pairs(("a", "b"), np.array([0, 0, 1]), np.array([2, 0, 1]), 3)


def test_each_rule_names_an_item_s_slices() -> None:
    assert Everywhere(3).slices_of("a") == (0, 1, 2)
    assert [Placed(PLACED).slices_of(item_id) for item_id in "ab"] == [(0, 2), (1,)]


def test_hashed_items_stand_where_the_placement_of_that_name_has_them() -> None:
    requests, _ = request_matrix([IDS], {item_id: row for row, item_id in enumerate(IDS)})
    placed = HashMethod().place(PlacementInput(IDS, np.ones(len(IDS)), requests, 5), silent)
    assert placement_of(Hashed(5), IDS).fingerprint == placed.fingerprint
    assert set(placed.slices.tolist()) == set(range(5))


def test_newcomers_of_a_placement_stand_where_their_hash_says() -> None:
    assert [Placed(PLACED).slices_of(item_id) for item_id in IDS] == [Hashed(3).slices_of(one) for one in IDS]


def test_both_is_the_union() -> None:
    both = Both(Placed(PLACED), Hashed(3))
    for item_id in ("a", "b", *IDS):
        assert set(both.slices_of(item_id)) == {*Placed(PLACED).slices_of(item_id), *Hashed(3).slices_of(item_id)}
        assert list(both.slices_of(item_id)) == sorted(both.slices_of(item_id))


def test_owners_are_swapped_for_others_of_as_many_slices() -> None:
    owners = ItemOwners(Everywhere(3))
    former = owners.rule
    assert owners.swap(Placed(PLACED)) is former
    assert owners.slices_of("b") == (1,)
    with pytest.raises(ValueError, match="owners for 4 slices; the mesh has 3"):
        owners.swap(Hashed(4))
    assert owners.slices_of("b") == (1,)
