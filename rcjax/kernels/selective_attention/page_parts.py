"""What queries see, in three parts that a kernel reads alike: fresh tokens, pages that all may see, pages of tiles.

Fresh keys are pages too, of `k_new`, and a tile is a prompt of its own. XLA merges the parts' softmaxes.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rcjax.kernels.arrays import AnyArray, register_arrays
from rcjax.kernels.kv import QUANTISED_DTYPES, PagedKV
from rcjax.kernels.selective_attention.layout import PageLayout, TileLayout, TokenLayout
from rcjax.kernels.selective_attention.softmax import Partial, finish, merge
from rcjax.kernels.selective_attention.tile_queries import TileQueries, tile_queries

DTYPES = (jnp.float32, jnp.bfloat16)


@register_arrays
@dataclass(frozen=True, slots=True)
class TilePart:
    """`read` is of B * I prompts, one a tile."""

    queries: TileQueries
    read: Any


@register_arrays
@dataclass(frozen=True, slots=True)
class PageParts:
    """What a kernel made of each part, the same in all layers; a part without keys is None."""

    fresh: Any
    shared: Any
    tiles: TilePart | None


@runtime_checkable
class Read(Protocol):
    """What a kernel needs to know of U prompts and the pages that their queries may see."""

    def __call__(self, tokens: TokenLayout, pages: PageLayout) -> Any: ...


@runtime_checkable
class AttendPart(Protocol):
    """Of the queries of U prompts, [U, T, N]."""

    def __call__(self, read: Any, q: Array, kv: PagedKV, first_page: Int[AnyArray, ""] | int) -> Partial: ...


def page_parts(fresh: Any, read: Read, tokens: TokenLayout, pages: PageLayout, tiles: TileLayout | None) -> PageParts:
    """`fresh` is what the kernel made of the fresh tokens; `read` makes it of pages."""
    shared = read(tokens, pages) if pages.table.size else None
    has_pages = tiles is not None and tiles.pages.table.size
    return PageParts(fresh, shared, _tile_part(read, tokens, tiles) if tiles is not None and has_pages else None)


def attend_parts(
    parts: PageParts,
    attend: AttendPart,
    q: Float[Array, "B T N H"],
    fresh: PagedKV,
    kv: PagedKV,
    first_page: Int[AnyArray, ""] | int,
) -> Float[Array, "B T N H"]:
    """Over the fresh tokens' KV, as pages, and a pool's pages."""
    found = attend(parts.fresh, q, fresh, 0)
    if parts.shared is not None:
        found = merge(found, attend(parts.shared, q, kv, first_page))
    if parts.tiles is not None:
        queries = parts.tiles.queries
        batch, num_tiles, tile_len = queries.tokens.shape
        own = queries.take(q).reshape(batch * num_tiles, tile_len, *q.shape[2:])
        of_tiles = attend(parts.tiles.read, own, kv, first_page)
        found = merge(found, queries.give_back(Partial(*(x.reshape(batch, -1, *x.shape[2:]) for x in of_tiles))))
    return finish(found).astype(q.dtype)


def check_dtypes(kv: PagedKV, **operands: AnyArray) -> None:
    """NotImplementedError, which names the operand, where a kernel has no products of its type."""
    if kv.k_scale is None or kv.k.dtype.name not in QUANTISED_DTYPES:
        operands |= {"k_pages": kv.k, "v_pages": kv.v}
    for name, operand in operands.items():
        if operand.dtype not in DTYPES:
            raise NotImplementedError(
                f"{name} of {operand.dtype} is neither bfloat16 nor float32; use one of them, or attention: reference"
            )


def _tile_part(read: Read, tokens: TokenLayout, tiles: TileLayout) -> TilePart:
    queries = tile_queries(tiles, tokens.pos.shape[1])
    is_query = jnp.asarray(tiles.tokens) >= 0

    def of_tiles(x: AnyArray, padding: int) -> Array:
        own = queries.take(x).reshape(is_query.shape)
        return jnp.where(is_query, own, padding).reshape(-1, is_query.shape[2])

    own = TokenLayout(of_tiles(tokens.pos, -1), of_tiles(tokens.segment, 0), of_tiles(tokens.horizon, 0))
    pages: PageLayout = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tiles.pages)
    return TilePart(queries, read(own, pages))
