"""The operator against a float64 oracle that applies the visibility rule one pair of tokens at a time."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from attention_oracle import oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from rcjax.kernels.selective_attention import Rope, selective_attention
from rcjax.kernels.selective_attention.cases import CASES, SERVING_CASES, Case, Run

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}  # absolute; outputs are averages of standard normals


@cache
def compiled(model):
    return jax.jit(lambda *args: selective_attention(*args, rope=model.rope, window=model.window))


def attend(inputs, case):
    return compiled(replace(case, name="", rows=(), pad_tokens=0, pad_pages=0))(*inputs)


def check(case, seed=0):
    inputs = case.inputs(seed)
    out = attend(inputs, case)
    assert out.dtype == inputs.q.dtype
    expected = oracle(inputs, case.rope, case.window)
    assert np.isfinite(expected).all(), "the oracle read poison: the case is wrong"
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=0, atol=TOLERANCE[case.dtype])
    return inputs, np.asarray(out)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_oracle(name):
    check(CASES[name])


def test_the_cases_reach_what_they_are_for():
    """Guards the list above against edits that make a case trivial."""
    shapes = {name: (case.inputs(0).q.shape[1], case.inputs(0).pages.drop.size) for name, case in CASES.items()}
    assert shapes["several_query_blocks"][0] > 64
    assert shapes["several_query_blocks"][0] % 64
    assert shapes["over_512_fresh"][0] > 512
    assert shapes["over_512_fresh"][0] % 256
    assert shapes["over_512_cached"][1] > 512
    assert sum(shapes["exactly_512_keys"]) == 512
    assert shapes["all_fresh"][1] == 0
    assert CASES["ragged_batch"].inputs(0).pages.len[3].sum() == 0


def test_padding_queries_yield_zeros():
    inputs, out = check(CASES["padded"])
    padding = inputs.tokens.pos < 0
    assert padding.sum() == 5
    assert (out[padding] == 0).all()


def test_a_query_that_sees_nothing_yields_zeros():
    """A fresh token always sees itself, so only cached tokens can be hidden; the pass's last rows see none at all."""
    inputs, out = check(CASES["ragged_batch"])
    assert (inputs.tokens.pos[3] == -1).all()
    assert (out[3] == 0).all()


def test_every_output_is_free_of_poison_where_all_pages_are_nan():
    case = CASES["unused_pages_only"]
    inputs = case.inputs(0)
    assert np.isnan(inputs.k_pages).all()
    assert np.isnan(inputs.v_pages).all()
    assert np.isfinite(attend(inputs, case)).all()


@pytest.mark.parametrize("spoiled", ["k_new", "v_new", "k_pages", "v_pages"])
def test_a_visible_nan_does_show(spoiled):
    """Otherwise the poison of the other tests would prove nothing."""
    case = CASES["sequential"]
    inputs = case.inputs(0)
    array = getattr(inputs, spoiled).copy()
    first = (0, 0) if spoiled.endswith("new") else (inputs.pages.table[0, 0], 0)
    array[first] = np.nan
    assert np.isnan(attend(inputs._replace(**{spoiled: array}), case)).any()


def test_order_of_pages_and_of_fresh_tokens_does_not_matter():
    case = CASES["parallel_batch"]
    inputs = case.inputs(0)
    rng = np.random.default_rng(1)
    page_order = rng.permutation(inputs.pages.table.shape[1])
    token_order = rng.permutation(inputs.tokens.pos.shape[1])
    shuffled = inputs._replace(
        **{name: getattr(inputs, name)[:, token_order] for name in ("q", "k_new", "v_new")},
        tokens=jax.tree.map(lambda x: x[:, token_order], inputs.tokens),
        pages=jax.tree.map(lambda x: x[:, page_order], inputs.pages),
    )
    expected = np.asarray(attend(inputs, case))[:, token_order]
    np.testing.assert_allclose(attend(shuffled, case), expected, rtol=0, atol=1e-5)


