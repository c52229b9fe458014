"""The keys and values that queries attend to, gathered from pages into one array."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.selective_attention.rotation import Rotation, rotate


def gather_pages(pool: AnyArray, table: Int[AnyArray, "*any M"], dtype: DTypeLike) -> Float[Array, "*any S K H"]:
    """The tokens of the pages that `table` names, as they are cached.

    A page is one row of a matrix: so the CPU copies it whole, which is 2-3 times faster than element by element.
    """
    num_pages, page_tokens, num_kv_heads, head_dim = pool.shape
    rows = jnp.asarray(pool).reshape(num_pages, -1).at[table].get(mode="promise_in_bounds")
    return rows.reshape(*table.shape[:-1], table.shape[-1] * page_tokens, num_kv_heads, head_dim).astype(dtype)


def gather_keys(
    pool: AnyArray, table: Int[AnyArray, "*any M"], turn: Rotation | None, dtype: DTypeLike
) -> Float[Array, "*any S K H"]:
    """Keys where their tokens stand: turned page by page, or as cached where `turn` is None."""
    k = gather_pages(pool, table, dtype)
    if turn is None:
        return k
    paged = k.reshape(
        *table.shape, pool.shape[1] * pool.shape[2], k.shape[-1]
    )  # a page's tokens turn alike, as heads do
    return rotate(paged, turn).reshape(k.shape)


def gather_values(
    pool: AnyArray, table: Int[AnyArray, "*any M"], valid: Bool[AnyArray, "*any S"], dtype: DTypeLike
) -> Float[Array, "*any S K H"]:
    """Values; 0 where a key is not valid.

    A hidden key's weight is 0, but 0 * NaN is NaN: what lies beyond a page's end must not be read.
    """
    return jnp.where(valid[..., None, None], gather_pages(pool, table, dtype), 0)
