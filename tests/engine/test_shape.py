"""Shapes: which rows each holds, and the fastest that holds a pass, by brute force over all of them."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rcjax.engine.shape import RowSize, Shape, ShapeSet
from rcjax.errors import InvalidRequestError

own_sizes = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=4).map(tuple)


row_sizes = st.tuples(st.integers(1, 9), st.integers(0, 6), own_sizes, st.booleans())
passes = st.lists(row_sizes, min_size=1, max_size=3)
shapes_without_tiles = st.builds(Shape, st.integers(1, 9), st.integers(0, 9), st.integers(1, 3), at_home=st.booleans())
shapes_with_tiles = st.builds(
    Shape,
    st.integers(1, 9),
    st.integers(0, 9),
    st.integers(1, 3),
    tiles=st.integers(1, 4),
    tile_tokens=st.integers(1, 3),
    tile_pages=st.integers(1, 4),
    at_home=st.booleans(),
)
any_shape = shapes_without_tiles | shapes_with_tiles
timed = st.dictionaries(any_shape, st.floats(0, 9), min_size=1, max_size=6)


def row_size(fresh_tokens, num_shared, own, is_moved):
    return RowSize(fresh_tokens, num_shared + sum(pages for _, pages in own), own, is_moved)


def is_held(shape, size):
    """One tile after the other is filled with what fits; the rest must fit among what all may see."""
    num_free, num_shared = shape.tiles, size.num_pages
    for tokens, pages in size.own:
        if num_free and tokens <= shape.tile_tokens and pages <= shape.tile_pages:
            num_free -= 1
            num_shared -= pages
    is_turned = size.is_moved and shape.at_home
    return size.fresh_tokens <= shape.fresh_tokens and num_shared <= shape.num_pages and not is_turned


@given(any_shape, row_sizes)
def test_a_shape_holds_what_has_a_place_in_it(shape, drawn):
    size = row_size(*drawn)
    assert shape.holds(size) == is_held(shape, size)


@given(timed, passes)
def test_the_fastest_that_holds_the_pass(seconds, drawn):
    sizes = [row_size(*each) for each in drawn]
    fitting = [s for s in seconds if len(sizes) <= s.batch and all(is_held(s, size) for size in sizes)]
    assume(fitting)
    found = ShapeSet("rank", list(seconds), seconds.__getitem__).fit(sizes)
    assert found in fitting
    assert seconds[found] == min(map(seconds.__getitem__, fitting))


def test_rows_of_a_pass_may_differ_in_what_they_need_most_of():
    """One has many tokens, the other many pages, and neither number is what the other row needs."""
    shape = Shape(8, 4, 2, tiles=2, tile_tokens=1, tile_pages=2)
    many_tokens, many_pages = RowSize(8, 4), RowSize(2, 8, ((1, 2), (1, 2)))
    shapes = ShapeSet("rank", [shape], lambda shape: 1.0)
    assert shapes.fit([many_tokens, many_pages]) == shape
    with pytest.raises(InvalidRequestError):
        shapes.fit([many_tokens, many_pages, many_tokens])


@pytest.mark.parametrize(
    ("own", "num_shared"),
    [
        (((1, 3), (1, 3)), 0),
        (((1, 3), (1, 4)), 4),  # one page over a tile: all its pages are everybody's
        (((2, 3), (1, 3)), 3),  # one token over
        (((1, 4), (1, 3), (1, 2)), 4),  # what does not fit takes no tile
        (((1, 2), (1, 1), (1, 3)), 3),  # one segment over: the first have the tiles
        ((), 0),
    ],
)
def test_only_what_fits_a_tile_is_taken_off_the_pages_of_all(own, num_shared):
    size = RowSize(4, sum(pages for _, pages in own) + 1, own)
    assert Shape(4, num_shared + 1, tiles=2, tile_tokens=1, tile_pages=3).holds(size)
    assert not Shape(4, num_shared, tiles=2, tile_tokens=1, tile_pages=3).holds(size)


def test_a_shape_at_home_holds_no_row_whose_keys_are_turned():
    assert Shape(4, 4).holds(RowSize(4, 4, is_moved=True))
    assert not Shape(4, 4, at_home=True).holds(RowSize(4, 4, is_moved=True))
    assert Shape(4, 4, at_home=True).holds(RowSize(4, 4, is_moved=False))


def test_seconds_are_asked_for_each_time():
    seconds = {Shape(64, 8): 1.0, Shape(32, 8): 2.0}
    shapes = ShapeSet("rank", list(seconds), seconds.__getitem__)
    assert shapes.fit([RowSize(1, 1)]) == Shape(64, 8)
    seconds[Shape(64, 8)] = 3.0
    assert shapes.fit([RowSize(1, 1)]) == Shape(32, 8)


@given(timed, st.integers(0, 9))
def test_a_subset_is_what_is_kept_or_all(seconds, num_pages):
    kept = [shape for shape in seconds if shape.num_pages > num_pages]
    subset = ShapeSet("rank", list(seconds), seconds.__getitem__).subset(lambda shape: shape.num_pages > num_pages)
    assert sorted(subset) == sorted(kept or seconds)


@pytest.mark.parametrize("needed", [(65, 1, 1), (1, 9, 1), (1, 1, 3), (33, 8, 2)])
def test_what_fits_nowhere_is_an_error_that_names_all_sizes(needed):
    tiled = Shape(16, 8, tiles=4, tile_pages=2)
    shapes = ShapeSet("rank", [Shape(64, 8), Shape(32, 8, 2), tiled], lambda shape: 1.0)
    fresh_tokens, num_pages, batch = needed
    with pytest.raises(InvalidRequestError) as caught:
        shapes.fit([RowSize(fresh_tokens, num_pages)] + [RowSize(1, 0)] * (batch - 1))
    for part in (
        "rank",
        f"{fresh_tokens=}",
        f"{num_pages=}",
        f"{batch=}",
        "64 fresh tokens",
        "2 x 32 fresh tokens",
        "8 and 4 tiles of 2 pages",
        "fewer candidates",
    ):
        assert part in str(caught.value)


def test_a_purpose_without_shapes_is_refused():
    with pytest.raises(ValueError, match="no build shapes"):
        ShapeSet("build", [], lambda shape: 1.0)
