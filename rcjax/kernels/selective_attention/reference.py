"""Selective attention in plain `jnp`: correct on every backend, and what the CPU runs.

Queries are taken in blocks, keys in chunks with a running softmax, so that no [T, S] matrix is ever formed. Which
chunks a query block sees at all is worked out first; the others are skipped. That is causal skipping in the
`sequential` layout and block-sparse attention in the `parallel` one, from the same rule.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.selective_attention.layout import AnyArray, PageLayout, Rope, TokenLayout

MASKED = -1e30  # finite, so that a row whose chunk is all masked stays free of NaN


class _Keys(NamedTuple):
    """Cached keys, then fresh keys, then padding: S of them."""

    pos: Int[AnyArray, "B S"]
    segment: Int[AnyArray, "B S"]
    valid: Bool[AnyArray, "B S"]


def selective_attention(
    q: Float[Array, "B T N H"],
    k_new: Float[Array, "B T K H"],
    v_new: Float[Array, "B T K H"],
    tokens: TokenLayout,
    k_pages: Float[Array, "P C K H"],
    v_pages: Float[Array, "P C K H"],
    pages: PageLayout,
    *,
    rope: Rope,
    window: int | None,
) -> Float[Array, "B T N H"]:
    """Same contract as `rcjax.kernels.selective_attention.selective_attention`."""
    batch, num_fresh, _, head_dim = q.shape
    query_block = _query_block(num_fresh)
    chunk = _chunk(num_fresh + pages.table.shape[1] * k_pages.shape[1])

    keys = key_layout(tokens, pages, chunk)
    k, v = gather(k_new, v_new, tokens, k_pages, v_pages, pages, keys, rope)
    q = split_queries(rotate(q, tokens.pos, rope) * head_dim**-0.5, k_new.shape[2], query_block)
    tokens = pad_tokens(tokens, query_block)

    seen = visible(tokens, keys, window)  # [B, T, S]; integers only, one head's worth
    seen = seen.reshape(batch, -1, query_block, seen.shape[2] // chunk, chunk)
    chunk_seen = seen.any((0, 2, 4))  # [I, J]
    order = jnp.argsort(~chunk_seen, axis=1, stable=True)
    count = chunk_seen.sum(1)
    seen = seen.transpose(1, 0, 3, 2, 4)  # [I, B, J, query_block, chunk]

    def block(args: tuple[Array, Array, Array, Array]) -> Array:
        return _attend_block(*args, k, v, chunk)

    out = join_queries(lax.map(block, (q, seen, order, count)), query_block)
    return out[:, :num_fresh].astype(k_new.dtype)


def rotate(x: Float[Array, "B T N H"], pos: Int[AnyArray, "B T"], rope: Rope) -> Float[Array, "B T N H"]:
    """Rotates each pair (i, i + H/2); angles are float32 whatever the dtype: bfloat16 rounds 257 to 256."""
    angle = pos[..., None, None].astype(jnp.float32) * rope.inv_freq
    cos, sin = jnp.cos(angle) * rope.factor, jnp.sin(angle) * rope.factor
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _query_block(num_fresh: int) -> int:
    return min(num_fresh, 64 if num_fresh <= 512 else 256)


def _chunk(num_keys: int) -> int:
    return min(num_keys, 512)


def key_layout(tokens: TokenLayout, pages: PageLayout, chunk: int) -> _Keys:
    batch, _, page_tokens = pages.drop.shape
    offset = jnp.arange(page_tokens)
    cached = _Keys(
        pages.pos[..., None] + offset,
        jnp.broadcast_to(pages.segment[..., None], pages.drop.shape),
        (offset < pages.len[..., None]) & ~pages.drop,
    )
    fresh = _Keys(tokens.pos, tokens.segment, tokens.pos >= 0)
    joined = [jnp.concatenate([c.reshape(batch, -1), f], axis=1) for c, f in zip(cached, fresh, strict=True)]
    padding = -joined[0].shape[1] % chunk
    return _Keys(*(jnp.pad(x, ((0, 0), (0, padding))) for x in joined))


def gather(
    k_new: Array, v_new: Array, tokens: TokenLayout, k_pages: Array, v_pages: Array, pages: PageLayout,
    keys: _Keys, rope: Rope,
) -> tuple[Array, Array]:  # fmt: skip
    """Keys (rotated) and values of all key tokens, each [B, K, S, H] float32."""
    batch, _, num_kv_heads, head_dim = k_new.shape
    padding = keys.pos.shape[1] - pages.drop[0].size - k_new.shape[1]

    def join(cached: Array, fresh: Array) -> Array:
        cached = cached[pages.table].reshape(batch, -1, num_kv_heads, head_dim)
        tail = jnp.zeros((batch, padding, num_kv_heads, head_dim), fresh.dtype)
        return jnp.concatenate([cached.astype(fresh.dtype), fresh, tail], axis=1)

    k = rotate(join(k_pages, k_new), keys.pos, rope)
    # A masked key's weight is 0, but 0 * NaN is NaN: what lies beyond a page's end must not be read.
    v = jnp.where(keys.valid[..., None, None], join(v_pages, v_new).astype(jnp.float32), 0)
    return k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)


def pad_tokens(tokens: TokenLayout, query_block: int) -> TokenLayout:
    padding = ((0, 0), (0, -tokens.pos.shape[1] % query_block))
    return TokenLayout(
        jnp.pad(tokens.pos, padding, constant_values=-1),
        jnp.pad(tokens.segment, padding),
        jnp.pad(tokens.horizon, padding),
    )


def split_queries(q: Float[Array, "B T N H"], num_kv_heads: int, query_block: int) -> Float[Array, "I B K R H"]:
    """Blocks of queries, the last padded; the G query heads of a kv head make R = G * query_block rows of a matmul."""
    batch, num_fresh, num_heads, head_dim = q.shape
    q = jnp.pad(q, ((0, 0), (0, -num_fresh % query_block), (0, 0), (0, 0)))
    q = q.reshape(batch, -1, query_block, num_kv_heads, num_heads // num_kv_heads, head_dim)
    return q.transpose(1, 0, 3, 4, 2, 5).reshape(q.shape[1], batch, num_kv_heads, -1, head_dim)


def join_queries(out: Float[Array, "I B K R H"], query_block: int) -> Float[Array, "B T N H"]:
    """The inverse of `split_queries`, padding included."""
    num_blocks, batch, num_kv_heads, rows, head_dim = out.shape
    out = out.reshape(num_blocks, batch, num_kv_heads, rows // query_block, query_block, head_dim)
    return out.transpose(1, 0, 4, 2, 3, 5).reshape(batch, num_blocks * query_block, -1, head_dim)


def visible(tokens: TokenLayout, keys: _Keys, window: int | None) -> Bool[AnyArray, "B T S"]:
    query_pos, key_pos = tokens.pos[:, :, None], keys.pos[:, None, :]
    key_segment = keys.segment[:, None, :]
    same = key_segment == tokens.segment[:, :, None]
    seen = keys.valid[:, None, :] & (key_pos <= query_pos) & (same | (key_segment < tokens.horizon[:, :, None]))
    if window is not None:
        seen &= query_pos - key_pos < window
    return seen


def _attend_block(
    q: Float[Array, "B K R H"],
    seen: Bool[Array, "B J I C"],
    order: Int[Array, "J"],
    count: Int[Array, ""],
    k: Float[Array, "B K S H"],
    v: Float[Array, "B K S H"],
    chunk: int,
) -> Float[Array, "B K R H"]:
    """One query block (R = G * I rows per kv head) over the `count` chunks it sees, by running softmax."""
    batch, num_kv_heads, rows, head_dim = q.shape
    block = seen.shape[2]

    def step(j: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top, total, out = carry
        index = order[j]
        k_chunk = lax.dynamic_slice_in_dim(k, index * chunk, chunk, axis=2)
        v_chunk = lax.dynamic_slice_in_dim(v, index * chunk, chunk, axis=2)
        mask = lax.dynamic_index_in_dim(seen, index, axis=1, keepdims=False)[:, None, None]  # [B, 1, 1, I, C]
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
