"""Probes of a prompt whose beginning is cached, against one pass over the whole prompt and NumPy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_decoder import BASE, random_ids, random_params

from rcjax.kernels.kv import KVPages, quantise_pages
from rcjax.kernels.selective_attention import DENSE, REFERENCE, PageLayout, TokenLayout
from rcjax.model.config import RopeScaling
from rcjax.model.decoder import Batch, causal_batch, run_layers
from rcjax.model.kv import empty_pages, kv_format
from rcjax.model.probe import KnownTokens, probe
from rcjax.model.rope import rope_of, turned, turned_back
from rcjax.model.selection import Measure, Quantity

YARN = RopeScaling("yarn", 4.0, original_max_len=16, attention_factor=1.25)
CONFIG = replace(BASE, num_layers=3, rope_scaling=YARN)
LENGTH, NUM_CACHED, C = 13, 9, 4
TABLE = (5, 2, 3)  # pages of the first 9 tokens, the last one partly filled
SHIFTS = np.array([-30, 0, 20])  # of the pages, from where their keys are rotated to
HOME = np.arange(LENGTH) - np.append(np.repeat(SHIFTS, C), [0])  # of each token
every_implementation = pytest.mark.parametrize("attention", [REFERENCE, DENSE], ids=lambda attention: attention.name)
jit_layers = jax.jit(run_layers, static_argnums=(1, 4))
jit_probe = jax.jit(probe, static_argnames=("config", "measure", "attention"))


@pytest.fixture(scope="module")
def whole():
    """q, k (both rotated) and v of every layer and token, [L, T, heads, H]."""
    pages = empty_pages(kv_format(CONFIG, "float32", 1), 1)
    batch = causal_batch(random_ids(LENGTH, batch=1))
    _, kv = jit_layers(random_params(CONFIG), CONFIG, batch, pages, REFERENCE)
    return [np.asarray(x)[:, 0] for x in kv]


def pages_of(k, v):
    """The cached tokens' KV of every layer in the pages of `TABLE`, keys moved from their places to their homes.

    All else is NaN but the null page.
    """
    k = turned(turned_back(k, np.arange(LENGTH), rope_of(CONFIG)), HOME, rope_of(CONFIG))
    pool = np.full((2, CONFIG.num_layers, 7, C, *k.shape[2:]), np.nan, np.float32)
    pool[:, :, 0] = 0
    for t in range(NUM_CACHED):
        pool[:, :, TABLE[t // C], t % C] = k[:, t], v[:, t]
    return KVPages(*map(jnp.asarray, pool))


def batch_from(first):
    """The prompt's tokens from `first` on, fresh; those before come from pages."""
    pos = np.arange(first, LENGTH, dtype=np.int32)[None]
    zeros = np.zeros_like(pos)
    page = np.arange(len(TABLE), dtype=np.int32)
    length = np.clip(min(first, NUM_CACHED) - C * page, 0, C).astype(np.int32)
    layout = PageLayout(
        np.array([TABLE], np.int32),
        C * page[None],
        length[None],
        zeros[:, :3],
        np.zeros((1, 3, C), bool),
        SHIFTS[None],
    )
    ids = np.asarray(random_ids(LENGTH, batch=1))[:, first:]
    return Batch(ids, TokenLayout(pos, zeros, zeros), layout, zeros[:, :1])


def run(attention, batch, pages, slots, asks, quantity, layer=0):
    known = KnownTokens(slots, np.where(slots >= 0, HOME[-slots.shape[1] :], -1))
    measure = Measure(quantity, layer)
    return np.asarray(jit_probe(random_params(CONFIG), CONFIG, batch, pages, known, asks, measure, attention))


