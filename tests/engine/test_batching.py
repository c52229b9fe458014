"""The batch former against every way to fill the rows of every shape."""

from dataclasses import dataclass
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.engine.batching import next_batch
from rcjax.engine.shape import RowSize, Shape, ShapeSet
from rcjax.errors import InvalidRequestError


@dataclass(frozen=True, eq=False)
class Wanting:
    size: RowSize


def wanting(num_fresh, num_pages, own=(), is_moved=False):
    return Wanting(RowSize(num_fresh, num_pages + sum(pages for _, pages in own), own, is_moved))


own_sizes = st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3)), max_size=3).map(tuple)
ready_lists = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 9), own_sizes, st.booleans()), min_size=1, max_size=6
)
batches = st.sampled_from([1, 2, 3, 4, 8])
timed_shapes = st.dictionaries(
    st.builds(Shape, st.integers(1, 9), st.integers(0, 9), batches)
    | st.builds(
        lambda fresh, pages, batch, tiles: Shape(fresh, pages, batch, tiles, 1, 2, at_home=True),
        *(st.integers(1, 9), st.integers(0, 9), batches, st.integers(1, 3)),
    ),
    st.integers(1, 20).map(float),
    min_size=1,
    max_size=5,
)


def shape_set(seconds):
    return ShapeSet("rank", list(seconds), seconds.__getitem__)


def possible_batches(ready, seconds):
    """(seconds a request, rows) of every set of requests, the first among them, in every shape that holds it."""
    for shape, pass_s in seconds.items():
        for size in range(1, len(ready) + 1):
            for others in combinations(ready[1:], size - 1):
                members = (ready[0], *others)
                if len(members) <= shape.batch and all(shape.holds(one.size) for one in members):
                    yield pass_s / len(members), shape.batch


@given(ready_lists, timed_shapes)
def test_no_other_batch_costs_less_a_request(drawn, seconds):
    ready = [wanting(*each) for each in drawn]
    possible = list(possible_batches(ready, seconds))
    if not possible:
        with pytest.raises(InvalidRequestError):
            next_batch(ready, shape_set(seconds))
        return
    members, shape = next_batch(ready, shape_set(seconds))
    assert (seconds[shape] / len(members), shape.batch) == min(possible)


@given(ready_lists, timed_shapes)
def test_a_batch_is_the_first_and_of_those_behind_it_the_first_that_fit(drawn, seconds):
    ready = [wanting(*each) for each in drawn]
    if not any(shape.holds(ready[0].size) for shape in seconds):
        return
    members, shape = next_batch(ready, shape_set(seconds))
    fitting = [one for one in ready if shape.holds(one.size)]
    assert members[0] is ready[0]
    assert members == fitting[: shape.batch]


@given(ready_lists, timed_shapes)
def test_repeating_it_serves_everybody(drawn, seconds):
    """With a shape that holds all: nobody is left behind, and each pass takes one at least."""
    ready = [wanting(*each) for each in drawn]
    shapes = shape_set({**seconds, Shape(9, 18): 5.0})
    left, num_passes = list(ready), 0
    while left:
        members, _ = next_batch(left, shapes)
        left = [one for one in left if one not in members]
        num_passes += 1
    assert num_passes <= len(ready)


@pytest.mark.parametrize(
    ("num_ready", "eight_s", "expected"),
    [
        (2, 4.0, Shape(8, 8, 2)),  # 8 rows for 2 requests only if that is faster
        (2, 1.4, Shape(8, 8, 8)),
        (3, 4.0, Shape(8, 8, 2)),  # 0.75 s a request, and the third by itself, rather than 4/3
        (8, 4.0, Shape(8, 8, 8)),
        (1, 4.0, Shape(8, 8)),
    ],
)
def test_a_shape_costs_a_whole_pass_however_many_rows_are_filled(num_ready, eight_s, expected):
    seconds = {Shape(8, 8): 1.0, Shape(8, 8, 2): 1.5, Shape(8, 8, 8): eight_s}
    members, shape = next_batch([wanting(8, 8) for _ in range(num_ready)], shape_set(seconds))
    assert shape == expected
    assert len(members) == min(num_ready, shape.batch)


def test_a_short_request_does_not_keep_a_long_one_company():
    """Three short ones in one pass of the short shape are cheaper than with the long one in the long shape."""
    seconds = {Shape(4, 4, 4): 1.0, Shape(8, 8, 4): 4.0}
    long, short = wanting(8, 8), [wanting(2, 2) for _ in range(3)]
    assert next_batch([short[0], long, *short[1:]], shape_set(seconds)) == (short, Shape(4, 4, 4))
    assert next_batch([long, *short], shape_set(seconds)) == ([long, *short], Shape(8, 8, 4))


def test_only_requests_with_tiles_of_their_own_share_a_pass_of_tiles():
    """Whose keys are turned, or whose pages do not fit the tiles, waits for another shape."""
    tiled = Shape(4, 2, 4, tiles=2, tile_pages=3, at_home=True)
    small, other = wanting(2, 2, ((1, 3), (1, 3))), wanting(3, 1, ((1, 1),))
    moved, large = wanting(2, 2, is_moved=True), wanting(2, 2, ((1, 3), (1, 4)))
    seconds = {tiled: 1.0, Shape(4, 9, 4): 1.5}
    assert next_batch([small, moved, other, large], shape_set(seconds)) == (
        [small, moved, other, large],
        Shape(4, 9, 4),
    )
    assert next_batch([small, moved, other, large], shape_set({**seconds, tiled: 0.5})) == ([small, other], tiled)


def test_a_request_that_no_shape_holds_is_an_error_that_names_the_sizes():
    with pytest.raises(InvalidRequestError, match="fresh_tokens=9"):
        next_batch([wanting(9, 1)], shape_set({Shape(8, 8): 1.0}))
