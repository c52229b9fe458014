"""Selective attention in plain `jnp`: correct on every backend, and what the CPU runs.

The pages that all queries may see, the fresh tokens, and the pages of each tile of queries are attended to apart, and
the softmaxes merged.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.arrays import AnyArray, register_arrays
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.chunks import ChunkView, attend_chunks, chunk_len, view_chunks
from rcjax.kernels.selective_attention.keys import PageView, gather_keys, gather_values, view_pages
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TileLayout, TokenLayout
from rcjax.kernels.selective_attention.softmax import Partial, finish, merge
from rcjax.kernels.selective_attention.tiles import TileView, attend_tiles, view_tiles
from rcjax.kernels.selective_attention.visibility import KeyLayout, cached_keys


@register_arrays
@dataclass(frozen=True, slots=True)
class ReferenceView:
    """What is the same in all layers: pages, masks and rotations. A part without keys is None."""

    pages: PageView
    cached: ChunkView | None
    fresh: ChunkView
    is_token: Bool[AnyArray, "B T"]
    tiles: TileView | None


def view(
    tokens: TokenLayout, pages: PageLayout, tiles: TileLayout | None, *, rope: Rope, window: int | None
) -> ReferenceView:
    """`Attention.view`."""
    page_tokens = pages.drop.shape[2]
    chunk = chunk_len(tokens.pos.shape[1], pages.drop[0].size, page_tokens)
    pages = _padded(pages, -pages.table.shape[1] % max(1, chunk // page_tokens))
    keys = cached_keys(pages)
    return ReferenceView(
        pages=view_pages(pages, rope),
        cached=view_chunks(tokens, keys, chunk, window) if keys.pos.shape[1] else None,
        fresh=_view_fresh(tokens, window),
        is_token=tokens.pos >= 0,
        tiles=None if tiles is None else view_tiles(tokens, tiles, rope, window),
    )


def attend(
    view: ReferenceView,
    q: Float[Array, "B T N H"],
    k_new: Float[Array, "B T K H"],
    v_new: Float[Array, "B T K H"],
    kv: PagedKV,
    first_page: Int[AnyArray, ""] | int,
) -> Float[Array, "B T N H"]:
    """`Attention.__call__`; products have operands of the type of `q` and accumulate in float32."""
    found = _attend_fresh(view, q, k_new, v_new)
    if view.cached is not None:
        k = gather_keys(view.pages, kv, first_page, q.dtype).transpose(0, 2, 3, 1)
        v = gather_values(view.pages, kv, first_page, q.dtype).transpose(0, 2, 1, 3)
        found = merge(found, attend_chunks(q, k, v, view.cached))
    if view.tiles is not None:
        found = merge(found, attend_tiles(q, kv, first_page, view.tiles))
    return finish(found).astype(q.dtype)


def _attend_fresh(view: ReferenceView, q: Array, k_new: Array, v_new: Array) -> Partial:
    padding = ((0, 0), (0, view.fresh.seen.shape[2] * view.fresh.seen.shape[4] - q.shape[1]), (0, 0), (0, 0))
    v_new = jnp.where(view.is_token[..., None, None], v_new, 0)
    k, v = jnp.pad(k_new, padding), jnp.pad(v_new, padding)
    return attend_chunks(q, k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3), view.fresh)


def _view_fresh(tokens: TokenLayout, window: int | None) -> ChunkView:
    num = tokens.pos.shape[1]
    chunk = chunk_len(num, num)
    padding = ((0, 0), (0, -num % chunk))
    keys = KeyLayout(*(jnp.pad(x, padding) for x in (tokens.pos, tokens.segment, tokens.pos >= 0)))
    return view_chunks(tokens, keys, chunk, window)


def _padded(pages: PageLayout, num: int) -> PageLayout:
    """The pages and `num` unused ones, so that keys make whole chunks."""

    padded: PageLayout = jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, num), *[(0, 0)] * (x.ndim - 2))), pages)
    return padded
