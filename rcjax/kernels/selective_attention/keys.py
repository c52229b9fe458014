"""The keys and values that queries attend to, gathered from pages into one array."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.arrays import AnyArray, register_arrays
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.quantisation import dequantise
from rcjax.kernels.selective_attention.layout import PageLayout, Rope
from rcjax.kernels.selective_attention.rotation import Rotation, by_shift, rotate
from rcjax.kernels.selective_attention.visibility import cached_keys


@register_arrays
@dataclass(frozen=True, slots=True)
class PageView:
    """Which pages are read, how far their keys turn (None: not at all), and which of their S slots hold a key."""

    table: Int[AnyArray, "B *I M"]
    turn: Rotation | None
    valid: Bool[AnyArray, "B *I S"]


def view_pages(pages: PageLayout, rope: Rope) -> PageView:
    turn = None if pages.shift is None else by_shift(pages.shift, rope)
    return PageView(pages.table, turn, cached_keys(pages).valid)


def gather_keys(
    view: PageView, kv: PagedKV, first_page: Int[AnyArray, ""] | int, dtype: DTypeLike
) -> Float[Array, "B *I S K H"]:
    """Keys where their tokens stand: turned page by page, or as they are cached."""
    k = _gather(view, kv.k, kv.k_scale, first_page, dtype)
    if view.turn is None:
        return k
    # The tokens of a page turn alike, as its heads do.
    paged = k.reshape(*view.table.shape, kv.k.shape[1] * kv.k.shape[2], kv.k.shape[3])
    return rotate(paged, view.turn).reshape(k.shape)


def gather_values(
    view: PageView, kv: PagedKV, first_page: Int[AnyArray, ""] | int, dtype: DTypeLike
) -> Float[Array, "B *I S K H"]:
    """Values; 0 where a slot holds no key.

    A hidden key's weight is 0, but 0 * NaN is NaN: what lies beyond a page's end must not be read.
    """
    return jnp.where(view.valid[..., None, None], _gather(view, kv.v, kv.v_scale, first_page, dtype), 0)


def _gather(
    view: PageView, pool: AnyArray, scale: AnyArray | None, first_page: Int[AnyArray, ""] | int, dtype: DTypeLike
) -> Array:
    """What the pages hold."""
    values = _rows(view, pool, first_page)
    if scale is not None:
        values = jnp.asarray(dequantise(values, _rows(view, scale, first_page)))
    return values.astype(dtype)


def _rows(view: PageView, pool: AnyArray, first_page: Int[AnyArray, ""] | int) -> Array:
    """A page is one row of a matrix: so the CPU copies it whole, not element by element."""
    num_pages, page_tokens, *of_token = pool.shape
    rows = jnp.asarray(pool).reshape(num_pages, -1).at[view.table + first_page].get(mode="promise_in_bounds")
    *lead, num_read = view.table.shape
    return rows.reshape(*lead, num_read * page_tokens, *of_token)
