"""Rules from logical axes to a mesh, and a whole pass by them on fake devices against one on a single device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from rcjax.kernels.selective_attention import REFERENCE, PageLayout, TokenLayout
from rcjax.kernels.selective_attention.sharded import sharded_heads
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Batch, abstract_params, extend, unembed
from rcjax.model.kv import kv_format
from rcjax.model.sharding import TENSOR_PARALLEL, page_shardings, param_shardings, sharding

CONFIG = ModelConfig(2, 32, 8, 4, 8, 48, 96, 1e4, 1e-6, 128, qk_norm=True)
NUM_PAGES, PAGE_TOKENS = 6, 4


def mesh_of(*sizes, names=("tensor",)):
    return Mesh(np.array(jax.devices()[: np.prod(sizes)]).reshape(sizes), names)


def specs(tree):
    return jax.tree.map(lambda placed: placed.spec, tree)


def test_heads_ffn_and_vocabulary_are_split_and_nothing_else():
    placed = specs(param_shardings(CONFIG, mesh_of(4)))
    assert placed["embed"] == PartitionSpec("tensor", None)
    assert placed["lm_head"] == PartitionSpec(None, "tensor")
    assert placed["final_norm"] == PartitionSpec(None)
    layers = placed["layers"]
    assert layers["q_proj"] == layers["k_proj"] == PartitionSpec(None, None, "tensor", None)
    assert layers["o_proj"] == PartitionSpec(None, "tensor", None, None)
    assert layers["gate_proj"] == PartitionSpec(None, None, "tensor")
    assert layers["down_proj"] == PartitionSpec(None, "tensor", None)
    assert layers["q_norm"] == layers["attn_norm"] == PartitionSpec(None, None)


def test_pages_are_split_by_kv_heads_and_with_other_rules_by_slices_too():
    some = kv_format(CONFIG, "int8", PAGE_TOKENS)
    placed = specs(page_shardings(some, NUM_PAGES, mesh_of(4)))
    assert placed.k == placed.v == PartitionSpec(None, None, None, "tensor", None)
    assert placed.k_scale == placed.v_scale == PartitionSpec(None, None, None, "tensor")
    mesh = mesh_of(2, 2, names=("slice", "tensor"))
    placed = specs(page_shardings(some, NUM_PAGES, mesh, TENSOR_PARALLEL | {"pages": "slice"}))
    assert placed.k == PartitionSpec(None, "slice", None, "tensor", None)


def test_an_axis_that_the_devices_do_not_divide_is_whole():
    assert sharding(mesh_of(4), TENSOR_PARALLEL, ("vocab", "embed"), (98, 32)).spec == PartitionSpec(None, None)


def test_rules_that_split_two_axes_of_a_weight_over_one_are_refused():
    with pytest.raises(ValueError, match=r"split two of the axes \('vocab', 'embed'\) over one mesh axis"):
        param_shardings(CONFIG, mesh_of(4), TENSOR_PARALLEL | {"embed": "tensor"})


@pytest.mark.parametrize("devices", [2, 4])
def test_a_pass_on_many_devices_equals_one_on_a_single_device(devices):
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32) / 4, abstract_params(CONFIG))
    some = kv_format(CONFIG, "float32", PAGE_TOKENS)
    pages = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), some.host_empty(NUM_PAGES))
    batch = _batch(rng)

    def run(attention, params, pages):
        hidden, fresh = extend(params, CONFIG, batch, pages, attention)
        return unembed(params, hidden), fresh.k, fresh.v

    expected = jax.jit(run, static_argnums=0)(REFERENCE, params, pages)
    mesh = mesh_of(devices)
    sharded = jax.device_put(params, param_shardings(CONFIG, mesh))
    found = jax.jit(run, static_argnums=0)(
        sharded_heads(REFERENCE, mesh), sharded, jax.device_put(pages, page_shardings(some, NUM_PAGES, mesh))
    )
    assert found[1].sharding.shard_shape(found[1].shape)[3] == CONFIG.num_kv_heads // devices
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


def _batch(rng):
    """Five fresh tokens after ten cached ones, twice, on pages that moved."""
    pos = np.tile(np.arange(10, 15, dtype=np.int32), (2, 1))
    zeros = np.zeros_like(pos)
    table = np.array([[1, 2, 3], [4, 5, 1]], np.int32)
    start, length = np.tile(np.array([[0, 4, 8]], np.int32), (2, 1)), np.tile(np.array([[4, 4, 2]], np.int32), (2, 1))
    drop = np.zeros((2, 3, PAGE_TOKENS), bool)
    pages = PageLayout(table, start, length, np.zeros_like(table), drop, np.full_like(table, 7))
    tokens = TokenLayout(pos, zeros, zeros)
    return Batch(jnp.asarray(rng.integers(0, 96, pos.shape), jnp.int32), tokens, pages, np.array([[4], [2]], np.int32))
