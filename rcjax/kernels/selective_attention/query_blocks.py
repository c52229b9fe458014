"""Queries in blocks, so that only one block's scores exist at a time."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rcjax.kernels.selective_attention.layout import TokenLayout


def pad_tokens(tokens: TokenLayout, query_block: int) -> TokenLayout:
    """The layout of whole blocks: the last is filled up with padding tokens."""
    padding = ((0, 0), (0, -tokens.pos.shape[1] % query_block))
    return TokenLayout(
        jnp.pad(tokens.pos, padding, constant_values=-1),
        jnp.pad(tokens.segment, padding),
        jnp.pad(tokens.horizon, padding),
    )


def split_queries(q: Float[Array, "B T N H"], num_kv_heads: int, query_block: int) -> Float[Array, "I B K R H"]:
    """I blocks of queries, the last one padded.

    The G query heads that share a kv head make R = G * query_block rows of one matmul, head by head.
    """
    batch, num_fresh, num_heads, head_dim = q.shape
    q = jnp.pad(q, ((0, 0), (0, -num_fresh % query_block), (0, 0), (0, 0)))
    q = q.reshape(batch, -1, query_block, num_kv_heads, num_heads // num_kv_heads, head_dim)
    return q.transpose(1, 0, 3, 4, 2, 5).reshape(q.shape[1], batch, num_kv_heads, -1, head_dim)


def split_seen(seen: Bool[Array, "B T S"], query_block: int) -> Bool[Array, "I B Q S"]:
    """What the queries of each block see; T is a multiple of the block."""
    batch, _, num_keys = seen.shape
    return seen.reshape(batch, -1, query_block, num_keys).transpose(1, 0, 2, 3)


def join_rows(x: Float[Array, "I B K R *any"], query_block: int, num_fresh: int) -> Float[Array, "B T N *any"]:
    """The inverse of `split_queries` for what was found of each row, without the padding."""
    num_blocks, batch, num_kv_heads, rows, *tail = x.shape
    x = x.reshape(num_blocks, batch, num_kv_heads, rows // query_block, query_block, *tail)
    x = jnp.moveaxis(jnp.moveaxis(x, 1, 0), 4, 2)  # [B, I, Q, K, G, ...]
    return x.reshape(batch, num_blocks * query_block, -1, *tail)[:, :num_fresh]
