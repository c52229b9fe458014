"""Every implementation of the operator against a float64 oracle that applies the visibility rule query by query."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from attention_oracle import oracle, untiled
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_runs import EVERY_CASE, TOLERANCE, attend, case_of, checked, checked_case

from rcjax.kernels.selective_attention import REFERENCE, TileLayout
from rcjax.kernels.selective_attention.cases import CASES, SERVING_CASES, Case, Run, pointwise
from rcjax.kernels.selective_attention.dispatch import IMPLEMENTATIONS
from rcjax.kernels.selective_attention.layout import joined_pages

every_implementation = pytest.mark.parametrize("attention", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)


@every_implementation
@pytest.mark.parametrize("name", EVERY_CASE)
def test_agrees_with_the_oracle(attention, name):
    checked_case(attention, name)


def test_the_cases_reach_what_they_are_for():
    """Guards the list above against edits that make a case trivial."""
    inputs = {name: case.inputs(0) for name, case in CASES.items()}
    shapes = {name: (some.q.shape[1], some.pages.drop.size) for name, some in inputs.items()}
    assert shapes["several_query_blocks"][0] > 64
    assert shapes["several_query_blocks"][0] % 64
    assert shapes["over_512_fresh"][0] > 512
    assert shapes["over_512_fresh"][0] % 256
    assert sum(shapes["exactly_512_keys"]) == 512
    assert shapes["all_fresh"][1] == 0
    assert inputs["ragged_batch"].pages.len[3].sum() == 0
    assert inputs["at_home"].pages.shift is inputs["tiles_at_home"].tiles.pages.shift is None
    assert (inputs["sequential"].pages.shift != 0).all()


def test_the_cases_reach_each_form_of_the_reference():
    """One block of queries or several, over one chunk of keys or several."""

    def sizes(name, part):
        case, inputs = case_of(name)
        view = jax.eval_shape(lambda: REFERENCE.view(inputs.tokens, inputs.pages, inputs.tiles, rope=case.rope)).made
        seen = getattr(view, part).seen
        return seen.shape[0] > 1, seen.shape[2] > 1

    assert sizes("sequential", "cached") == sizes("sequential", "fresh") == (False, False)
    assert sizes("many_cached", "cached") == (False, True)
    assert sizes("many_cached_and_fresh", "fresh") == (True, False)
    assert sizes("many_cached_and_fresh", "cached") == sizes("over_512_fresh", "fresh") == (True, True)
    assert sizes("tiles_long", "cached") == (True, True)


def test_the_cases_with_tiles_reach_what_they_are_for():
    tiles = {name: case.inputs(0).tiles for name, case in CASES.items() if case.tiles}
    num_tokens = {name: (some.tokens >= 0).sum(-1) for name, some in tiles.items()}
    num_pages = {name: (some.pages.len > 0).sum(-1) for name, some in tiles.items()}
    assert set(num_tokens["tiles_with_room"].ravel()) == {0, 1, 2, 3}
    assert set(num_pages["tiles_with_room"].ravel()) == {0, 1, 2, 3, 4}
    assert not num_tokens["tiles_with_room"][2:].any()
    assert num_pages["tiles_multi_head"].tolist() == [[3, 0, 1, 4]]
    assert tiles["tiles_multi_head"].pages.drop.any()
    shared = CASES["tiles_overflow"].inputs(0).pages
    own = tiles["tiles_overflow"].pages
    assert np.intersect1d(shared.segment[0], own.segment[0][own.len[0] > 0]).size, "no page is left over"
    assert (shared.segment[1] == 4).any(), "no item is without a tile"
    assert CASES["tiles_only"].inputs(0).pages.table.size == 0
    in_tiles = num_tokens["tiles_long"].sum(-1)
    assert (in_tiles < (CASES["tiles_long"].inputs(0).tokens.pos >= 0).sum(-1)).any(), "no token is in no tile"


@every_implementation
def test_padding_queries_yield_zeros(attention):
    inputs, out = checked_case(attention, "padded")
    padding = inputs.tokens.pos < 0
    assert padding.sum() == 5
    assert (out[padding] == 0).all()


@every_implementation
def test_a_query_that_sees_nothing_yields_zeros(attention):
    """A fresh token always sees itself, so only cached tokens can be hidden; the pass's last rows see none at all."""
    inputs, out = checked_case(attention, "ragged_batch")
    assert (inputs.tokens.pos[3] == -1).all()
    assert (out[3] == 0).all()


