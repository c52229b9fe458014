"""The pages that hold cached KV on a device, and the KV that a pass makes."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rcjax.kernels.arrays import register_arrays
from rcjax.kernels.kv import KVFormat, KVPages
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
    shape = kv_format.shape(num_pages)
    return KVPages(jnp.zeros(shape, kv_format.numpy_dtype), jnp.zeros(shape, kv_format.numpy_dtype))


def write_pages(pages: KVPages, fresh: FreshKV, source: Int[Array, "W C"], destination: Int[Array, "W"]) -> KVPages:
    """Copies fresh tokens into W pages, converted to the pages' dtype.

    `source[w, c]` is the flat index (b * T + t) of the token for slot c of page `destination[w]`; -1 keeps what
    the slot holds (a grown block's last page is partly filled already). Unused rows have `destination = 0` and
    `source = -1`. Donate `pages` when jitting: the update is then in place.
    """

    def write(pages: Array, fresh: Array) -> Array:
        fresh = fresh.reshape(fresh.shape[0], -1, *fresh.shape[3:])
        # The one place where KV takes the pool's dtype. Attention converts it back as it gathers.
        values = fresh[:, jnp.maximum(source, 0)].astype(pages.dtype)  # [L, W, C, K, H]
        kept = pages[:, destination]
        return pages.at[:, destination].set(jnp.where((source >= 0)[None, :, :, None, None], values, kept))

    return KVPages(write(jnp.asarray(pages.k), fresh.k), write(jnp.asarray(pages.v), fresh.v))
