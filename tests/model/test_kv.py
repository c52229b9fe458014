"""Writing fresh KV into pages, against a loop over slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcjax.kernels.kv import KVPages
from rcjax.model.config import ModelConfig
from rcjax.model.kv import FreshKV, empty_pages, kv_format, write_pages

L, P, C, K, H = 2, 6, 4, 2, 4
B, T = 2, 5
CONFIG = ModelConfig(
    num_layers=L, d_model=8, num_heads=2, num_kv_heads=K, head_dim=H, d_ff=8, vocab_size=8, rope_theta=1e4,
    norm_eps=1e-5, max_len=64,
)  # fmt: skip
write = jax.jit(write_pages)
CONVERTS_BFLOAT16 = pytest.mark.xfail(
    jax.default_backend() == "cpu" and jax.__version_info__ < (0, 12),
    reason="XLA's CPU backend of jax 0.10 converts a whole bfloat16 pool to float32",
    strict=True,
)


def fresh(seed=0):
    rng = np.random.default_rng(seed)
    return FreshKV(*(jnp.asarray(rng.standard_normal((L, B, T, K, H), np.float32)) for _ in range(2)))


def poisoned_pages():
    """All NaN but the null page: a slot that should have been written, or kept, shows."""
    pages = np.full((L, P, C, K, H), np.nan, np.float32)
    pages[:, 0] = 0
    return KVPages(jnp.asarray(pages), jnp.asarray(pages))


def by_hand(pages, new, source, destination):
    expected, new = np.array(pages), np.asarray(new)
    for w, page in enumerate(destination):
        for c in range(C):
            if source[w, c] >= 0:
                b, t = divmod(int(source[w, c]), T)
                expected[:, page, c] = new[:, b, t]
    return expected


SOURCES = st.lists(st.lists(st.integers(-1, B * T - 1), min_size=C, max_size=C), min_size=3, max_size=3)


@settings(max_examples=50, deadline=None)
@given(SOURCES, st.permutations(range(1, P)), st.integers(0, 2))
def test_writes_exactly_the_named_slots(sources, pages, num_unused):
    source, destination = np.array(sources, np.int32), np.array(pages[:3], np.int32)
    source[3 - num_unused :], destination[3 - num_unused :] = -1, 0
    before, new = poisoned_pages(), fresh()
    after = write(before, new, source, destination)
    np.testing.assert_array_equal(after.k, by_hand(before.k, new.k, source, destination))
    np.testing.assert_array_equal(after.v, by_hand(before.v, new.v, source, destination))
    assert (np.asarray(after.k)[:, 0] == 0).all()


def test_a_partly_filled_page_keeps_what_it_holds():
    before = KVPages(*(jnp.full((L, P, C, K, H), value) for value in (3.0, 4.0)))
    new = fresh()
    after = write(before, new, np.array([[-1, -1, 6, -1]], np.int32), np.array([5], np.int32))
    assert (np.asarray(after.k)[:, 5, [0, 1, 3]] == 3).all()
    assert (np.asarray(after.v)[:, 5, [0, 1, 3]] == 4).all()
    np.testing.assert_array_equal(after.k[:, 5, 2], new.k[:, 1, 1])


def test_values_are_stored_in_the_pages_dtype():
    pages = empty_pages(kv_format(CONFIG, "bfloat16", C), P)
    after = write(pages, fresh(), np.array([[0, 1, 2, 3]], np.int32), np.array([1], np.int32))
    assert after.k.dtype == jnp.bfloat16
    np.testing.assert_array_equal(after.k[:, 1], fresh().k[:, 0, :4].astype(jnp.bfloat16))


QUANTISED = ["int8", "float8_e4m3fn"]
CONVERTS_FP8 = pytest.mark.xfail(
    jax.default_backend() == "cpu", reason="XLA's CPU backend converts a whole pool of float8", strict=True
)


@pytest.mark.parametrize("dtype", QUANTISED)
def test_each_slot_is_quantised_by_itself(dtype):
    """K and V of a token and head: what `quantise` makes of that vector alone, wherever it goes."""
    kv_pages, new = kv_format(CONFIG, dtype, C), fresh()
    source = np.array([[7, -1, 2, 9], [0, 1, -1, -1]], np.int32)
    after = write(empty_pages(kv_pages, P), new, source, np.array([5, 2], np.int32))
    for values, scale, of in ((after.k, after.k_scale, new.k), (after.v, after.v_scale, new.v)):
        values, scale, of = (np.asarray(x) for x in (values, scale, of))
        expected, expected_scale = np.zeros(values.shape, np.float32), np.zeros(scale.shape, np.float32)
        for page, slots in zip((5, 2), source, strict=True):
            for c, token in enumerate(slots):
                for layer, head in np.ndindex(L, K):
                    if token >= 0:
                        vector = of[layer, token // T, token % T, head]
                        expected[layer, page, c, head] = vector
                        expected_scale[layer, page, c, head] = np.abs(vector).max() / (127 if dtype == "int8" else 448)
        np.testing.assert_allclose(scale, expected_scale, rtol=1e-6)
        step = 0.5 if dtype == "int8" else 16  # half of the largest step: 448 is 14 * 2^5
        error = np.abs(values.astype(np.float32) * scale[..., None] - expected)
        assert (error <= scale[..., None] * step * (1 + 1e-5)).all()


@pytest.mark.parametrize("dtype", QUANTISED)
def test_a_page_that_grows_keeps_the_bits_of_what_it_holds(dtype):
    """The later token is a thousand times larger: a scale of the whole page would have moved the earlier ones."""
    before = write(
        empty_pages(kv_format(CONFIG, dtype, C), P), fresh(), np.array([[0, 1, -1, -1]], np.int32), np.array([3])
    )
    larger = jax.tree.map(lambda x: 1000 * x, fresh(1))
    after = write(before, larger, np.array([[-1, -1, 4, -1]], np.int32), np.array([3]))
    for old, grown in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        old, grown = np.asarray(old), np.asarray(grown)
        np.testing.assert_array_equal(grown[:, 3, :2].view(np.uint8), old[:, 3, :2].view(np.uint8))
        assert grown[:, 3, 2].astype(np.float32).any()
        assert not np.delete(grown, 3, axis=1).astype(np.float32).any()


@pytest.mark.parametrize("dtype", QUANTISED)
def test_kv_that_is_not_finite_stays_so(dtype):
    new = FreshKV(fresh().k.at[0, 0, 1, 1, 2].set(jnp.nan), fresh().v.at[1, 0, 2, 0, 0].set(jnp.inf))
    after = write(empty_pages(kv_format(CONFIG, dtype, C), P), new, np.array([[0, 1, 2, 3]], np.int32), np.array([1]))
    found = after.dequantised()
    assert np.argwhere(np.isnan(found.k).all(-1)).tolist() == [[0, 1, 1, 1]]
    assert np.argwhere(np.isnan(found.v).all(-1)).tolist() == [[1, 1, 2, 0]]


@pytest.mark.parametrize("dtype", QUANTISED)
def test_empty_quantised_pages_are_zeros(dtype):
    pages = empty_pages(kv_format(CONFIG, dtype, C), P)
    assert pages.num_bytes == P * C * (CONFIG.kv_values_per_token + 2 * L * K * 4)
    assert all((np.asarray(array).astype(np.float32) == 0).all() for array in jax.tree.leaves(pages))


@pytest.mark.parametrize(("dtype", "width"), [("float32", 4), ("bfloat16", 2)])
def test_empty_pages_are_zeros_and_know_their_size(dtype, width):
    pages = empty_pages(kv_format(CONFIG, dtype, C), P)
    assert pages.k.shape == pages.v.shape == (L, P, C, K, H)
    assert (np.asarray(pages.k) == 0).all()
    assert (np.asarray(pages.v) == 0).all()
    assert pages.page_tokens == C
    assert pages.num_bytes == P * C * CONFIG.kv_values_per_token * width


@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        pytest.param("bfloat16", marks=CONVERTS_BFLOAT16),
        "int8",
        pytest.param("float8_e4m3fn", marks=CONVERTS_FP8),
    ],
)
def test_donated_pages_are_written_in_place(dtype):
    """A pool fills most of a device's memory: a second copy would not fit."""
    args = (kv_format(CONFIG, dtype, C).abstract(4096), fresh(), jnp.zeros((3, C), jnp.int32), jnp.zeros(3, jnp.int32))

    memory = jax.jit(write_pages, donate_argnames="pages").lower(*args).compile().memory_analysis()
    pool_bytes = 4096 * kv_format(CONFIG, dtype, C).page_bytes
    assert memory.alias_size_in_bytes >= pool_bytes
    assert memory.temp_size_in_bytes < pool_bytes / 10
