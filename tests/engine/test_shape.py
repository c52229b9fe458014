"""Shapes: the cheapest that holds a pass, by brute force over all of them."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rcjax.engine.shape import Shape, ShapeSet
from rcjax.errors import InvalidRequestError

sizes = st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(1, 3))


@given(st.lists(sizes, min_size=1, max_size=6), sizes)
def test_the_cheapest_that_holds_the_pass(configured, needed):
    shapes = [Shape(*each) for each in configured]
    fitting = [
        s
        for s in shapes
        if all(has >= needs for has, needs in zip((s.fresh_tokens, s.num_pages, s.batch), needed, strict=True))
    ]
    assume(fitting)
    found = ShapeSet("rank", shapes).fit(*needed)
    assert found in fitting
    assert found.cost == min(shape.cost for shape in fitting)


def test_fresh_tokens_cost_more_than_pages_and_rows_multiply():
    assert Shape(65, 0).cost > Shape(64, 60).cost > Shape(64, 0).cost
    assert Shape(64, 8, 2).cost == 2 * Shape(64, 8).cost


@pytest.mark.parametrize("needed", [(65, 1, 1), (1, 9, 1), (1, 1, 3), (33, 8, 2)])
def test_what_fits_nowhere_is_an_error_that_names_all_sizes(needed):
    shapes = ShapeSet("rank", [Shape(64, 8), Shape(32, 8, 2)])
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
        ShapeSet("build", [])
