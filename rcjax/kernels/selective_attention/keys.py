"""The keys and values that queries attend to, gathered from pages and fresh tokens into one array."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.selective_attention.layout import PageLayout, Rope
from rcjax.kernels.selective_attention.rotation import rotate
from rcjax.kernels.selective_attention.visibility import KeyLayout


def gather_keys(
    k_new: Float[Array, "B T K H"], k_pages: Float[AnyArray, "P C K H"], pages: PageLayout, keys: KeyLayout, rope: Rope
) -> Float[Array, "B K S H"]:
    """Keys in the order of `keys`, rotated, float32."""
    return rotate(_joined(k_new, k_pages, pages, keys), keys.pos, rope).transpose(0, 2, 1, 3)


def gather_values(
    v_new: Float[Array, "B T K H"], v_pages: Float[AnyArray, "P C K H"], pages: PageLayout, keys: KeyLayout
) -> Float[Array, "B K S H"]:
    """Values in the order of `keys`, float32; 0 where a key is not valid."""
    v = _joined(v_new, v_pages, pages, keys).astype(jnp.float32)
    # A hidden key's weight is 0, but 0 * NaN is NaN: what lies beyond a page's end must not be read.
    return jnp.where(keys.valid[..., None, None], v, 0).transpose(0, 2, 1, 3)


def _joined(fresh: Array, pool: AnyArray, pages: PageLayout, keys: KeyLayout) -> Float[Array, "B S K H"]:
    """Cached, fresh and padding. Pages need not have the dtype of fresh tokens: here both become the wider one."""
    dtype = jnp.promote_types(pool.dtype, fresh.dtype)
    batch, _, num_kv_heads, head_dim = fresh.shape
    cached = pool[pages.table].reshape(batch, -1, num_kv_heads, head_dim)
    padding = keys.pos.shape[1] - cached.shape[1] - fresh.shape[1]
    tail = jnp.zeros((batch, padding, num_kv_heads, head_dim), dtype)
    return jnp.concatenate([cached.astype(dtype), fresh.astype(dtype), tail], axis=1)
