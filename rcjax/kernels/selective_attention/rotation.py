"""Rotary position embedding as the operator applies it to queries and keys."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.selective_attention.layout import Rope


def rotate(x: Float[Array, "B T N H"], pos: Int[AnyArray, "B T"], rope: Rope) -> Float[Array, "B T N H"]:
    """Rotates each pair (i, i + H/2); angles are float32 whatever the dtype: bfloat16 rounds 257 to 256."""
    angle = pos[..., None, None].astype(jnp.float32) * rope.inv_freq
    cos, sin = jnp.cos(angle) * rope.factor, jnp.sin(angle) * rope.factor
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