def causal_weights(q, k):
    """Softmax weights [N, T, T] of one layer."""
    k = np.repeat(k, CONFIG.num_heads // CONFIG.num_kv_heads, axis=1)
    scores = np.einsum("tnh,snh->nts", q, k) / np.sqrt(CONFIG.head_dim)
    scores = np.where(np.tri(LENGTH, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@every_implementation
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_query_attention_sums_what_each_layer_s_own_pages_receive(whole, attention, num_layers):
    q, k, v = whole
    asks = np.array([[True, False, True, True]])
    none = np.full((1, LENGTH - NUM_CACHED), -1, np.int32)
    found = run(attention, batch_from(NUM_CACHED), pages_of(k, v), none, asks, Quantity.QUERY_ATTENTION, num_layers)
    queries = NUM_CACHED + np.flatnonzero(asks[0])
    expected = sum(causal_weights(q[i], k[i])[:, queries].sum((0, 1)) for i in range(num_layers))
    assert found.shape == (1, 3, C)
    np.testing.assert_allclose(found.reshape(-1)[:NUM_CACHED], expected[:NUM_CACHED], rtol=1e-3, atol=1e-5)
    assert (found.reshape(-1)[NUM_CACHED:] == 0).all()


def disturbed(k, v):
    """The same KV with noise of another size in each layer, and the noise, that of keys as it is unrotated."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, *k.shape)).astype(np.float32) * np.array([1, 10, 100])[:, None, None, None]
    return noise, pages_of(k + turned(noise[0], np.arange(LENGTH), rope_of(CONFIG)), v + noise[1])


def slots_of_all():
    """Where each token of the whole prompt is cached, as an index into a layer's slots; -1 where it is not."""
    cached = [TABLE[t // C] * C + t % C for t in range(NUM_CACHED)]
    return np.array([cached + [-1] * (LENGTH - NUM_CACHED)], np.int32)


@every_implementation
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_deviation_is_the_distance_to_the_layer_s_own_pages(whole, attention, layer):
    _, k, v = whole
    noise, pages = disturbed(k, v)
    asks = np.zeros((1, LENGTH), bool)
    found = run(attention, batch_from(0), pages, slots_of_all(), asks, Quantity.DEVIATION, layer)
    expected = np.sqrt(np.square(noise[:, layer]).sum((0, 2, 3)))
    np.testing.assert_allclose(found[0, :NUM_CACHED], expected[:NUM_CACHED], rtol=1e-3)
    assert (found[0, NUM_CACHED:] == 0).all()


@every_implementation
@pytest.mark.parametrize("dtype", [jnp.int8, jnp.float8_e4m3fn])
@pytest.mark.parametrize("quantity", [Quantity.DEVIATION, Quantity.MEAN_DEVIATION, Quantity.FIRST_LAYER])
def test_quantised_pages_are_measured_by_what_they_stand_for(whole, attention, dtype, quantity):
    _, k, v = whole
    pages = quantise_pages(*(np.asarray(x) for x in (disturbed(k, v)[1].k, disturbed(k, v)[1].v)), jnp.dtype(dtype))
    assert np.isnan(pages.k_scale).any()
    asks, layer = np.zeros((1, LENGTH), bool), 0 if quantity is Quantity.FIRST_LAYER else 1
    found, expected = (
        run(attention, batch_from(0), some, slots_of_all(), asks, quantity, layer)
        for some in (pages, pages.dequantised())
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@every_implementation
@pytest.mark.parametrize("dtype", [jnp.int8, jnp.float8_e4m3fn])
def test_attention_to_quantised_pages_is_that_to_what_they_stand_for(whole, attention, dtype):
    _, k, v = whole
    pages = quantise_pages(*(np.asarray(x) for x in (pages_of(k, v).k, pages_of(k, v).v)), jnp.dtype(dtype))
    asks, none = np.array([[True, False, True, True]]), np.full((1, LENGTH - NUM_CACHED), -1, np.int32)
    found, expected = (
        run(attention, batch_from(NUM_CACHED), some, none, asks, Quantity.QUERY_ATTENTION, 3)
        for some in (pages, pages.dequantised())
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@every_implementation
def test_mean_deviation_is_over_all_layers(whole, attention):
    _, k, v = whole
    noise, pages = disturbed(k, v)
    asks = np.zeros((1, LENGTH), bool)
    found = run(attention, batch_from(0), pages, slots_of_all(), asks, Quantity.MEAN_DEVIATION)
    expected = np.sqrt(np.square(noise).sum((0, 3, 4))).mean(0)
    np.testing.assert_allclose(found[0, :NUM_CACHED], expected[:NUM_CACHED], rtol=1e-3)
    assert (found[0, NUM_CACHED:] == 0).all()


@every_implementation
def test_first_layer_s_attention_and_distance(whole, attention):
    q, k, v = whole
    noise, pages = disturbed(k, v)
    asks = np.zeros((1, LENGTH), bool)
    found = run(attention, batch_from(0), pages, slots_of_all(), asks, Quantity.FIRST_LAYER)
    np.testing.assert_allclose(found[0, 0], causal_weights(q[0], k[0]).sum((0, 1)), rtol=1e-3, atol=1e-5)
    expected = np.abs(noise[:, 0]).sum((0, 2, 3))
    np.testing.assert_allclose(found[1, 0, :NUM_CACHED], expected[:NUM_CACHED], rtol=1e-3)
    assert (found[1, 0, NUM_CACHED:] == 0).all()
