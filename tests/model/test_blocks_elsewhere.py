"""The forward pass over pages whose tokens stand elsewhere than where they were computed, and over those of tiles."""

from dataclasses import replace

import numpy as np
import pytest
from test_decoder import (
    BASE,
    VARIANTS,
    C,
    jit_extend,
    jit_forward,
    logits_in_steps,
    random_ids,
    random_params,
)

from rcjax.kernels.kv import KVPages
from rcjax.kernels.selective_attention import DENSE, REFERENCE, PageLayout, TileLayout, TokenLayout
from rcjax.kernels.selective_attention.layout import joined_pages
from rcjax.kernels.selective_attention.rotation import by_shift, rotate
from rcjax.model.decoder import Batch, causal_batch, unembed
from rcjax.model.kv import empty_pages, kv_format
from rcjax.model.rope import rope_of

every_implementation = pytest.mark.parametrize("attention", [REFERENCE, DENSE], ids=lambda attention: attention.name)


def moved(batch, by):
    return replace(batch, tokens=replace(batch.tokens, pos=batch.tokens.pos + by))


@pytest.mark.parametrize("name", ["plain", "qk_norm"])
def test_keys_come_out_rotated_to_where_they_stand(name):
    """Moving a prompt leaves its logits and its values as they are, and turns its keys by the distance."""
    config = VARIANTS[name]
    params, batch = random_params(config), causal_batch(random_ids(9))
    pages = empty_pages(kv_format(config, "float32", 1), 1)
    (hidden, fresh), (hidden_moved, fresh_moved) = (
        jit_extend(params, config, b, pages, REFERENCE) for b in (batch, moved(batch, 40))
    )
    np.testing.assert_allclose(hidden_moved, hidden, rtol=0, atol=2e-3)
    np.testing.assert_array_equal(fresh_moved.v[0], fresh.v[0])  # the first layer's values see no position at all
    np.testing.assert_allclose(fresh_moved.v, fresh.v, rtol=0, atol=2e-3)
    turned = rotate(fresh.k, by_shift(np.full(9, 40), rope_of(config)))
    np.testing.assert_allclose(fresh_moved.k, turned, rtol=0, atol=2e-3)
    assert np.abs(fresh_moved.k - fresh.k).max() > 0.1


@every_implementation
@pytest.mark.parametrize("name", ["yarn", "qk_norm", "window"])
def test_a_block_may_be_read_elsewhere_than_where_it_was_computed(name, attention):
    """Nine tokens from position 0 on, read 40 further on by the five that follow them there."""
    config = VARIANTS[name]
    params, ids = random_params(config), random_ids(14)
    _, pages = logits_in_steps(params, config, ids[:, :9], (9,))
    table = np.arange(2, 8, dtype=np.int32).reshape(2, 3)  # as `logits_in_steps` numbers them
    pos = np.broadcast_to(40 + C * np.arange(3, dtype=np.int32), (2, 3))
    length = np.broadcast_to(np.array([4, 4, 1], np.int32), (2, 3))
    drop = np.zeros((2, 3, C), bool)
    layout = PageLayout(table, pos, length, np.zeros_like(table), drop, np.full_like(table, 40))
    batch = replace(moved(causal_batch(ids[:, 9:]), 49), pages=layout)
    hidden, _ = jit_extend(params, config, batch, pages, attention)
    whole = jit_forward(params, config, ids)[:, 9:]
    np.testing.assert_allclose(unembed(params, hidden), whole, rtol=0, atol=2e-3)


@every_implementation
def test_each_layer_finds_the_pages_of_tiles(attention):
    """A tile's pages may as well be among those that all tokens may see."""
    params, ids = random_params(BASE), random_ids(5, batch=1)
    rng = np.random.default_rng(0)
    pages = KVPages(*rng.standard_normal((2, *kv_format(BASE, "float32", C).shape(6))).astype(np.float32))
    segment = np.array([[1, 2, 1, 2, 0]], np.int32)
    tokens = TokenLayout(np.array([[12, 13, 14, 15, 16]], np.int32), segment, np.ones_like(segment))
    shared, own = (
        PageLayout(table, 4 * np.ones_like(table), np.full_like(table, C), of, np.zeros((*table.shape, C), bool))
        for table, of in (
            (np.array([[3]], np.int32), np.zeros((1, 1), np.int32)),
            (np.array([[[1, 4], [5, 2]]], np.int32), np.array([[[1, 1], [2, 2]]], np.int32)),
        )
    )
    tiles = TileLayout(np.array([[[0, 2], [1, 3]]], np.int32), own)
    batch = Batch(ids, tokens, shared, np.arange(5, dtype=np.int32)[None], tiles)
    tiled, joined, untiled = (
        jit_extend(params, BASE, b, pages, attention)[0]
        for b in (batch, replace(batch, pages=joined_pages(shared, tiles), tiles=None), replace(batch, tiles=None))
    )
    np.testing.assert_allclose(tiled, joined, rtol=0, atol=1e-4)
    assert (np.abs(tiled - untiled).max((0, 2)) > 0.01).tolist() == [True] * 4 + [False]
