"""The attention that keys receive: what the operator weighs them with, summed over queries and heads."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.selective_attention.keys import gather_keys, view_pages
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TokenLayout
from rcjax.kernels.selective_attention.query_blocks import pad_tokens, split_queries, split_seen
from rcjax.kernels.selective_attention.visibility import MASKED, all_keys, visible

QUERY_BLOCK = 64  # a block's scores are [N, 64, S] float32: 4.7 MB for 9 heads and 2,048 keys


def measure(
    q: Float[Array, "B T N H"],
    k_new: Float[Array, "B T K H"],
    tokens: TokenLayout,
    counts: Bool[AnyArray, "B T"],
    k_pages: Float[AnyArray, "P C K H"],
    pages: PageLayout,
    *,
    rope: Rope,
    window: int | None,
) -> tuple[Float[Array, "B M C"], Float[Array, "B T"]]:
    """`Attention.mass` in plain `jnp`, float32, over all keys of a block of queries at once."""
    num_fresh, head_dim = q.shape[1], q.shape[3]
    query_block = min(num_fresh, QUERY_BLOCK)
    keys = all_keys(tokens, pages)
    cached = gather_keys(view_pages(pages, rope), k_pages, 0, jnp.float32)
    k = jnp.concatenate([cached, k_new.astype(jnp.float32)], axis=1).transpose(0, 2, 3, 1)
    blocks = split_queries(q.astype(jnp.float32) * head_dim**-0.5, k_new.shape[2], query_block)
    padded = pad_tokens(tokens, query_block)
    asks = jnp.pad(counts, ((0, 0), (0, padded.pos.shape[1] - num_fresh))) & (padded.pos >= 0)
    seen = split_seen(visible(padded, keys, window) & asks[:, :, None], query_block)

    def add(mass: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        rows, mask = block  # [B, K, R, H], [B, Q, S]
        scores = jnp.einsum("bkrh,bkhs->bkrs", rows, k)
        scores = scores.reshape(*scores.shape[:2], -1, *mask.shape[1:])  # [B, K, G, Q, S]
        scores = jnp.where(mask[:, None, None], scores, MASKED)
        # A query that sees nothing has weights exp(0) of masked keys, so these are masked again.
        weights = jnp.where(mask[:, None, None], jnp.exp(scores - scores.max(-1, keepdims=True)), 0)
        total = jnp.maximum(weights.sum(-1, keepdims=True), 1e-30)
        return mass + (weights / total).sum((1, 2, 3)), None

    mass, _ = lax.scan(add, jnp.zeros(keys.pos.shape, jnp.float32), (blocks, seen))
    num_slots = pages.drop[0].size
    return mass[:, :num_slots].reshape(pages.drop.shape), mass[:, num_slots:]
