"""Every implementation of the operator against a float64 oracle that applies the visibility rule query by query."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from attention_oracle import oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_runs import EVERY_CASE, attend, case_of, checked, checked_case

from rcjax.kernels.selective_attention import Rope
from rcjax.kernels.selective_attention.cases import CASES, SERVING_CASES, Case, Run
from rcjax.kernels.selective_attention.dispatch import IMPLEMENTATIONS

every_implementation = pytest.mark.parametrize("attention", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)


@every_implementation
@pytest.mark.parametrize("name", EVERY_CASE)
def test_agrees_with_the_oracle(attention, name):
    checked_case(attention, name)


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
    case, inputs, _ = case_of("unused_pages_only")
    assert np.isnan(inputs.k_pages).all()
    assert np.isnan(inputs.v_pages).all()
    assert np.isfinite(attend(attention, inputs, case)).all()


@every_implementation
@pytest.mark.parametrize("spoiled", ["k_new", "v_new", "k_pages", "v_pages"])
def test_a_visible_nan_does_show(attention, spoiled):
    """Otherwise the poison of the other tests would prove nothing."""
    case, inputs, _ = case_of("sequential")
    array = getattr(inputs, spoiled).copy()
    first = (0, 0) if spoiled.endswith("new") else (inputs.pages.table[0, 0], 0)
    array[first] = np.nan
    assert np.isnan(attend(attention, inputs._replace(**{spoiled: array}), case)).any()


@every_implementation
def test_order_of_pages_and_of_fresh_tokens_does_not_matter(attention):
    case, inputs, _ = case_of("parallel_batch")
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
def test_moving_the_whole_prompt_changes_nothing(attention):
    """RoPE is relative, and cached keys are stored unrotated."""
    case, inputs, _ = case_of("sequential")
    moved = inputs._replace(
        tokens=replace(inputs.tokens, pos=inputs.tokens.pos + 100),
        pages=replace(inputs.pages, pos=inputs.pages.pos + 100),
    )
    np.testing.assert_allclose(attend(attention, moved, case), attend(attention, inputs, case), rtol=0, atol=1e-4)


@every_implementation
def test_large_scores_neither_overflow_nor_lose_the_running_maximum(attention):
    """The largest key comes first in one row and last in the other, chunks apart."""
    case = Case("", ((Run(0, 600, cached=True), Run(600, 2)),) * 2, page_tokens=16)
    inputs = case.inputs(0)
    for row, m in ((0, 0), (1, 36)):
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


@every_implementation
@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.lists(runs(), max_size=4), min_size=2, max_size=2),
    num_kv_heads=st.sampled_from([1, 2]),
    window=st.sampled_from([None, 5]),
    seed=st.integers(0, 99),
)
def test_any_layout_agrees_with_the_oracle(attention, rows, num_kv_heads, window, seed):
    """Blocks may overlap in position and come in any order: only the rule decides."""
    runs_of_rows = tuple(tuple(Run(*fields) for fields in row) for row in rows)
    case = Case("", runs_of_rows, 2, num_kv_heads, head_dim=4, page_tokens=3, window=window)
    inputs = case.inputs(seed)
    # Padded to one shape, so that few programs are compiled.
    case = replace(case, pad_tokens=36 - inputs.q.shape[1], pad_pages=12 - inputs.pages.table.shape[1])
    checked(attention, case.inputs(seed), case)


@pytest.mark.parametrize("name", SERVING_CASES)
def test_serving_cases_are_prompts_of_some_2000_tokens(name):
    _, inputs, _ = case_of(name)
    cached = inputs.pages.len.sum() - inputs.pages.drop.sum()
    fresh = (inputs.tokens.pos >= 0).sum()
    assert 1900 <= (cached + fresh) / inputs.q.shape[0] <= 2200


@every_implementation
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": np.zeros((1, 11, 3, 8), np.float32)}, "num_heads=3 must be a multiple of num_kv_heads=2"),
        ({"window": 0}, "window=0 must be at least 1"),
        ({"rope": Rope(np.ones(3, np.float32))}, r"rope.inv_freq.shape=\(3,\) must hold half of head_dim=8"),
    ],
)
def test_impossible_arguments_are_refused(attention, change, message):
    case, inputs, _ = case_of("all_fresh")
    args = {"rope": case.rope, "window": None} | change
    inputs = inputs._replace(q=args.pop("q", inputs.q))
    refused(attention, inputs, args, message)


@every_implementation
def test_a_drop_mask_of_another_page_size_is_refused(attention):
    case, inputs, _ = case_of("full_pages")
    pages = replace(inputs.pages, drop=np.zeros((1, 3, 5), bool))
    message = r"pages.drop.shape=\(1, 3, 5\) must end in page_tokens=4"
    refused(attention, inputs._replace(pages=pages), {"rope": case.rope}, message)


def refused(attention, inputs, args, message):
    """By the operator and by its mass alike."""
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda *xs: attention(*xs, **args), *inputs)
    counts = inputs.tokens.pos >= 0
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            lambda *xs: attention.mass(*xs, **args),
            *(inputs.q, inputs.k_new, inputs.tokens, counts, inputs.k_pages, inputs.pages),
        )
