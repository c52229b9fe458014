"""The pages that hold cached KV on a device."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from rcjax.model.config import ModelConfig


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class KVPages:
    """K (unrotated, after QK-norm) and V of P pages of C tokens. Page 0 is the null page and stays zero."""

    k: Float[Array, "L P C K H"]
    v: Float[Array, "L P C K H"]

    @property
    def page_tokens(self) -> int:
        return self.k.shape[2]

    @property
    def num_bytes(self) -> int:
        return self.k.nbytes + self.v.nbytes


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class FreshKV:
    """KV of the fresh tokens of one forward pass, in the pages' form."""

    k: Float[Array, "L B T K H"]
    v: Float[Array, "L B T K H"]


def empty_pages(config: ModelConfig, num_pages: int, page_tokens: int, dtype: DTypeLike) -> KVPages:
    """Pages of zeros: from jax 0.11 `jnp.empty` is uninitialised, and a stray NaN would spread."""
    shape = (config.num_layers, num_pages, page_tokens, config.num_kv_heads, config.head_dim)
    return KVPages(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def write_pages(pages: KVPages, fresh: FreshKV, source: Int[Array, "W C"], destination: Int[Array, "W"]) -> KVPages:
    """Copies fresh tokens into W pages.

    `source[w, c]` is the flat index (b * T + t) of the token for slot c of page `destination[w]`; -1 keeps what
    the slot holds (a grown block's last page is partly filled already). Unused rows have `destination = 0` and
    `source = -1`. Donate `pages` when jitting: the update is then in place.
    """

    def write(pages: Array, fresh: Array) -> Array:
        fresh = fresh.reshape(fresh.shape[0], -1, *fresh.shape[3:])
        values = fresh[:, jnp.maximum(source, 0)].astype(pages.dtype)  # [L, W, C, K, H]
        kept = pages[:, destination]
        return pages.at[:, destination].set(jnp.where((source >= 0)[None, :, :, None, None], values, kept))

    return KVPages(write(pages.k, fresh.k), write(pages.v, fresh.v))
