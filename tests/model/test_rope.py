"""Frequencies against what transformers computes and against the papers' formulas, pair by pair."""

import math
from dataclasses import replace

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcjax.kernels.selective_attention.rotation import from_position, rotate, to_position
from rcjax.model.config import ModelConfig, RopeScaling
from rcjax.model.rope import inverse_frequencies, rope_of, turned, turned_back


def config(head_dim=16, theta=10_000.0, scaling=None):
    return ModelConfig(
        num_layers=1,
        d_model=8,
        num_heads=2,
        num_kv_heads=1,
        head_dim=head_dim,
        d_ff=8,
        vocab_size=8,
        rope_theta=theta,
        norm_eps=1e-5,
        max_len=64,
        rope_scaling=scaling,
    )


LINEAR = RopeScaling("linear", 4.0)
LLAMA3 = RopeScaling("llama3", 8.0, original_max_len=8192, low_freq_factor=1.0, high_freq_factor=4.0)
LLAMA3_SHORT = RopeScaling("llama3", 32.0, original_max_len=64)
YARN = RopeScaling("yarn", 4.0, original_max_len=2048)
YARN_EXACT = RopeScaling("yarn", 4.0, original_max_len=2048, truncate=False)
SLOW = dict.fromkeys(range(3, 8), 1.0)  # pairs of eight that are stretched altogether
YARN_NARROW = RopeScaling("yarn", 4.0, original_max_len=32768, beta_fast=16.0, beta_slow=2.0)


# fmt: off
RECORDED = {
    "linear": (16, 1e4, LINEAR,
               [0.25, 0.07905694, 0.025, 0.007905695, 0.0025, 0.0007905695, 0.00025, 7.905695e-05]),
    "llama3": (16, 5e5, LLAMA3,
               [1.0, 0.1939228, 0.03760603, 0.007292665, 0.000524846, 3.428102e-05, 6.64787e-06, 1.289173e-06]),
    "llama3_short": (16, 1e4, LLAMA3_SHORT,
                     [1.0, 0.2366871, 0.003725355, 0.0009882118, 0.0003125, 9.882118e-05, 3.125e-05, 9.882118e-06]),
    "yarn": (16, 1e4, YARN,
             [1.0, 0.3162278, 0.1, 0.02569351, 0.00625, 0.001383497, 0.00025, 7.905695e-05]),
    "yarn_exact": (16, 1e4, YARN_EXACT,
                   [1.0, 0.3162278, 0.1, 0.0238702, 0.005056972, 0.0008112905, 0.00025, 7.905695e-05]),
    "yarn_narrow": (32, 1e6, YARN_NARROW,
                    [1.0, 0.4216965, 0.1778279, 0.07498942, 0.03162278, 0.01333521, 0.005623413, 0.001926741,
                     0.000625, 0.0001844922, 4.445699e-05, 1.874736e-05, 7.905694e-06, 3.333804e-06, 1.405853e-06,
                     5.928434e-07]),
}
# fmt: on


@pytest.mark.parametrize(("head_dim", "theta", "scaling", "expected"), RECORDED.values(), ids=RECORDED)
def test_frequencies_are_those_of_transformers(head_dim, theta, scaling, expected):
    """Recorded from ROPE_INIT_FUNCTIONS of transformers 5.23."""
    freq = inverse_frequencies(config(head_dim, theta, scaling))
    assert freq.dtype == np.float32
    np.testing.assert_allclose(freq, expected, rtol=2e-6)