def test_moving_the_whole_prompt_changes_nothing():
    """RoPE is relative, and cached keys are stored unrotated."""
    case = CASES["sequential"]
    inputs = case.inputs(0)
    moved = inputs._replace(
        tokens=replace(inputs.tokens, pos=inputs.tokens.pos + 100),
        pages=replace(inputs.pages, pos=inputs.pages.pos + 100),
    )
    np.testing.assert_allclose(attend(moved, case), attend(inputs, case), rtol=0, atol=1e-4)


def test_large_scores_neither_overflow_nor_lose_the_running_maximum():
    """The largest key comes first in one row and last in the other, chunks apart."""
    case = Case("", ((Run(0, 600, cached=True), Run(600, 2)),) * 2, page_tokens=16)
    inputs = case.inputs(0)
    for row, m in ((0, 0), (1, 36)):
        inputs.k_pages[inputs.pages.table[row, m], 0] *= 300
    expected = oracle(inputs, case.rope)
    np.testing.assert_allclose(attend(inputs, case), expected, rtol=0, atol=1e-3)


@st.composite
def runs(draw):
    """The fields of a Run: the type checker draws random numbers, which a strategy must not."""
    length = draw(st.integers(0, 9))
    cached = draw(st.booleans())
    selected = draw(st.sets(st.integers(0, length - 1))) if cached and length else ()
    small = st.integers(0, 4)
    return draw(st.integers(0, 12)), length, cached, draw(small), draw(small), tuple(sorted(selected))


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.lists(runs(), max_size=4), min_size=2, max_size=2),
    num_kv_heads=st.sampled_from([1, 2]),
    window=st.sampled_from([None, 5]),
    seed=st.integers(0, 99),
)
def test_any_layout_agrees_with_the_oracle(rows, num_kv_heads, window, seed):
    """Blocks may overlap in position and come in any order: only the rule decides."""
    runs_of_rows = tuple(tuple(Run(*fields) for fields in row) for row in rows)
    case = Case("", runs_of_rows, 2, num_kv_heads, head_dim=4, page_tokens=3, window=window)
    inputs = case.inputs(seed)
    # Padded to one shape, so that few programs are compiled.
    check(replace(case, pad_tokens=36 - inputs.q.shape[1], pad_pages=12 - inputs.pages.table.shape[1]), seed)


@pytest.mark.parametrize("name", SERVING_CASES)
def test_serving_cases_are_well_formed(name):
    inputs = SERVING_CASES[name].inputs(0)
    cached = inputs.pages.len.sum() - inputs.pages.drop.sum()
    fresh = (inputs.tokens.pos >= 0).sum()
    assert 1900 <= (cached + fresh) / inputs.q.shape[0] <= 2200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": np.zeros((1, 11, 3, 8), np.float32)}, "num_heads=3 must be a multiple of num_kv_heads=2"),
        ({"window": 0}, "window=0 must be at least 1"),
        ({"rope": Rope(np.ones(3, np.float32))}, r"rope.inv_freq.shape=\(3,\) must hold half of head_dim=8"),
    ],
)
def test_impossible_arguments_are_refused(change, message):
    case = CASES["all_fresh"]
    inputs = case.inputs(0)
    args = {"rope": case.rope, "window": None} | change
    inputs = inputs._replace(q=args.pop("q", inputs.q))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda *xs: selective_attention(*xs, **args), *inputs)


def test_a_drop_mask_of_another_page_size_is_refused():
    case = CASES["full_pages"]
    inputs = case.inputs(0)
    pages = replace(inputs.pages, drop=np.zeros((1, 3, 5), bool))
    with pytest.raises(ValueError, match=r"pages.drop.shape=\(1, 3, 5\) must end in page_tokens=4"):
        jax.eval_shape(lambda *xs: selective_attention(*xs, rope=case.rope), *inputs._replace(pages=pages))
