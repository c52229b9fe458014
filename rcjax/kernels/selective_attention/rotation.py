"""Rotary position embedding of queries and keys, from tables that are made once a pass."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rcjax.kernels.arrays import AnyArray, register_arrays
from rcjax.kernels.selective_attention.layout import Rope


@register_arrays
@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of the angles that vectors are turned by, float32."""

    cos: Float[Array, "*any F"]
    sin: Float[Array, "*any F"]


def to_position(pos: Int[AnyArray, "*any"], rope: Rope) -> Rotation:
    """The rotation of a query or key that stands at `pos`, the rope's factor included."""
    turn = by_shift(pos, rope)
    return Rotation(turn.cos * rope.factor, turn.sin * rope.factor)


def from_position(pos: Int[AnyArray, "*any"], rope: Rope) -> Rotation:
    """What undoes `to_position`."""
    turn = by_shift(-pos, rope)
    return Rotation(turn.cos / rope.factor, turn.sin / rope.factor)


def by_shift(shift: Int[AnyArray, "*any"], rope: Rope) -> Rotation:
    """From one position to another, `shift` further on. Angles are float32: bfloat16 rounds 257 to 256."""
    angle = shift[..., None].astype(jnp.float32) * rope.inv_freq
    return Rotation(jnp.cos(angle), jnp.sin(angle))


def rotate(x: Float[AnyArray, "*any N H"], rotation: Rotation) -> Float[Array, "*any N H"]:
    """Turns each pair (i, i + H/2), all N heads alike; computed in float32, the result in the type of `x`."""
    cos, sin = rotation.cos[..., None, :], rotation.sin[..., None, :]
    first, second = jnp.split(jnp.asarray(x).astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
