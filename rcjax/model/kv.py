"""The pages that hold cached KV on a device, and the KV that a pass makes."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rcjax.kernels.arrays import register_arrays
from rcjax.kernels.kv import KVFormat, KVPages, quantise_pages
from rcjax.model.config import ModelConfig


@register_arrays
@dataclass(frozen=True, slots=True)
class FreshKV:
    """KV of the fresh tokens of one forward pass, in the dtype of the weights."""

    k: Float[Array, "L B T K H"]
    v: Float[Array, "L B T K H"]


def kv_format(config: ModelConfig, dtype: str, page_tokens: int) -> KVFormat:
    """The format of this model's KV; `dtype` need not be that of the weights."""
    return KVFormat(dtype, config.num_layers, config.num_kv_heads, config.head_dim, page_tokens)


def empty_pages(kv_format: KVFormat, num_pages: int) -> KVPages:
    """Pages of zeros: from jax 0.11 `jnp.empty` is uninitialised, and a stray NaN would spread."""
    zeros: KVPages = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), kv_format.abstract(num_pages))
    return zeros


def write_pages(pages: KVPages, fresh: FreshKV, source: Int[Array, "W C"], destination: Int[Array, "W"]) -> KVPages:
    """Copies fresh tokens into W pages, converted to the pages' dtype, or quantised where that is quantised.

    `source[w, c]` is the flat index (b * T + t) of the token for slot c of page `destination[w]`; -1 keeps what
    the slot holds (a grown block's last page is partly filled already). Unused rows have `destination = 0` and
    `source = -1`. Donate `pages` when jitting: the update is then in place.
    """

    def write(pages: Array, fresh: Array) -> Array:
        pages = jnp.asarray(pages)
        fresh = fresh.reshape(fresh.shape[0], -1, *fresh.shape[3:])
        values = fresh[:, jnp.maximum(source, 0)].astype(pages.dtype)  # [L, W, C, K, ...]
        kept = pages[:, destination]
        is_new = (source >= 0).reshape(1, *source.shape, *[1] * (pages.ndim - 3))
        return pages.at[:, destination].set(jnp.where(is_new, values, kept))

    new = KVPages(fresh.k, fresh.v)  # of B rows of T tokens, where pages have P of C
    if pages.k_scale is not None:
        new = quantise_pages(fresh.k, fresh.v, pages.k.dtype)
    written: KVPages = jax.tree.map(write, pages, new)
    return written