@given(st.sampled_from([2, 8, 64, 128]), st.floats(100.0, 1e7))
def test_unscaled_frequencies_fall_geometrically(head_dim, theta):
    freq = inverse_frequencies(config(head_dim, theta))
    expected = [1 / theta ** (2 * i / head_dim) for i in range(head_dim // 2)]
    np.testing.assert_allclose(freq, expected, rtol=1e-6)


@given(
    theta=st.floats(1e3, 1e6),
    factor=st.floats(1.5, 64.0),
    original=st.integers(16, 32768),
    low=st.floats(0.5, 2.0),
    gap=st.floats(0.5, 8.0),
)
def test_llama3_keeps_fast_pairs_and_stretches_slow_ones(theta, factor, original, low, gap):
    """By the number of turns a pair makes over the original length: above `high` kept, below `low` stretched."""
    scaling = RopeScaling("llama3", factor, original_max_len=original, low_freq_factor=low, high_freq_factor=low + gap)
    scaled = inverse_frequencies(config(64, theta, scaling))
    for i, got in enumerate(scaled):
        freq = theta ** (-2 * i / 64)
        turns = original * freq / (2 * math.pi)
        share = min(max((turns - low) / gap, 0.0), 1.0)
        assert got == pytest.approx(share * freq + (1 - share) * freq / factor, rel=1e-5)


@given(theta=st.floats(1e3, 1e6), factor=st.floats(1.5, 64.0), original=st.integers(256, 32768))
def test_yarn_keeps_fast_pairs_and_interpolates_slow_ones(theta, factor, original):
    scaling = RopeScaling("yarn", factor, original_max_len=original, truncate=False)
    scaled = inverse_frequencies(config(64, theta, scaling))
    share_before = 1.0
    for i, got in enumerate(scaled):
        freq = theta ** (-2 * i / 64)
        turns = original * freq / (2 * math.pi)
        share = (got / freq - 1 / factor) / (1 - 1 / factor)  # of the unscaled frequency
        if turns >= 32:
            assert share == pytest.approx(1.0, abs=1e-4)
        if turns <= 1:
            assert share == pytest.approx(0.0, abs=1e-4)
        assert share <= share_before + 1e-4
        share_before = share


@pytest.mark.parametrize(
    ("theta", "scaling", "stretched"),
    [
        # The pair with 32 turns is 6.56, that with one turn 11.02: of 8 pairs only the last one is mixed.
        (500.0, RopeScaling("yarn", 4.0, original_max_len=32768), {7: 1 / 6}),
        (500.0, RopeScaling("yarn", 4.0, original_max_len=32768, truncate=False), {7: 0.0994}),
        # 5.24 and 16.07, which is past all that transformers counts: it stops at head_dim - 1 = 15.
        (100.0, RopeScaling("yarn", 4.0, original_max_len=65536, beta_fast=512.0), {6: 0.1, 7: 0.2}),
        # -0.39 and 2.62: it starts at the first pair, which is not mixed.
        (1e4, RopeScaling("yarn", 4.0, original_max_len=128, truncate=False), {1: 0.38196, 2: 0.76392} | SLOW),
    ],
)
def test_a_yarn_ramp_may_end_beyond_the_last_pair_or_begin_before_the_first(theta, scaling, stretched):
    """`find_correction_range` of transformers bounds it by 0 and head_dim - 1, though there are head_dim / 2 pairs."""
    for i, got in enumerate(inverse_frequencies(config(16, theta, scaling))):
        freq, share = theta ** (-i / 8), stretched.get(i, 0.0)
        assert got == pytest.approx(freq * (1 - share) + freq / 4 * share, rel=1e-4)


def test_an_unknown_scaling_is_refused_by_name():
    with pytest.raises(ValueError, match=r"scaling\.kind='dynamic' is not supported"):
        inverse_frequencies(config(scaling=RopeScaling("dynamic", 2.0)))


def test_the_attention_factor_scales_cosine_and_sine():
    assert rope_of(config()).factor == 1.0
    rope = rope_of(config(scaling=RopeScaling("yarn", 4.0, original_max_len=2048, attention_factor=1.25)))
    x = jnp.ones((1, 3, 2, 16))
    rotated = rotate(x, to_position(jnp.array([[0, 5, 900]]), rope))
    np.testing.assert_allclose(jnp.linalg.norm(rotated, axis=-1), 1.25 * jnp.linalg.norm(x, axis=-1), rtol=1e-5)


def test_pairs_are_the_two_halves_not_neighbours():
    x = jnp.zeros((1, 1, 1, 16)).at[..., 2].set(1.0)
    (rotated,) = np.asarray(rotate(x, to_position(jnp.array([[7]]), rope_of(config()))))[0]
    angle = 7 * 10_000 ** (-4 / 16)
    expected = np.zeros(16)
    expected[[2, 10]] = math.cos(angle), math.sin(angle)
    np.testing.assert_allclose(rotated[0], expected, atol=1e-6)


def test_positions_are_not_rounded_to_the_dtype():
    """bfloat16 rounds 257 to 256: the two must still turn differently."""
    x = jnp.ones((1, 2, 1, 16), jnp.bfloat16)
    rotated = np.asarray(rotate(x, to_position(jnp.array([[256, 257]]), rope_of(config()))), np.float32)
    assert np.abs(rotated[0, 0] - rotated[0, 1]).max() > 0.5


@settings(max_examples=30, deadline=None)
@given(
    positions=st.tuples(st.integers(0, 500), st.integers(0, 500)),
    shift=st.integers(0, 1000),
    scaling=st.sampled_from([None, "yarn", "llama3"]),
    seed=st.integers(0, 99),
)
def test_scores_depend_on_relative_position_only(positions, shift, scaling, seed):
    rope = rope_of(config(scaling={"yarn": YARN, "llama3": LLAMA3, None: None}[scaling]))
    x = np.random.default_rng(seed).standard_normal((1, 2, 1, 16), np.float32)

    def score(pos):
        q, k = np.asarray(rotate(x, to_position(jnp.array([pos]), rope)))[0, :, 0]
        return q @ k

    there = score([positions[0] + shift, positions[1] + shift])
    assert score(list(positions)) == pytest.approx(there, abs=5e-3)


@settings(max_examples=30, deadline=None)
@given(
    pos=st.lists(st.integers(0, 2000), max_size=5),
    scaling=st.sampled_from([None, LLAMA3, replace(YARN, attention_factor=1.25)]),
    dtype=st.sampled_from([np.float32, ml_dtypes.bfloat16]),
    seed=st.integers(0, 99),
)
def test_the_host_turns_keys_as_a_pass_does(pos, scaling, dtype, seed):
    rope, num = rope_of(config(scaling=scaling)), len(pos)
    # A pass turns five always, so that it is compiled for no other number.
    five = np.array(pos + [0] * (5 - num), np.int32)
    of_five = np.random.default_rng(seed).standard_normal((2, 5, 3, 16)).astype(dtype)
    x, pos = of_five[:, :num], five[:num]
    for host, rotation in ((turned, to_position), (turned_back, from_position)):
        found, expected = host(x, pos, rope), np.asarray(rotate(of_five, rotation(five, rope)))[:, :num]
        assert found.dtype == expected.dtype == dtype
        # Cosines of NumPy and XLA may round differently, and with them a bfloat16: 2**-7 of up to 8.
        tolerance = 2e-5 if dtype is np.float32 else 2**-5
        np.testing.assert_allclose(found.astype(np.float32), expected.astype(np.float32), rtol=0, atol=tolerance)
        if dtype is np.float32:
            there_and_back = turned_back(turned(x, pos, rope), pos, rope)
            np.testing.assert_allclose(there_and_back, x, rtol=0, atol=1e-5)
