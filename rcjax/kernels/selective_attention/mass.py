"""The attention that keys receive: what `selective_attention` weighs them with, summed over queries and heads."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from rcjax.kernels.selective_attention.layout import AnyArray, PageLayout, Rope, TokenLayout
from rcjax.kernels.selective_attention.reference import MASKED, key_layout, pad_tokens, rotate, visible

QUERY_BLOCK = 64  # a block's scores are [N, 64, S] float32: 4.7 MB for 9 heads and 2,048 keys


def attention_mass(
    q: Float[Array, "B T N H"],
    k_new: Float[Array, "B T K H"],
    tokens: TokenLayout,
    counts: Bool[AnyArray, "B T"],
    k_pages: Float[Array, "P C K H"],
    pages: PageLayout,
    *,
    rope: Rope,
    window: int | None = None,
) -> tuple[Float[Array, "B M C"], Float[Array, "B T"]]:
    """Attention that each cached and each fresh token receives from the queries in `counts`, float32.

    Arguments are those of `selective_attention`. A query that counts gives N in total, 1 a head; padding queries
    give nothing, and slots that are dropped or beyond a page's end get nothing.
    """
    batch, num_fresh, _, head_dim = q.shape
    num_kv_heads = k_new.shape[2]
    query_block = min(num_fresh, QUERY_BLOCK)
    keys = key_layout(tokens, pages, 1)
    cached = k_pages[pages.table].reshape(batch, -1, num_kv_heads, head_dim)
    k = rotate(jnp.concatenate([cached.astype(k_new.dtype), k_new], axis=1), keys.pos, rope).transpose(0, 2, 1, 3)
    q = rotate(q, tokens.pos, rope) * head_dim**-0.5
    tokens = pad_tokens(tokens, query_block)
    padding = (0, tokens.pos.shape[1] - num_fresh)
    q = jnp.pad(q, ((0, 0), padding, (0, 0), (0, 0)))
    asks = jnp.pad(counts, ((0, 0), padding)) & (tokens.pos >= 0)
    seen = jnp.asarray(visible(tokens, keys, window)) & asks[:, :, None]

    def blocks(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(batch, -1, query_block, *x.shape[2:]), 1, 0)

    def add(mass: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        queries, mask = block  # [B, I, N, H], [B, I, S]
        # The G query heads of a kv head become rows of one matmul.
        rows = queries.transpose(0, 2, 1, 3).reshape(batch, num_kv_heads, -1, head_dim)
        scores = jnp.einsum("bkrh,bksh->bkrs", rows, k).reshape(batch, num_kv_heads, -1, query_block, k.shape[2])
        scores = jnp.where(mask[:, None, None], scores, MASKED)
        # A query that sees nothing has weights exp(0) of masked keys, so these are masked again.
        weights = jnp.where(mask[:, None, None], jnp.exp(scores - scores.max(-1, keepdims=True)), 0)
        total = jnp.maximum(weights.sum(-1, keepdims=True), 1e-30)
        return mass + (weights / total).sum((1, 2, 3)), None

    mass, _ = lax.scan(add, jnp.zeros(keys.pos.shape, jnp.float32), (blocks(q), blocks(seen)))
    num_slots = pages.drop.shape[1] * pages.drop.shape[2]
    return mass[:, :num_slots].reshape(pages.drop.shape), mass[:, num_slots:]
