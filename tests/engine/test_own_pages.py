"""Pages of one segment's own, and where tiles put them, against the rule of who sees whom, token by token."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.engine.own_pages import own_pages
from rcjax.engine.shape import RowSize, Shape

segments = st.integers(0, 6)
fresh_tokens = st.lists(st.tuples(segments, st.integers(0, 4)), max_size=10)  # segment, horizon
page_segments = st.lists(segments, max_size=12)
tiles_of = st.builds(
    lambda tiles, tile_tokens, tile_pages: Shape(10, 12, 1, tiles, tile_tokens, tile_pages, at_home=True),
    *(st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
)


def sees(token, page_segment):
    segment, horizon = token
    return page_segment < horizon or page_segment == segment


def own_of(tokens, pages):
    return own_pages(np.array(tokens, np.int32).reshape(-1, 2).T, np.array(pages, np.int32))


@given(fresh_tokens, page_segments)
def test_no_other_segment_sees_pages_of_a_segments_own(tokens, pages):
    own = own_of(tokens, pages)
    for page, group in zip(pages, own.group_of_page, strict=True):
        if group >= 0:
            for token, group_of_token in zip(tokens, own.group_of_token, strict=True):
                assert (group_of_token == group) == sees(token, page)
    groups = range(len(own.sizes))
    assert own.sizes == tuple(((own.group_of_token == g).sum(), (own.group_of_page == g).sum()) for g in groups)
    assert all(num_pages for _, num_pages in own.sizes), "a segment without pages needs no tile"


@given(fresh_tokens, page_segments)
def test_segments_beyond_every_horizon_have_pages_of_their_own(tokens, pages):
    """So are items of the `parallel` layout, where no task reads them all."""
    own = own_of(tokens, pages)
    first = max((horizon for _, horizon in tokens), default=0)
    assert [group >= 0 for group in own.group_of_page] == [segment >= first for segment in pages]


@given(fresh_tokens, page_segments, tiles_of)
def test_a_page_in_a_tile_is_seen_by_that_tile_alone(tokens, pages, shape):
    where, place, token = own_of(tokens, pages).places(shape)
    tile_of_token = {int(t): int(p) // shape.tile_tokens for p, t in zip(place, token, strict=True)}
    assert all(0 <= tile < shape.tiles for tile in tile_of_token.values())
    for at, page in zip(where, pages, strict=True):
        if at >= shape.num_pages:
            tile = (at - shape.num_pages) // shape.tile_pages
            seeing = {i for i, one in enumerate(tokens) if sees(one, page)}
            assert seeing == {i for i, own_tile in tile_of_token.items() if own_tile == tile}


@given(fresh_tokens, page_segments, tiles_of)
def test_every_page_has_one_place_and_no_two_the_same(tokens, pages, shape):
    where, place, token = own_of(tokens, pages).places(shape)
    assert len(set(where.tolist())) == len(where) == len(pages)
    assert all(0 <= at < shape.num_pages + shape.tiles * shape.tile_pages for at in where)
    shared = [at for at in where.tolist() if at < shape.num_pages]
    assert shared == list(range(len(shared))), "in order and without gaps"
    assert len(set(place.tolist())) == len(place)
    assert len(set(token.tolist())) == len(token)


@given(fresh_tokens, page_segments, tiles_of, st.integers(0, 12))
def test_a_shape_holds_a_row_exactly_where_its_pages_find_places(tokens, pages, tiles, num_pages):
    own = own_of(tokens, pages)
    shape = Shape(10, num_pages, 1, tiles.tiles, tiles.tile_tokens, tiles.tile_pages, at_home=True)
    if shape.holds(RowSize(len(tokens), len(pages), own.sizes, is_moved=False)):
        own.places(shape)
    else:
        with pytest.raises(ValueError, match="not in tiles"):
            own.places(shape)


def test_the_first_that_fit_have_tiles():
    tokens = [(2, 2), (2, 2), (3, 2), (4, 2), (5, 2), (6, 2)]
    pages = [0, 1, 2, 3, 3, 3, 4, 4, 5, 6]
    own = own_of(tokens, pages)
    assert own.sizes == ((2, 1), (1, 3), (1, 2), (1, 1), (1, 1))
    where, place, token = own.places(Shape(6, 7, tiles=2, tile_tokens=1, tile_pages=2, at_home=True))
    # Segment 2 has too many tokens, 3 too many pages, and 6 is one segment too many.
    assert where.tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 6]
    assert (place.tolist(), token.tolist()) == ([0, 1], [3, 4])


def test_a_tile_has_a_place_for_each_token_of_its_segment():
    own = own_of([(2, 2), (3, 2), (2, 2), (3, 2), (3, 2)], [2, 3])
    where, place, token = own.places(Shape(6, 0, tiles=2, tile_tokens=3, tile_pages=2, at_home=True))
    assert where.tolist() == [0, 2]
    assert dict(zip(token.tolist(), place.tolist(), strict=True)) == {0: 0, 2: 1, 1: 3, 3: 4, 4: 5}
