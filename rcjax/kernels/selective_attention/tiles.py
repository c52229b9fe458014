"""Attention of tiles of queries to the pages that only they see: many small products, side by side."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.arrays import AnyArray, register_arrays
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.keys import PageView, gather_keys, gather_values, view_pages
from rcjax.kernels.selective_attention.layout import Rope, TileLayout, TokenLayout
from rcjax.kernels.selective_attention.softmax import Partial
from rcjax.kernels.selective_attention.tile_queries import TileQueries, tile_queries
from rcjax.kernels.selective_attention.visibility import MASKED, cached_keys, visible


@register_arrays
@dataclass(frozen=True, slots=True)
class TileView:
    """Whose queries, over which pages, and which slot each of them sees."""

    queries: TileQueries
    pages: PageView
    seen: Bool[Array, "B I Q S"]


def view_tiles(tokens: TokenLayout, tiles: TileLayout, rope: Rope, window: int | None) -> TileView:
    queries = tile_queries(tiles, tokens.pos.shape[1])
    of_queries = (queries.take(x).reshape(tiles.tokens.shape) for x in (tokens.pos, tokens.segment, tokens.horizon))
    # What a query that is none would see does not matter: nobody takes what it finds.
    seen = visible(TokenLayout(*of_queries), cached_keys(tiles.pages), window)
    return TileView(queries, view_pages(tiles.pages, rope), seen)


def attend_tiles(
    q: Float[Array, "B T N H"],
    kv: PagedKV,
    first_page: Int[AnyArray, ""] | int,
    view: TileView,
) -> Partial:
    """Of each query and head, [B, T, N]; nothing seen by a token that is in no tile.

    A tile has few queries, so its products are laid out around the keys as they lie in pages: all kv heads at once,
    against queries that are zero but in their own head's part. That is K times the arithmetic, of which there is
    little, and saves turning keys round, of which there are many.
    """
    batch, _, num_heads, head_dim = q.shape
    num_tiles, tile_len = view.queries.tokens.shape[1:]
    num_kv_heads = kv.k.shape[2]
    k = gather_keys(view.pages, kv, first_page, q.dtype).reshape(batch, num_tiles, -1, num_kv_heads * head_dim)
    v = gather_values(view.pages, kv, first_page, q.dtype).reshape(k.shape)

    own = view.queries.take(q).reshape(batch, num_tiles, tile_len, num_kv_heads, -1, head_dim)
    head = jnp.eye(num_kv_heads, dtype=q.dtype)
    columns = jnp.einsum("biqkgh,kj->bijhkgq", own, head)  # kv head j of the keys, k of the queries
    columns = columns.reshape(batch, num_tiles, num_kv_heads * head_dim, -1)
    scores = jnp.einsum("bisx,bixr->bisr", k, columns, preferred_element_type=jnp.float32) * head_dim**-0.5
    seen = jnp.tile(view.seen.swapaxes(2, 3), (1, 1, 1, num_heads))  # [B, I, S, R], R being N heads of Q queries
    scores = jnp.where(seen, scores, MASKED)
    top = scores.max(2)
    weights = jnp.exp(scores - top[:, :, None])
    total = weights.sum(2)
    out = jnp.einsum("bisr,bisx->birx", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    out = out.reshape(batch, num_tiles, num_kv_heads, -1, num_kv_heads, head_dim)
    out = jnp.einsum("bikrjh,kj->bikrh", out, head.astype(jnp.float32))
    found = Partial(top, total, out.reshape(batch, num_tiles, -1, head_dim))
    return view.queries.give_back(Partial(*(_of_queries(x, tile_len) for x in found)))


def _of_queries(x: Array, tile_len: int) -> Array:
    """From [B, I, R, ...] to [B, I * Q, N, ...]."""
    x = jnp.moveaxis(x.reshape(*x.shape[:2], -1, tile_len, *x.shape[3:]), 3, 2)
    return x.reshape(x.shape[0], -1, *x.shape[3:])
