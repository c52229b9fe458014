"""Which fresh token each query of a tile is, and where a token finds what its query found."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Int

from rcjax.kernels.arrays import AnyArray, register_arrays
from rcjax.kernels.selective_attention.layout import TileLayout
from rcjax.kernels.selective_attention.softmax import Partial
from rcjax.kernels.selective_attention.visibility import MASKED


@register_arrays
@dataclass(frozen=True, slots=True)
class TileQueries:
    """`tokens` has the fresh token of each of a tile's Q queries; `place` a token's query among all I * Q, or -1.

    A query that is none stands for token 0; no token takes what it finds.
    """

    tokens: Int[Array, "B I Q"]
    place: Int[Array, "B T"]

    def take(self, x: AnyArray) -> Array:
        """From [B, T, ...] to [B, I * Q, ...]."""
        index = self.tokens.reshape(len(self.tokens), -1, *[1] * (x.ndim - 2))
        return jnp.take_along_axis(jnp.asarray(x), index, axis=1)

    def give_back(self, found: Partial) -> Partial:
        """From [B, I * Q, N] to [B, T, N]; nothing seen by a token that is in no tile."""
        place = jnp.maximum(self.place, 0)
        is_in_tile = (self.place >= 0)[..., None]
        top, total, out = (
            jnp.take_along_axis(x, place.reshape(*place.shape, *[1] * (x.ndim - 2)), axis=1) for x in found
        )
        return Partial(
            jnp.where(is_in_tile, top, MASKED),
            jnp.where(is_in_tile, total, 0),
            jnp.where(is_in_tile[..., None], out, 0),
        )


def tile_queries(tiles: TileLayout, num_fresh: int) -> TileQueries:
    """Those of a prompt of `num_fresh` tokens, each of which is in one tile at most."""
    batch = len(tiles.tokens)
    token = tiles.tokens.reshape(batch, -1)
    numbers = jnp.arange(token.shape[1], dtype=jnp.int32)
    place = jnp.full((batch, num_fresh), -1, jnp.int32)
    place = place.at[jnp.arange(batch)[:, None], jnp.where(token >= 0, token, num_fresh)].set(numbers, mode="drop")
    return TileQueries(jnp.maximum(jnp.asarray(tiles.tokens), 0), place)
