"""Moving from one placement to another, against every renaming of the slices."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_kit import sets

from rcjax.cache.placement import Placement, moves


def stands(ids: str, num_slices: int) -> st.SearchStrategy[list[set[int]]]:
    return st.lists(st.sets(st.integers(0, num_slices - 1), min_size=1), min_size=len(ids), max_size=len(ids))


def placement(ids: str, num_slices: int, of_items: list[set[int]]) -> Placement:
    rows = [row for row, there in enumerate(of_items) for _ in there]
    slices = [number for there in of_items for number in sorted(there)]
    return Placement.of_pairs(list(ids), np.array(rows, np.int64), np.array(slices, np.int64), num_slices)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 4), st.sampled_from(["abcdefg", ""]), st.sampled_from(["defghij", ""]))
def test_the_fewest_blocks_move(data, num_slices, old_ids, new_ids):
    old = placement(old_ids, num_slices, data.draw(stands(old_ids, num_slices)))
    new = placement(new_ids, num_slices, data.draw(stands(new_ids, num_slices)))
    found = moves(old, new)
    before = {(old.item_ids[row], number) for number, rows in enumerate(sets(old)) for row in rows}

    def pairs(of: Placement, names: tuple[int, ...]) -> set[tuple[str, int]]:
        return {(of.item_ids[row], names[n]) for n, rows in enumerate(sets(of)) for row in rows}

    fewest = min(len(pairs(new, names) - before) for names in itertools.permutations(range(num_slices)))
    assert len(found.arriving) == fewest
    after = pairs(found.placement, tuple(range(num_slices)))
    assert after in [pairs(new, names) for names in itertools.permutations(range(num_slices))]
    assert {(found.placement.item_ids[row], number) for row, number in found.arriving.tolist()} == after - before
    assert {(old.item_ids[row], number) for row, number in found.leaving.tolist()} == before - after


def test_another_number_of_slices_is_refused():
    old = Placement.of_part(["a"], np.array([0]), 1)
    with pytest.raises(ValueError, match="is not that of the old placement, 1"):
        moves(old, Placement.of_part(["a"], np.array([0]), 2))
