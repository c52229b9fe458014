"""Rotations: where a key stands, how far it moved, and that attention sees nothing but the difference."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_runs import attend, case_of

from rcjax.kernels.selective_attention import Rope
from rcjax.kernels.selective_attention.dispatch import IMPLEMENTATIONS
from rcjax.kernels.selective_attention.rotation import by_shift, from_position, rotate, to_position

every_implementation = pytest.mark.parametrize("attention", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
ROPE = Rope((100.0 ** -np.linspace(0, 1, 4, endpoint=False)).astype(np.float32), factor=1.3)
POSITION = st.integers(0, 2000)
# Of entries below 6 and angles of up to 4,000 radians, which float32 holds to 2.4e-4.
TOLERANCE = 5e-3


def vectors(seed=0, num=5):
    return np.random.default_rng(seed).standard_normal((num, 3, 8)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(home=st.lists(POSITION, min_size=5, max_size=5), shift=st.integers(-2000, 2000), seed=st.integers(0, 99))
def test_a_position_and_a_shift_are_the_position_of_the_sum(home, shift, seed):
    x, home = vectors(seed), np.array(home, np.int32)
    moved = rotate(rotate(x, to_position(home, ROPE)), by_shift(np.array([shift], np.int32), ROPE))
    np.testing.assert_allclose(moved, rotate(x, to_position(home + shift, ROPE)), rtol=0, atol=TOLERANCE)


@settings(max_examples=30, deadline=None)
@given(pos=st.lists(POSITION, min_size=5, max_size=5), seed=st.integers(0, 99))
def test_from_position_undoes_to_position(pos, seed):
    x, pos = vectors(seed), np.array(pos, np.int32)
    np.testing.assert_allclose(
        rotate(rotate(x, to_position(pos, ROPE)), from_position(pos, ROPE)), x, rtol=0, atol=1e-5
    )


def test_a_rotation_is_that_of_complex_numbers():
    x, pos = vectors(), np.array([0, 1, 7, 300, 2000])
    turned = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * pos[:, None, None] * ROPE.inv_freq.astype(np.float64))
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(rotate(x, by_shift(pos, ROPE)), expected, rtol=0, atol=2e-3)
    np.testing.assert_allclose(rotate(x, to_position(pos, ROPE)), 1.3 * expected, rtol=0, atol=2e-3)


@every_implementation
@pytest.mark.parametrize("name", ["sequential", "tiles", "at_home"])
def test_moving_the_whole_prompt_changes_nothing(attention, name):
    """Queries and fresh keys are rotated to 100 tokens further on, and cached ones have come 100 further."""
    case, inputs = case_of(name)
    further = by_shift(np.full((1, 1), 100, np.int32), case.rope)

    def move(pages):
        shift = np.zeros_like(pages.pos) if pages.shift is None else pages.shift
        return replace(pages, pos=pages.pos + 100, shift=shift + 100)

    moved = inputs._replace(
        q=np.asarray(rotate(inputs.q, further)),
        k_new=np.asarray(rotate(inputs.k_new, further)),
        tokens=replace(inputs.tokens, pos=inputs.tokens.pos + 100),
        pages=move(inputs.pages),
        tiles=inputs.tiles and replace(inputs.tiles, pages=move(inputs.tiles.pages)),
    )
    np.testing.assert_allclose(attend(attention, moved, case), attend(attention, inputs, case), rtol=0, atol=1e-4)


@every_implementation
@pytest.mark.parametrize("name", ["rope_factor", "tiles_multi_head", "bfloat16"])
def test_a_block_read_elsewhere_equals_one_computed_there(attention, name):
    """Cached keys rotated to their pages' homes and moved by the operator, against ones rotated where they stand."""
    case, inputs = case_of(name)
    k_pages = inputs.k_pages.astype(np.float32)
    home, there = (np.zeros(k_pages.shape[:2], np.int32) for _ in range(2))
    slot = np.arange(case.page_tokens)
    for pages in (inputs.pages, *([inputs.tiles.pages] if inputs.tiles else [])):
        there[pages.table] = pages.pos[..., None] + slot
        home[pages.table] = (pages.pos - pages.shift)[..., None] + slot

    def at_home(pages):
        return replace(pages, shift=None)

    def cached(pos):
        return np.asarray(rotate(k_pages, to_position(pos, case.rope))).astype(inputs.k_pages.dtype)

    read = attend(attention, inputs._replace(k_pages=cached(home)), case)
    computed = inputs._replace(
        k_pages=cached(there),
        pages=at_home(inputs.pages),
        tiles=inputs.tiles and replace(inputs.tiles, pages=at_home(inputs.tiles.pages)),
    )
    tolerance = 5e-2 if case.dtype == "bfloat16" else 2e-5
    np.testing.assert_allclose(
        read.astype(np.float32), attend(attention, computed, case).astype(np.float32), rtol=0, atol=tolerance
    )


def test_heads_turn_alike_and_the_type_stays():
    x = jnp.ones((2, 3, 8), jnp.bfloat16)
    turned = rotate(x, by_shift(np.array([256, 257]), ROPE))
    assert turned.dtype == jnp.bfloat16
    assert (turned == turned[:, :1]).all()
    assert not jnp.array_equal(turned[0], turned[1]), "bfloat16 has no 257"
    assert jax.tree.all(jax.tree.map(lambda x: x.dtype == jnp.float32, by_shift(np.array([257]), ROPE)))
