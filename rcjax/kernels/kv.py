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
from rcjax.kernels.quantisation import dequantise, quantise

QUANTISED_DTYPES = ("int8", "float8_e4m3fn")
KV_DTYPES = ("float32", "bfloat16", *QUANTISED_DTYPES)
SCALE_DTYPE = np.dtype(np.float32)


@register_arrays
@dataclass(frozen=True, slots=True)
class PagedKV:
    """K and V as attention reads them: the pages of all layers one after another; scales as in `KVPages`."""

    k: Real[AnyArray, "P C K H"]
    v: Real[AnyArray, "P C K H"]
    k_scale: Float[AnyArray, "P C K"] | None = None
    v_scale: Float[AnyArray, "P C K"] | None = None


@register_arrays
@dataclass(frozen=True, slots=True)
class KVPages:
    """K (after QK-norm, rotated to where it was computed) and V of P pages of C tokens.

    On a device (JAX) or on the host (NumPy).
    In a pool, page 0 is the null page and stays zero. The scales, one per token and kv head, are there only where the
    format is quantised: K is then `k * k_scale[..., None]`. As a pytree, `jax.tree.map(lambda x: x[:, index], pages)`
    takes some pages.
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

    def joined(self) -> PagedKV:
        """The same arrays, not copied: layer l's page p is page l * P + p."""
        k_scale, v_scale = (None if x is None else _joined(x) for x in (self.k_scale, self.v_scale))
        return PagedKV(_joined(self.k), _joined(self.v), k_scale, v_scale)

    def dequantised(self) -> "KVPages":
        """The same pages without scales, in float32; those that are not quantised as they are."""
        if self.k_scale is None or self.v_scale is None:
            return self
        return KVPages(dequantise(self.k, self.k_scale), dequantise(self.v, self.v_scale))


@dataclass(frozen=True, slots=True)
class KVFormat:
    """How a pool stores KV. `dtype` is a name of `KV_DTYPES`, and need not be the dtype of the weights.

    The canonical form on the host is the device's: arrays [L, P, C, K, H] of `numpy_dtype` and, where that is one of
    `QUANTISED_DTYPES`, scales [L, P, C, K] of float32.
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
    def is_quantised(self) -> bool:
        return self.dtype in QUANTISED_DTYPES

    @property
    def page_bytes(self) -> int:
        """Bytes of one page: K and V of its tokens in all layers, and their scales."""
        vectors = 2 * self.num_layers * self.page_tokens * self.num_kv_heads
        scale_bytes = SCALE_DTYPE.itemsize if self.is_quantised else 0
        return vectors * (self.head_dim * self.numpy_dtype.itemsize + scale_bytes)

    def shape(self, num_pages: int) -> tuple[int, int, int, int, int]:
        """The shape of K, and of V: [L, P, C, K, H]."""
        return self.num_layers, num_pages, self.page_tokens, self.num_kv_heads, self.head_dim

    def abstract(self, num_pages: int) -> KVPages:
        """Shapes and dtypes in the arrays' place, to compile programs for without making the pages."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((x.shape[0], num_pages, *x.shape[2:]), x.dtype), self.host_empty(0)
        )

    def host_empty(self, num_pages: int) -> KVPages:
        """Pages of zeros on the host, each array of its own and writable."""
        k, v = (np.zeros(self.shape(num_pages), self.numpy_dtype) for _ in range(2))
        if not self.is_quantised:
            return KVPages(k, v)
        return KVPages(k, v, *(np.zeros(self.shape(num_pages)[:-1], SCALE_DTYPE) for _ in range(2)))

    def check(self, pages: KVPages) -> None:
        """Raises ValueError, naming what differs, where `pages` are not of this format."""
        expected = self.shape(pages.num_pages)
        _check("k", pages.k, expected, self.numpy_dtype)
        _check("v", pages.v, expected, self.numpy_dtype)
        for name, scale in (("k_scale", pages.k_scale), ("v_scale", pages.v_scale)):
            if self.is_quantised and scale is None:
                raise ValueError(f"the pages have no {name}, and KV of {self.dtype} is quantised; build them anew")
            if not self.is_quantised and scale is not None:
                raise ValueError(f"the pages are quantised, and KV of {self.dtype} has no scales; build them anew")
            if scale is not None:
                _check(name, scale, expected[:-1], SCALE_DTYPE)


def _joined(x: AnyArray) -> AnyArray:
    return x.reshape(-1, *x.shape[2:])


def _check(name: str, array: AnyArray, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if array.shape != shape or array.dtype != dtype:
        dims = ("layers", "pages", "tokens", "heads", "head_dim")[: len(shape)]
        raise ValueError(
            f"{name} of the pages is {array.dtype.name} {list(array.shape)} where the pool holds "
            f"{dtype.name} {list(shape)} ({', '.join(dims)})"
        )


def quantise_pages(k: Float[AnyArray, "L P C K H"], v: Float[AnyArray, "L P C K H"], dtype: np.dtype) -> KVPages:
    """The KV as pages of a format of that dtype, one of `QUANTISED_DTYPES`."""
    (k_values, k_scale), (v_values, v_scale) = quantise(k, dtype), quantise(v, dtype)
    return KVPages(k_values, v_values, k_scale, v_scale)