@every_implementation
def test_every_output_is_free_of_poison_where_all_pages_are_nan(attention):
    case, inputs = case_of("unused_pages_only")
    assert np.isnan(inputs.k_pages).all()
    assert np.isnan(inputs.v_pages).all()
    assert np.isfinite(attend(attention, inputs, case)).all()


@every_implementation
@pytest.mark.parametrize("spoiled", ["k_new", "v_new", "k_pages", "v_pages"])
def test_a_visible_nan_does_show(attention, spoiled):
    """Otherwise the poison of the other tests would prove nothing."""
    case, inputs = case_of("sequential")
    first = (0, 0) if spoiled.endswith("new") else (inputs.pages.table[0, 0], 0)
    assert np.isnan(attend(attention, spoil(inputs, spoiled, first), case)).any()


@every_implementation
@pytest.mark.parametrize("spoiled", ["k_pages", "v_pages"])
def test_a_nan_in_a_tile_s_page_shows_in_its_tokens_alone(attention, spoiled):
    case, inputs = case_of("tiles")
    spoilt = spoil(inputs, spoiled, (inputs.tiles.pages.table[0, 1, 0], 0))
    if attention.name == "dense":  # the values of all keys are in its products, whoever sees them
        assert np.isnan(attend(attention, spoilt, case)).any()
        return
    (affected,) = np.isnan(attend(attention, spoilt, case)[0]).any((1, 2)).nonzero()
    assert affected.tolist() == inputs.tiles.tokens[0, 1].tolist() == [2, 3]


@pytest.mark.parametrize("spoiled", ["k_pages", "v_pages"])
def test_a_nan_in_the_first_tile_does_not_show_in_tokens_of_none(spoiled):
    row = (*pointwise(9, 6, (5, 7, 4), glue=2), Run(15, 2, segment=1, horizon=1))
    case = Case("", (row,), tiles=(3, 2, 2))
    inputs = case.inputs(0)
    out = attend(REFERENCE, spoil(inputs, spoiled, (inputs.tiles.pages.table[0, 0, 0], 0)), case)
    (affected,) = np.isnan(out[0]).any((1, 2)).nonzero()
    assert affected.tolist() == inputs.tiles.tokens[0, 0].tolist() == [0, 1]
    assert out.shape[1] == inputs.tiles.tokens.size + 2


def spoil(inputs, name, where):
    array = getattr(inputs, name).copy()
    array[where] = np.nan
    return inputs._replace(**{name: array})


@every_implementation
@pytest.mark.parametrize("name", [name for name, case in EVERY_CASE.items() if case.tiles])
def test_tiles_change_nothing(attention, name):
    """All may see what only some do see."""
    case, inputs = case_of(name)
    joined = inputs._replace(pages=jax.tree.map(np.asarray, joined_pages(inputs.pages, inputs.tiles)), tiles=None)
    out = attend(attention, joined, case)
    tolerance = TOLERANCE[case.dtype]
    np.testing.assert_allclose(
        attend(attention, inputs, case).astype(np.float32), out.astype(np.float32), rtol=0, atol=tolerance
    )


@every_implementation
def test_order_of_tiles_and_within_them_does_not_matter(attention):
    case, inputs = case_of("tiles_with_room")
    rng = np.random.default_rng(1)
    tiles, pages = inputs.tiles, inputs.tiles.pages
    order, queries, slots = (rng.permutation(num) for num in (*tiles.tokens.shape[1:], pages.table.shape[2]))
    shuffled = TileLayout(
        tiles.tokens[:, order][:, :, queries], jax.tree.map(lambda x: x[:, order][:, :, slots], pages)
    )
    out = attend(attention, inputs._replace(tiles=shuffled), case)
    np.testing.assert_allclose(out, attend(attention, inputs, case), rtol=0, atol=1e-5)


