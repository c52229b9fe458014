"""Selective attention in plain `jnp`: correct on every backend, and what the CPU runs.

Queries are taken in blocks, keys in chunks with a running softmax, so that no [T, S] matrix is ever formed. Which
chunks a query block sees at all is worked out first; the others are skipped. That is causal skipping in the
`sequential` layout and block-sparse attention in the `parallel` one, from the same rule.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.selective_attention.keys import gather_keys, gather_values
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TokenLayout
from rcjax.kernels.selective_attention.query_blocks import join_queries, pad_tokens, split_queries
from rcjax.kernels.selective_attention.rotation import rotate
from rcjax.kernels.selective_attention.visibility import MASKED, key_layout, visible


def attend(
    q: Float[Array, "B T N H"],
    k_new: Float[Array, "B T K H"],
    v_new: Float[Array, "B T K H"],
    tokens: TokenLayout,
    k_pages: Float[AnyArray, "P C K H"],
    v_pages: Float[AnyArray, "P C K H"],
    pages: PageLayout,
    *,
    rope: Rope,
    window: int | None,
) -> Float[Array, "B T N H"]:
    """`Attention.__call__` in float32 throughout, the result in the type of `q`."""
    batch, num_fresh, _, head_dim = q.shape
    query_block = _query_block(num_fresh)
    chunk = _chunk(num_fresh + pages.drop[0].size)

    keys = key_layout(tokens, pages, multiple_of=chunk)
    k = gather_keys(k_new, k_pages, pages, keys, rope)
    v = gather_values(v_new, v_pages, pages, keys)
    blocks = split_queries(rotate(q, tokens.pos, rope) * head_dim**-0.5, k_new.shape[2], query_block)

    seen = visible(pad_tokens(tokens, query_block), keys, window)
    seen = seen.reshape(batch, -1, query_block, seen.shape[2] // chunk, chunk)
    chunk_seen = seen.any((0, 2, 4))  # [I, J]
    order = jnp.argsort(~chunk_seen, axis=1, stable=True)
    count = chunk_seen.sum(1)
    seen = seen.transpose(1, 0, 3, 2, 4)  # [I, B, J, Q, chunk]

    def block(args: tuple[Array, Array, Array, Array]) -> Array:
        return _attend_block(*args, k, v, chunk)

    out = lax.map(block, (blocks, seen, order, count))
    return join_queries(out, query_block, num_fresh).astype(q.dtype)


def _query_block(num_fresh: int) -> int:
    return min(num_fresh, 64 if num_fresh <= 512 else 256)


def _chunk(num_keys: int) -> int:
    return min(num_keys, 512)


def _attend_block(
    q: Float[Array, "B K R H"],
    seen: Bool[Array, "B J Q C"],
    order: Int[Array, "J"],
    count: Int[Array, ""],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    chunk: int,
) -> Float[Array, "B K R H"]:
    """One query block (R = G * Q rows a kv head) over the `count` chunks it sees, by running softmax."""
    batch, num_kv_heads, rows, head_dim = q.shape
    block = seen.shape[2]

    def step(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top, total, out = carry
        index = order[j]
        k_chunk = lax.dynamic_slice_in_dim(k, index * chunk, chunk, axis=2)
        v_chunk = lax.dynamic_slice_in_dim(v, index * chunk, chunk, axis=2)
        mask = lax.dynamic_index_in_dim(seen, index, axis=1, keepdims=False)[:, None, None]  # [B, 1, 1, Q, C]
        scores = jnp.einsum("bkrh,bksh->bkrs", q, k_chunk)
        scores = jnp.where(mask, scores.reshape(batch, num_kv_heads, -1, block, chunk), MASKED)
        scores = scores.reshape(batch, num_kv_heads, rows, chunk)
        new_top = jnp.maximum(top, scores.max(-1))
        weights = jnp.exp(scores - new_top[..., None])
        decay = jnp.exp(top - new_top)
        total = total * decay + weights.sum(-1)
        out = out * decay[..., None] + jnp.einsum("bkrs,bksh->bkrh", weights, v_chunk)
        return new_top, total, out

    start = (
        jnp.full((batch, num_kv_heads, rows), MASKED),
        jnp.zeros((batch, num_kv_heads, rows)),
        jnp.zeros((batch, num_kv_heads, rows, head_dim)),
    )
    top, total, out = lax.fori_loop(0, count, step, start)
    # A row that saw nothing still has top == MASKED: its weights were exp(0) of masked keys. A NaN compares false: it
    # stays, so that spoiled weights or KV do not pass for a ranking.
    return jnp.where((top <= MASKED / 2)[..., None], 0, out / jnp.maximum(total, 1e-30)[..., None])
