"""Selective attention with a derivative: a block of queries against every key at once, which is what training runs.

`reference` skips what no query sees by loops whose length depends on the batch; reverse-mode differentiation cannot
go through these. Here only one block's scores exist at a time, and the derivative forms them again.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.arrays import AnyArray, register_arrays
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.keys import PageView, gather_keys, gather_values, view_pages
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TileLayout, TokenLayout, joined_pages
from rcjax.kernels.selective_attention.query_blocks import join_rows, pad_tokens, split_queries, split_seen
from rcjax.kernels.selective_attention.visibility import MASKED, all_keys, visible

# A block's scores are written and read several times, so they should stay in cache: all 640 queries of 24 rows at once
# (9 heads, 800 keys: 442 MB) take 1.8 s with the derivative on two cores, blocks of 32 to 64 some 0.6.
_MAX_QUERY_BLOCK = 64


@register_arrays
@dataclass(frozen=True, slots=True)
class DenseView:
    """Pages, masks and rotations: the same in all layers."""

    pages: PageView
    is_token: Bool[AnyArray, "B T"]
    seen: Bool[Array, "I B Q S"]


def view(
    tokens: TokenLayout, pages: PageLayout, tiles: TileLayout | None, *, rope: Rope, window: int | None
) -> DenseView:
    """`Attention.view`."""
    pages = joined_pages(pages, tiles)
    query_block = min(tokens.pos.shape[1], _MAX_QUERY_BLOCK)
    return DenseView(
        pages=view_pages(pages, rope),
        is_token=tokens.pos >= 0,
        seen=split_seen(visible(pad_tokens(tokens, query_block), all_keys(tokens, pages), window), query_block),
    )


def attend(
    view: DenseView,
    q: Float[Array, "B T N H"],
    k_new: Float[Array, "B T K H"],
    v_new: Float[Array, "B T K H"],
    kv: PagedKV,
    first_page: Int[AnyArray, ""] | int,
) -> Float[Array, "B T N H"]:
    """`Attention.__call__`; products have operands of the type of `q` and accumulate in float32."""
    num_fresh, head_dim = q.shape[1], q.shape[3]
    query_block = view.seen.shape[2]
    v_new = jnp.where(view.is_token[..., None, None], v_new, 0)
    k = jnp.concatenate([gather_keys(view.pages, kv, first_page, q.dtype), k_new], axis=1)
    v = jnp.concatenate([gather_values(view.pages, kv, first_page, q.dtype), v_new], axis=1)
    blocks = split_queries((q * head_dim**-0.5).astype(q.dtype), k_new.shape[2], query_block)
    out = _attend(blocks, k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3), view.seen)
    return join_rows(out, query_block, num_fresh)


@jax.custom_vjp
def _attend(
    q: Float[Array, "I B K R H"], k: Float[Array, "B K S H"], v: Float[Array, "B K S H"], seen: Bool[Array, "I B Q S"]
) -> Float[Array, "I B K R H"]:
    """I blocks of Q queries, whose heads make R rows for each of K kv heads, over all S keys; q is scaled."""
    return _attend_forward(q, k, v, seen)[0]


def _attend_forward(q: Array, k: Array, v: Array, seen: Array) -> tuple[Array, tuple[Array, ...]]:
    def block(args: tuple[Array, Array]) -> tuple[Array, Array]:
        q, seen = args
        scores = _scores(q, k, seen)
        top = scores.max(-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        out = _product("bkrs,bksh->bkrh", weights.astype(v.dtype), v) / total
        # A padding query sees nothing; its weights here are those of masked scores, in the derivative exp(MASKED).
        is_padding = top <= MASKED / 2
        return jnp.where(is_padding, 0, out).astype(q.dtype), jnp.where(is_padding, 0, top + jnp.log(total))

    out, log_total = lax.map(block, (q, seen))
    return out, (q, k, v, seen, out, log_total)


def _attend_backward(residuals: tuple[Array, ...], d_out: Array) -> tuple[Array, Array, Array, None]:
    """Dao et al., "FlashAttention" (2022), algorithm 4, with a whole row of weights in one step."""
    q, k, v, seen, out, log_total = residuals

    def block(sums: tuple[Array, Array], args: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        q, q_columns, seen, out, log_total, d_out, d_out_columns = args
        weights = jnp.exp(_scores(q, k, seen) - log_total)
        mean = (d_out.astype(jnp.float32) * out.astype(jnp.float32)).sum(-1, keepdims=True)
        d_scores = (weights * (_product("bkrh,bksh->bkrs", d_out, v) - mean)).astype(q.dtype)
        d_k = sums[0] + _product("bkhr,bkrs->bkhs", q_columns, d_scores)
        d_v = sums[1] + _product("bkhr,bkrs->bkhs", d_out_columns, weights.astype(q.dtype))
        return (d_k, d_v), _product("bkrs,bksh->bkrh", d_scores, k).astype(q.dtype)

    zeros = jnp.zeros(k.swapaxes(2, 3).shape, jnp.float32)
    # The transposed operands come from outside of the loop: inside, the CPU would convert both to float32.
    columns = q.swapaxes(3, 4), d_out.swapaxes(3, 4)
    (d_k, d_v), d_q = lax.scan(block, (zeros, zeros), (q, columns[0], seen, out, log_total, d_out, columns[1]))
    return d_q, d_k.swapaxes(2, 3).astype(k.dtype), d_v.swapaxes(2, 3).astype(v.dtype), None


_attend.defvjp(_attend_forward, _attend_backward)


def _scores(q: Float[Array, "B K R H"], k: Float[Array, "B K S H"], seen: Bool[Array, "B Q S"]) -> Array:
    scores = _product("bkrh,bksh->bkrs", q, k)
    by_head = scores.reshape(*scores.shape[:2], -1, *seen.shape[1:])
    return jnp.where(seen[:, None, None], by_head, MASKED).reshape(scores.shape)


_product = partial(jnp.einsum, preferred_element_type=jnp.float32)
