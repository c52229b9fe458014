"""Pages of cached KV, and the format that says how a pool stores them.

Whatever hands KV from one part to another (device, host, snapshot, semantic pool) hands `KVPages`, and both sides
agree on their `KVFormat`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from rcjax.kernels.arrays import AnyArray, register_arrays

KV_DTYPES = ("float32", "bfloat16")


@register_arrays
@dataclass(frozen=True, slots=True)
class KVPages:
    """K (after QK-norm, rotated to where it was computed) and V of P pages of C tokens.

    On a device (JAX) or on the host (NumPy).
    In a pool, page 0 is the null page and stays zero. The scales, one per token and kv head, are there only where the
    format is quantised; no format is yet. As a pytree, `jax.tree.map(lambda x: x[:, index], pages)` takes some pages.
    """

    k: Real[AnyArray, "L P C K H"]
    v: Real[AnyArray, "L P C K H"]
    k_scale: Float[AnyArray, "L P C K"] | None = None
    v_scale: Float[AnyArray, "L P C K"] | None = None

    @property
    def num_pages(self) -> int:
        return self.k.shape[1]

    @property
    def page_tokens(self) -> int:
        return self.k.shape[2]

    @property
    def num_bytes(self) -> int:
        return sum(x.nbytes for x in (self.k, self.v, self.k_scale, self.v_scale) if x is not None)


@dataclass(frozen=True, slots=True)
class KVFormat:
    """How a pool stores KV. `dtype` is a name of `KV_DTYPES`, and need not be the dtype of the weights.

    The canonical form on the host is the device's: arrays [L, P, C, K, H] of `numpy_dtype`.
    """

    dtype: str
    num_layers: int
    num_kv_heads: int
    head_dim: int
    page_tokens: int

    def __post_init__(self) -> None:
        if self.dtype not in KV_DTYPES:
            raise ValueError(f"kv_dtype={self.dtype!r} is not supported; use one of {', '.join(KV_DTYPES)}")

    @property
    def numpy_dtype(self) -> np.dtype:
        return np.dtype(jnp.dtype(self.dtype))

    @property
    def page_bytes(self) -> int:
        """Bytes of one page: K and V of its tokens in all layers."""
        values = 2 * self.num_layers * self.page_tokens * self.num_kv_heads * self.head_dim
        return values * self.numpy_dtype.itemsize

    def shape(self, num_pages: int) -> tuple[int, int, int, int, int]:
        """The shape of K, and of V: [L, P, C, K, H]."""
        return self.num_layers, num_pages, self.page_tokens, self.num_kv_heads, self.head_dim

    def abstract(self, num_pages: int) -> KVPages:
        """Shapes and dtypes in the arrays' place, to compile programs for without making the pages."""
        array = jax.ShapeDtypeStruct(self.shape(num_pages), self.numpy_dtype)
        return jax.tree.unflatten(jax.tree.structure(self.host_empty(0)), [array, array])

    def host_empty(self, num_pages: int) -> KVPages:
        """Pages of zeros on the host, each array of its own and writable."""
        k, v = (np.zeros(self.shape(num_pages), self.numpy_dtype) for _ in range(2))
        return KVPages(k, v)

    def check(self, pages: KVPages) -> None:
        """Raises ValueError, naming what differs, where `pages` are not of this format."""
        if pages.k_scale is not None or pages.v_scale is not None:
            raise ValueError(f"the pages are quantised, and KV of {self.dtype} has no scales; build them anew")
        expected = self.shape(pages.num_pages)
        for name, array in (("k", pages.k), ("v", pages.v)):
            if array.shape != expected or array.dtype != self.numpy_dtype:
                raise ValueError(
                    f"{name} of the pages is {array.dtype.name} {list(array.shape)} where the pool holds "
                    f"{self.dtype} {list(expected)} (layers, pages, tokens, heads, head_dim)"
                )
