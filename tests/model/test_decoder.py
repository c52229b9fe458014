"""The forward pass against itself: however a prompt is cut into cached and fresh, its logits are the same."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcjax.kernels.kv import KVPages
from rcjax.kernels.selective_attention import DENSE, REFERENCE, PageLayout, TokenLayout
from rcjax.model.config import ModelConfig, RopeScaling
from rcjax.model.decoder import (
    Batch,
    abstract_params,
    causal_batch,
    extend,
    forward,
    init_params,
    logical_axes,
    rms_norm,
    unembed,
)
from rcjax.model.kv import empty_pages, kv_format, write_pages

BASE = ModelConfig(
    num_layers=2, d_model=16, num_heads=4, num_kv_heads=2, head_dim=8, d_ff=24, vocab_size=40, rope_theta=1e4,
    norm_eps=1e-5, max_len=64,
)  # fmt: skip
VARIANTS = {
    "plain": BASE,
    "bias": replace(BASE, qkv_bias=True),
    "qk_norm": replace(BASE, qk_norm=True),
    "tied": replace(BASE, tied_embeddings=True),
    "window": replace(BASE, sliding_window=6),
    "yarn": replace(BASE, rope_scaling=RopeScaling("yarn", 4.0, original_max_len=16, attention_factor=1.25)),
    "bias_qk_norm_tied": replace(BASE, qkv_bias=True, qk_norm=True, tied_embeddings=True),
}
C = 4  # tokens per page
CONVERTS_BFLOAT16 = pytest.mark.xfail(
    jax.default_backend() == "cpu" and jax.__version_info__ < (0, 12),
    reason="XLA's CPU backend of jax 0.10 converts a whole bfloat16 pool to float32",
    strict=True,
)


jit_forward = jax.jit(forward, static_argnums=1)
jit_extend = jax.jit(extend, static_argnums=(1, 4))
jit_write_pages = jax.jit(write_pages)


@cache
def random_params(config, dtype=jnp.float32):
    """Every parameter random, biases and norms too, and weights large enough for attention to matter.

    Drawn by NumPy: compiling JAX's random numbers would take longer than all of these tests.
    """
    rng = np.random.default_rng(1)
    leaves, tree = jax.tree.flatten(abstract_params(config, dtype))
    noise = [0.3 * rng.standard_normal(leaf.shape, np.float32) for leaf in leaves]
    params = jax.tree.unflatten(tree, noise)
    for norm in (params["final_norm"], *(params["layers"][name] for name in params["layers"] if name.endswith("norm"))):
        norm += 1
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), params)


def random_ids(length, batch=2):
    ids = np.random.default_rng(2).integers(0, BASE.vocab_size, (batch, length))
    return jnp.asarray(ids, jnp.int32)


def poisoned_pages(config, num_pages, dtype):
    """All NaN but the null page; of integers, the scales."""
    pages = empty_pages(kv_format(config, dtype, C), num_pages)
    poisoned: KVPages = jax.tree.map(lambda x: x.at[:, 1:].set(99 if x.dtype == jnp.int8 else jnp.nan), pages)
    return poisoned


def logits_in_steps(params, config, ids, steps, kv_dtype="float32", attention=REFERENCE):
    """Runs the steps' tokens one pass after another; each leaves its KV in pages of its own."""
    batch, num_pages = ids.shape[0], sum(-(-step // C) for step in steps)
    pages = poisoned_pages(config, 2 + batch * num_pages, kv_dtype)
    table, pos, length = (np.zeros((batch, 0), np.int32) for _ in range(3))
    logits, start, free = [], 0, 2
    for step in steps:
        here = start + np.arange(step, dtype=np.int32)
        at = np.broadcast_to(here, (batch, step))
        zeros = np.zeros_like(at)
        layout = PageLayout(table, pos, length, np.zeros_like(table), np.zeros((*table.shape, C), bool))
        read = np.broadcast_to(np.arange(step, dtype=np.int32), (batch, step))
        step_batch = Batch(ids[:, start : start + step], TokenLayout(at, zeros, zeros), layout, read)
        hidden, fresh = jit_extend(params, config, step_batch, pages, attention)
        logits.append(unembed(params, hidden))

        first = np.arange(0, step, C)
        new = free + np.arange(batch * len(first), dtype=np.int32).reshape(batch, -1)
        source = first[:, None] + np.arange(C)
        source = np.where(source < step, source + step * np.arange(batch)[:, None, None], -1).astype(np.int32)
        pages = jit_write_pages(pages, fresh, jnp.asarray(source.reshape(-1, C)), jnp.asarray(new.reshape(-1)))
        table = np.concatenate([table, new], axis=1)
        pos = np.concatenate([pos, np.broadcast_to(start + first, new.shape)], axis=1).astype(np.int32)
        length = np.concatenate([length, np.broadcast_to(np.minimum(step - first, C), new.shape)], axis=1)
        length = length.astype(np.int32)
        start, free = start + step, free + new.size
    return jnp.concatenate(logits, axis=1), pages


@pytest.mark.parametrize("name", VARIANTS)
def test_cached_equals_fresh(name):
    config = VARIANTS[name]
    params, ids = random_params(config), random_ids(14)
    whole = jit_forward(params, config, ids)
    in_steps, pages = logits_in_steps(params, config, ids, (9, 5))
    np.testing.assert_allclose(in_steps, whole, rtol=1e-4, atol=1e-4)
    assert np.isnan(pages.k[:, 1]).all(), "page 1 is nobody's and must stay as it was"
    assert (np.asarray(pages.k)[:, 0] == 0).all()
    assert (np.asarray(pages.v)[:, 0] == 0).all()


@pytest.mark.parametrize("steps", [(8, 1), (1, 2, 3)])
def test_cached_equals_fresh_however_the_prompt_is_cut(steps):
    params, ids = random_params(BASE), random_ids(sum(steps), batch=1)
    in_steps, _ = logits_in_steps(params, BASE, ids, steps)
    np.testing.assert_allclose(in_steps, jit_forward(params, BASE, ids), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", [REFERENCE, DENSE], ids=lambda attention: attention.name)
@pytest.mark.parametrize(
    ("dtype", "kv_dtype", "tolerance"),
    [
        ("float32", "bfloat16", 0.02),
        ("bfloat16", "float32", 0.06),
        ("bfloat16", "bfloat16", 0.06),
        ("float32", "int8", 0.1),
        ("float32", "float8_e4m3fn", 0.3),
    ],
)
def test_pages_may_have_another_dtype_than_the_weights(attention, dtype, kv_dtype, tolerance):
    """Against a float32 pass without a page, of weights that bfloat16 holds exactly; error over the logits' spread."""
    params, ids = random_params(BASE, jnp.bfloat16), random_ids(14)
    whole = np.asarray(jit_forward(jax.tree.map(lambda x: x.astype(jnp.float32), params), BASE, ids))
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    in_steps, pages = logits_in_steps(params, BASE, ids, (9, 5), kv_dtype, attention)
    assert pages.k.dtype == pages.v.dtype == kv_dtype
    assert np.abs(in_steps - whole).max() < tolerance * np.std(whole)
    assert np.abs(in_steps - whole)[:, 9:].max() > 1e-4 * np.std(whole), "nothing was rounded"


def test_later_tokens_change_nothing_and_earlier_ones_do():
    params, ids = random_params(BASE), random_ids(12)
    whole = np.asarray(jit_forward(params, BASE, ids))
    np.testing.assert_allclose(jit_forward(params, BASE, ids[:, :7]), whole[:, :7], rtol=1e-4, atol=1e-4)
    changed = np.asarray(jit_forward(params, BASE, ids.at[:, 3].add(1)))
    np.testing.assert_array_equal(changed[:, :3], whole[:, :3])
    assert (np.abs(changed - whole).max(-1)[:, 3:] > 1e-3).all()


def test_a_window_hides_what_is_further_back():
    """One layer, window 3: token 5 reaches tokens 5, 6 and 7 and no other."""
    config = replace(BASE, num_layers=1, sliding_window=3)
    params, ids = random_params(config), random_ids(12, batch=1)
    change = jit_forward(params, config, ids.at[:, 5].add(1)) - jit_forward(params, config, ids)
    reached = np.abs(change).max((0, 2)) > 1e-5
    assert reached.nonzero()[0].tolist() == [5, 6, 7]


def test_rows_do_not_see_each_other():
    params, ids = random_params(BASE), random_ids(9)
    alone = jit_forward(params, BASE, ids[1:])
    np.testing.assert_allclose(jit_forward(params, BASE, ids)[1:], alone, rtol=1e-4, atol=1e-4)


def test_read_gathers_the_tokens_asked_for():
    params = random_params(BASE)
    batch = causal_batch(random_ids(9))
    pages = empty_pages(kv_format(BASE, "float32", 1), 1)
    everything, _ = jit_extend(params, BASE, batch, pages, REFERENCE)
    read = jnp.array([[8, 0, 3], [2, 2, 7]])
    some, _ = jit_extend(params, BASE, replace(batch, read=read), pages, REFERENCE)
    expected = np.stack([np.asarray(everything)[b, read[b]] for b in range(2)])
    np.testing.assert_allclose(some, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["plain", "tied"])
def test_unembed_of_some_tokens_is_columns_of_the_whole(name):
    params = random_params(VARIANTS[name], jnp.bfloat16)
    hidden = jnp.asarray(np.random.default_rng(3).standard_normal((2, 3, BASE.d_model)), jnp.bfloat16)
    whole = unembed(params, hidden)
    vocab_ids = jnp.array([39, 0, 7, 7])
    assert whole.dtype == jnp.float32
    assert whole.shape == (2, 3, BASE.vocab_size)
    np.testing.assert_allclose(unembed(params, hidden, vocab_ids), whole[..., vocab_ids], rtol=1e-5, atol=1e-5)
    head = params["embed"].T if name == "tied" else params["lm_head"]
    expected = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64)
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-4)


def test_rms_norm_matches_its_formula():
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32) * 1e-3
    weight = np.arange(1, 9, dtype=np.float32)
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(rms_norm(jnp.asarray(x), jnp.asarray(weight), 1e-5), expected, rtol=1e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_declared_shapes_and_axes_are_those_of_the_parameters(name):
    config = VARIANTS[name]
    params = jax.eval_shape(lambda key: init_params(config, key, jnp.bfloat16), jax.random.key(0))
    abstract = abstract_params(config, jnp.bfloat16)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, x.dtype), abstract)
    size = {
        "layers": config.num_layers, "embed": config.d_model, "heads": config.num_heads, "head_dim": config.head_dim,
        "kv_heads": config.num_kv_heads, "mlp": config.d_ff, "vocab": config.vocab_size,
    }  # fmt: skip
    axes = logical_axes(config)
    shapes = jax.tree.map(lambda names: tuple(size[n] for n in names), axes, is_leaf=lambda x: isinstance(x, tuple))
    assert shapes == jax.tree.map(lambda x: x.shape, params)
    assert ("lm_head" in params) == (not config.tied_embeddings)
    assert ("q_bias" in params["layers"]) == config.qkv_bias
    assert ("k_norm" in params["layers"]) == config.qk_norm