@every_implementation
@pytest.mark.parametrize("name", ["sequential", "tiles"])
def test_pages_may_be_counted_from_another_than_the_first(attention, name):
    """As those of a layer are, in a pool of all layers."""
    case, inputs = case_of(name)
    num_pages = len(inputs.k_pages)
    of_others = np.full_like(inputs.k_pages, np.nan)
    pools = {of: np.concatenate([of_others, getattr(inputs, of), of_others]) for of in ("k_pages", "v_pages")}
    out = attend(attention, inputs._replace(**pools), case, np.int32(num_pages))
    np.testing.assert_array_equal(out, attend(attention, inputs, case))


@every_implementation
def test_order_of_pages_and_of_fresh_tokens_does_not_matter(attention):
    case, inputs = case_of("parallel_batch")
    rng = np.random.default_rng(1)
    page_order = rng.permutation(inputs.pages.table.shape[1])
    token_order = rng.permutation(inputs.tokens.pos.shape[1])
    shuffled = inputs._replace(
        **{name: getattr(inputs, name)[:, token_order] for name in ("q", "k_new", "v_new")},
        tokens=jax.tree.map(lambda x: x[:, token_order], inputs.tokens),
        pages=jax.tree.map(lambda x: x[:, page_order], inputs.pages),
    )
    expected = attend(attention, inputs, case)[:, token_order]
    np.testing.assert_allclose(attend(attention, shuffled, case), expected, rtol=0, atol=1e-5)


@every_implementation
def test_large_scores_neither_overflow_nor_lose_the_running_maximum(attention):
    """The largest key comes first in one row and last in the other, chunks apart."""
    case = Case("", ((Run(0, 1300, cached=True), Run(1300, 2)),) * 2, page_tokens=16)
    inputs = case.inputs(0)
    for row, m in ((0, 0), (1, 80)):
        inputs.k_pages[inputs.pages.table[row, m], 0] *= 300
    expected = oracle(inputs, case.rope)
    np.testing.assert_allclose(attend(attention, inputs, case), expected, rtol=0, atol=1e-3)


@st.composite
def runs(draw):
    """The fields of a Run: the type checker draws random numbers, which a strategy must not."""
    length = draw(st.integers(0, 9))
    cached = draw(st.booleans())
    selected = draw(st.sets(st.integers(0, length - 1))) if cached and length else ()
    small = st.integers(0, 4)
    return draw(st.integers(0, 12)), length, cached, draw(small), draw(small), tuple(sorted(selected))


def with_tiles(row):
    """The row with a tile for each segment whose pages no token of another segment sees."""
    fresh = [run for run in row if (run.selected if run.cached else run.length)]
    others = {run.segment: [other.horizon for other in fresh if other.segment != run.segment] for run in row}
    own = sorted(segment for segment, horizons in others.items() if max(horizons, default=0) <= segment)
    return tuple(replace(run, tile=own.index(run.segment) if run.segment in own else -1) for run in row)


@every_implementation
@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.lists(runs(), max_size=4), min_size=2, max_size=2),
    num_kv_heads=st.sampled_from([1, 2]),
    window=st.sampled_from([None, 5]),
    tiles=st.sampled_from([None, (2, 36, 2)]),
    moved=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_layout_agrees_with_the_oracle(attention, rows, num_kv_heads, window, tiles, moved, seed):
    """Blocks may overlap in position and come in any order: only the rule decides."""
    runs_of_rows = tuple(with_tiles([Run(*fields) for fields in row]) for row in rows)
    case = Case("", runs_of_rows, 2, num_kv_heads, 4, page_tokens=3, window=window, tiles=tiles, moved=moved)
    inputs = case.inputs(seed)
    # Padded to one shape, so that few programs are compiled.
    case = replace(case, pad_tokens=36 - inputs.q.shape[1], pad_pages=12 - inputs.pages.table.shape[1])
    checked(attention, case.inputs(seed), case)


@pytest.mark.parametrize("name", SERVING_CASES)
def test_serving_cases_are_prompts_of_some_2000_tokens(name):
    _, inputs = case_of(name)
    pages = untiled(inputs).pages
    cached = pages.len.sum() - pages.drop.sum()
    fresh = (inputs.tokens.pos >= 0).sum()
    assert 1900 <= (cached + fresh) / inputs.q.shape[0] <= 2200
