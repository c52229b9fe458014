"""Attention over some of the keys, in a form that can be merged with attention over others."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from rcjax.kernels.selective_attention.visibility import MASKED


class Partial(NamedTuple):
    """Of each query: the highest score, the sum of weights exp(score - highest), and the weighted sum of values."""

    top: Float[Array, "*any"]
    total: Float[Array, "*any"]
    out: Float[Array, "*any H"]


def merge(a: Partial, b: Partial) -> Partial:
    """Attention over the keys of both."""
    top = jnp.maximum(a.top, b.top)
    of_a, of_b = jnp.exp(a.top - top), jnp.exp(b.top - top)
    out = a.out * of_a[..., None] + b.out * of_b[..., None]
    return Partial(top, a.total * of_a + b.total * of_b, out)


def finish(partial: Partial) -> Float[Array, "*any H"]:
    """The attention itself; 0 for a query that saw no key.

    The weights of such a query were exp(0) of masked keys. A NaN compares false: it stays, so that spoiled weights or
    KV do not pass for a ranking.
    """
    out = partial.out / jnp.maximum(partial.total, 1e-30)[..., None]
    return jnp.where((partial.top <= MASKED / 2)[..., None], 0, out)