def test_initial_values():
    """Norms keep, biases add nothing, and no two weights are drawn alike."""
    config = replace(BASE, num_layers=1, qkv_bias=True, qk_norm=True)
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0, impl="rbg"))  # one program, not dozens
    layers = params["layers"]
    assert (params["final_norm"] == 1).all()
    assert all((layers[name] == 1).all() for name in ("attn_norm", "mlp_norm", "q_norm", "k_norm"))
    assert all((layers[name] == 0).all() for name in ("q_bias", "k_bias", "v_bias"))
    assert float(jnp.std(params["embed"])) == pytest.approx(0.02, rel=0.2)
    assert (layers["gate_proj"] != layers["up_proj"]).any()


def test_the_program_does_not_grow_with_depth():
    def num_operations(num_layers):
        config = replace(BASE, num_layers=num_layers)
        lowered = jit_forward.lower(abstract_params(config, jnp.float32), config, random_ids(9))
        return lowered.as_text().count("stablehlo.")

    assert num_operations(2) == num_operations(20) > 50


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=CONVERTS_BFLOAT16)])
@pytest.mark.parametrize("is_moved", [True, False])
def test_a_pass_does_not_copy_the_pool(dtype, is_moved):
    """A pool may fill most of the memory; a pass over a few of its pages must not touch the rest."""
    pool = kv_format(BASE, dtype, C)
    some = jnp.ones((1, 3), jnp.int32)
    layout = PageLayout(some, some, some, some, jnp.zeros((1, 3, C), bool), some if is_moved else None)
    batch = replace(causal_batch(random_ids(9, batch=1)), pages=layout)
    lowered = jit_extend.lower(random_params(BASE, jnp.dtype(dtype)), BASE, batch, pool.abstract(8192), REFERENCE)
    memory = lowered.compile().memory_analysis()
    assert memory.argument_size_in_bytes > 8192 * pool.page_bytes
    assert memory.temp_size_in_bytes < 8192 * pool.page_bytes / 10


def test_bfloat16_stays_bfloat16_and_close():
    ids = random_ids(9)
    low = random_params(BASE, jnp.bfloat16)
    exact = jit_forward(jax.tree.map(lambda x: x.astype(jnp.float32), low), BASE, ids)
    hidden, fresh = jit_extend(low, BASE, causal_batch(ids), empty_pages(kv_format(BASE, "bfloat16", 1), 1), REFERENCE)
    assert hidden.dtype == fresh.k.dtype == fresh.v.dtype == jnp.bfloat16
    tied = {name: x for name, x in low.items() if name != "lm_head"}
    assert len(tied) < len(low)
    for params in (low, tied):  # logits of bfloat16 would tie what a ranking has to tell apart
        assert unembed(params, hidden).dtype == unembed(params, hidden, jnp.arange(3)).dtype == jnp.float32
    error = np.abs(unembed(low, hidden) - exact)
    assert error.mean() < 0.03 * np.std(exact)
