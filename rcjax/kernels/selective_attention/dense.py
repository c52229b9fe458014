"""Selective attention with a derivative: every score is formed at once, which is what training differentiates.

`reference` skips what no query sees by loops whose length depends on the batch; reverse-mode differentiation cannot
go through these. Here a row's [T, S] scores exist, and are computed again in the backward pass instead of being kept.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TokenLayout
from rcjax.kernels.selective_attention.reference import MASKED, gather, key_layout, rotate, visible


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

    @jax.checkpoint
    def attend(q: Array, k_new: Array, v_new: Array, k_pages: Array, v_pages: Array) -> Array:
        keys = key_layout(tokens, pages, chunk=1)
        k, v = gather(k_new, v_new, tokens, k_pages, v_pages, pages, keys, rope)
        batch, num_fresh, num_heads, head_dim = q.shape
        rows = rotate(q, tokens.pos, rope) * head_dim**-0.5
        rows = rows.reshape(batch, num_fresh, k.shape[1], -1, head_dim)
        seen = jnp.asarray(visible(tokens, keys, window))  # [B, T, S]
        scores = jnp.where(seen[:, None, None], jnp.einsum("btkgh,bksh->bkgts", rows, k), MASKED)
        out = jnp.einsum("bkgts,bksh->btkgh", jax.nn.softmax(scores, axis=-1), v)
        # A padding query sees nothing, and its softmax is over masked scores.
        out = jnp.where(seen.any(-1)[..., None, None, None], out, 0)
        return out.reshape(batch, num_fresh, num_heads, head_dim).astype(k_new.dtype)

    return attend(q, k_new, v_new, k_pages, v_pages)
