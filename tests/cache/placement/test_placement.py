"""The placement value: lookups, checks, its file and its fingerprint."""

import json

import numpy as np
import pytest

from rcjax.cache.placement import Placement
from rcjax.errors import NotFoundError


@pytest.fixture
def placement() -> Placement:
    return Placement.of_pairs(["a", "b", "c"], np.array([2, 0, 2, 1]), np.array([1, 2, 0, 2]), 3)


def test_slices_of_an_item(placement):
    assert {item_id: placement.slices_of(item_id).tolist() for item_id in "abc"} == {"a": [2], "b": [2], "c": [0, 1]}


def test_an_unknown_item_is_refused_by_name(placement):
    with pytest.raises(NotFoundError, match="'d' has no place; place it with place_newcomers"):
        placement.slices_of("d")


def test_it_cannot_be_changed(placement):
    with pytest.raises(ValueError, match="read-only"):
        placement.slices_of("c")[0] = 2
    with pytest.raises(AttributeError):
        placement.num_slices = 4


def test_the_matrix_has_a_one_where_an_item_stands(placement):
    np.testing.assert_array_equal(placement.matrix.toarray(), [[0, 0, 1], [0, 0, 1], [1, 1, 0]])


@pytest.mark.parametrize(
    ("ids", "rows", "slices", "message"),
    [
        ("ab", [0], [0], "item 'b' stands on no slice"),
        ("ab", [0, 1], [0, 3], "slices 0..3 are not all in 0..2"),
        ("ab", [0, 1, 1], [0, 1, 1], "must ascend, each of them once"),
        ("aa", [0, 1], [0, 1], "1 item ids stand there twice"),
    ],
)
def test_what_no_placement_can_be_is_refused(ids, rows, slices, message):
    with pytest.raises(ValueError, match=message):
        Placement.of_pairs(list(ids), np.array(rows), np.array(slices), 3)


def test_a_file_gives_the_same_placement(placement, tmp_path):
    placement.save(tmp_path / "p.json")
    loaded = Placement.load(tmp_path / "p.json")
    assert loaded.item_ids == placement.item_ids
    np.testing.assert_array_equal(loaded.matrix.toarray(), placement.matrix.toarray())
    assert loaded.fingerprint == placement.fingerprint


def test_the_file_has_ids_and_slices_only(placement, tmp_path):
    placement.save(tmp_path / "p.json")
    assert json.loads((tmp_path / "p.json").read_text()) == {
        "format": "rcjax.placement.1",
        "fingerprint": placement.fingerprint,
        "num_slices": 3,
        "item_ids": ["a", "b", "c"],
        "num_copies": [1, 1, 2],
        "slices": [2, 2, 0, 1],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slices": [1, 2, 0, 1]}, "its fingerprint is not that of its content"),
        ({"format": "rcjax.placement.9"}, "format 'rcjax.placement.9' is not"),
        ({"num_copies": None}, "no placement: "),
        ({"item_ids": ["a", "b"]}, "no placement: 2 items need starts from 0 to 4"),
    ],
)
def test_a_changed_file_is_refused_by_its_name(placement, tmp_path, change, message):
    path = tmp_path / "p.json"
    placement.save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as error:
        Placement.load(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_file_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "p.json").write_text('{"format": "rcjax.placement.1"')
    with pytest.raises(ValueError, match=r"p\.json: no placement: "):
        Placement.load(tmp_path / "p.json")
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(ValueError, match=r"p\.json: no placement: field 'format' is missing"):
        Placement.load(tmp_path / "p.json")


def test_the_fingerprint_tells_placements_apart(placement):
    others = [
        Placement.of_pairs(["a", "b", "c"], np.array([0, 1, 2, 2]), np.array([2, 2, 0, 2]), 3),
        Placement.of_pairs(["a", "b", "d"], np.array([0, 1, 2, 2]), np.array([2, 2, 0, 1]), 3),
        Placement.of_pairs(["a", "b", "c"], np.array([0, 1, 2, 2]), np.array([2, 2, 0, 1]), 4),
    ]
    assert len({placement.fingerprint, *(other.fingerprint for other in others)}) == 4
