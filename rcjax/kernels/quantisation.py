"""Quantised KV: 8 bits a value, and a scale for each vector of a token and kv head.

As no two tokens share a scale, a page that is filled up later keeps the bits of what it holds already.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Real

from rcjax.kernels.arrays import AnyArray


def quantise(x: Float[AnyArray, "*any H"], dtype: np.dtype) -> tuple[Real[AnyArray, "*any H"], Float[AnyArray, "*any"]]:
    """Values of `dtype` (int8 or float8_e4m3fn) and float32 scales: the product of both is `x`, rounded.

    A vector's largest magnitude becomes the type's largest, 127 or 448; values are rounded to nearest, ties to even.
    The scale is 0 for a vector of zeros. It is NaN for one that is not finite, as int8 has no NaN of its own: so
    spoiled KV shows in whatever reads it. On the host (NumPy) and in a program (JAX) alike.
    """
    xp: Any = np if isinstance(x, np.ndarray) else jnp
    largest = _largest(dtype)
    x = x.astype(np.float32)
    scale = xp.abs(x).max(-1) / largest
    is_finite = xp.isfinite(scale)
    divisor = xp.where(is_finite & (scale > 0), scale, np.float32(1))
    scaled = xp.where(is_finite[..., None], x / divisor[..., None], np.float32(0))
    if np.issubdtype(dtype, np.integer):
        scaled = xp.round(scaled)
    return xp.clip(scaled, -largest, largest).astype(dtype), xp.where(is_finite, scale, np.float32(np.nan))


def dequantise(values: Real[AnyArray, "*any H"], scale: Float[AnyArray, "*any"]) -> Float[AnyArray, "*any H"]:
    """What `quantise` made `values` and `scale` of, but for rounding; float32."""
    return values.astype(np.float32) * scale[..., None]


def _largest(dtype: np.dtype) -> np.float32:
    return np.float32(np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else jnp.finfo(dtype).max)
