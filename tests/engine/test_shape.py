"""Shapes: the fastest that holds a pass, by brute force over all of them."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rcjax.engine.shape import Shape, ShapeSet
from rcjax.errors import InvalidRequestError

sizes = st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(1, 3))
timed = st.dictionaries(sizes.map(lambda each: Shape(*each)), st.floats(0, 9), min_size=1, max_size=6)


@given(timed, sizes)
def test_the_fastest_that_holds_the_pass(seconds, needed):
    shapes = list(seconds)
    fitting = [
        s
        for s in shapes
        if all(has >= needs for has, needs in zip((s.fresh_tokens, s.num_pages, s.batch), needed, strict=True))
    ]
    assume(fitting)
    found = ShapeSet("rank", shapes, seconds.__getitem__).fit(*needed)
    assert found in fitting
    assert seconds[found] == min(map(seconds.__getitem__, fitting))


def test_seconds_are_asked_for_each_time():
    seconds = {Shape(64, 8): 1.0, Shape(32, 8): 2.0}
    shapes = ShapeSet("rank", list(seconds), seconds.__getitem__)
    assert shapes.fit(1, 1) == Shape(64, 8)
    seconds[Shape(64, 8)] = 3.0
    assert shapes.fit(1, 1) == Shape(32, 8)


@given(timed, st.integers(0, 9))
def test_a_subset_is_what_is_kept_or_all(seconds, num_pages):
    kept = [shape for shape in seconds if shape.num_pages > num_pages]
    subset = ShapeSet("rank", list(seconds), seconds.__getitem__).subset(lambda shape: shape.num_pages > num_pages)
    assert sorted(subset) == sorted(kept or seconds)


@pytest.mark.parametrize("needed", [(65, 1, 1), (1, 9, 1), (1, 1, 3), (33, 8, 2)])
def test_what_fits_nowhere_is_an_error_that_names_all_sizes(needed):
    shapes = ShapeSet("rank", [Shape(64, 8), Shape(32, 8, 2)], lambda shape: 1.0)
    with pytest.raises(InvalidRequestError) as caught:
        shapes.fit(*needed)
    fresh_tokens, num_pages, batch = needed
    for part in (
        "rank",
        f"{fresh_tokens=}",
        f"{num_pages=}",
        f"{batch=}",
        "64 fresh tokens",
        "2 x 32 fresh tokens",
        "fewer candidates",
    ):
        assert part in str(caught.value)


def test_a_purpose_without_shapes_is_refused():
    with pytest.raises(ValueError, match="no build shapes"):
        ShapeSet("build", [], lambda shape: 1.0)
