"""The attention that keys receive: what the operator weighs them with, summed over queries and heads."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.keys import gather_keys, view_pages
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TokenLayout
from rcjax.kernels.selective_attention.query_blocks import pad_tokens, split_queries
from rcjax.kernels.selective_attention.visibility import MASKED, all_keys, visible

QUERY_BLOCK = 64  # a block's scores are [N, 64, S] float32: 4.7 MB for 9 heads and 2,048 keys


def asking(tokens: TokenLayout, counts: Bool[AnyArray, "B T"]) -> TokenLayout:
    """The queries that count; any other is padding, which sees nothing and so gives nothing."""
    return TokenLayout(jnp.where(counts, tokens.pos, -1), tokens.segment, tokens.horizon)


def measure(
    q: Float[Array, "B T N H"],
    k_new: Float[Array, "B T K H"],
    tokens: TokenLayout,
    counts: Bool[AnyArray, "B T"],
    kv: PagedKV,
    pages: PageLayout,
    *,
    rope: Rope,
    window: int | None,
) -> tuple[Float[Array, "B M C"], Float[Array, "B T"]]:
    """`Attention.mass` in plain `jnp`, float32, over all keys of a block of queries at once."""
    query_block = min(q.shape[1], QUERY_BLOCK)
    keys = all_keys(tokens, pages)
    cached = gather_keys(view_pages(pages, rope), kv, 0, jnp.float32)
    k = jnp.concatenate([cached, k_new.astype(jnp.float32)], axis=1).transpose(0, 2, 3, 1)
    rows = split_queries(q.astype(jnp.float32) * q.shape[3] ** -0.5, k_new.shape[2], query_block)
    padded = pad_tokens(asking(tokens, counts), query_block)
    of_blocks = (
        x.reshape(len(x), -1, query_block).swapaxes(0, 1) for x in (padded.pos, padded.segment, padded.horizon)
    )

    def add(mass: Array, block: tuple[Array, TokenLayout]) -> tuple[Array, None]:
        rows, queries = block  # [B, K, R, H], [B, Q]
        seen = visible(queries, keys, window)
        scores = jnp.einsum("bkrh,bkhs->bkrs", rows, k)
        scores = scores.reshape(*scores.shape[:2], -1, *seen.shape[1:])  # [B, K, G, Q, S]
        scores = jnp.where(seen[:, None, None], scores, MASKED)
        top = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - top)
        # A query that sees nothing has weights exp(0) of masked keys, and gives none of them.
        share = jnp.where(top <= MASKED / 2, 0, 1 / weights.sum(-1, keepdims=True))
        return mass + (weights * share).sum((1, 2, 3)), None

    mass, _ = lax.scan(add, jnp.zeros(keys.pos.shape, jnp.float32), (rows, TokenLayout(*of_blocks)))
    num_slots = pages.drop[0].size
    return mass[:, :num_slots].reshape(pages.drop.shape), mass[:, num_slots:]
