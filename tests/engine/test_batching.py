"""The batch former against every way to fill the rows of every shape."""

from dataclasses import dataclass
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.engine.batching import next_batch
from rcjax.engine.shape import Shape, ShapeSet
from rcjax.errors import InvalidRequestError


@dataclass(frozen=True, eq=False)
class Wanting:
    num_fresh: int
    num_pages: int


ready_lists = st.lists(st.builds(Wanting, st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=6)
timed_shapes = st.dictionaries(
    st.builds(Shape, st.integers(1, 9), st.integers(0, 9), st.sampled_from([1, 2, 3, 4, 8])),
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
                if shape.holds(
                    max(one.num_fresh for one in members), max(one.num_pages for one in members), len(members)
                ):
                    yield pass_s / len(members), shape.batch


@given(ready_lists, timed_shapes)
def test_no_other_batch_costs_less_a_request(ready, seconds):
    possible = list(possible_batches(ready, seconds))
    if not possible:
        with pytest.raises(InvalidRequestError):
            next_batch(ready, shape_set(seconds))
        return
    members, shape = next_batch(ready, shape_set(seconds))
    assert (seconds[shape] / len(members), shape.batch) == min(possible)


@given(ready_lists, timed_shapes)
def test_a_batch_is_the_first_and_of_those_behind_it_the_first_that_fit(ready, seconds):
    if not any(shape.holds(ready[0].num_fresh, ready[0].num_pages) for shape in seconds):
        return
    members, shape = next_batch(ready, shape_set(seconds))
    fitting = [one for one in ready if shape.holds(one.num_fresh, one.num_pages)]
    assert members[0] is ready[0]
    assert members == fitting[: shape.batch]


@given(ready_lists, timed_shapes)
def test_repeating_it_serves_everybody(ready, seconds):
    """With a shape that holds all: nobody is left behind, and each pass takes one at least."""
    shapes = shape_set({**seconds, Shape(9, 9): 5.0})
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
    members, shape = next_batch([Wanting(8, 8) for _ in range(num_ready)], shape_set(seconds))
    assert shape == expected
    assert len(members) == min(num_ready, shape.batch)


def test_a_short_request_does_not_keep_a_long_one_company():
    """Three short ones in one pass of the short shape are cheaper than with the long one in the long shape."""
    seconds = {Shape(4, 4, 4): 1.0, Shape(8, 8, 4): 4.0}
    long, short = Wanting(8, 8), [Wanting(2, 2) for _ in range(3)]
    assert next_batch([short[0], long, *short[1:]], shape_set(seconds)) == (short, Shape(4, 4, 4))
    assert next_batch([long, *short], shape_set(seconds)) == ([long, *short], Shape(8, 8, 4))


def test_a_request_that_no_shape_holds_is_an_error_that_names_the_sizes():
    with pytest.raises(InvalidRequestError, match="fresh_tokens=9"):
        next_batch([Wanting(9, 1)], shape_set({Shape(8, 8): 1.0}))
