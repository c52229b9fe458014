"""Where fresh and cached tokens stand in the prompt: what the operator needs to know besides q, k and v."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from rcjax.kernels.arrays import AnyArray, register_arrays


@register_arrays
@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Where the fresh tokens stand: absolute prompt position (-1: padding), segment and horizon."""

    pos: Int[AnyArray, "B *I T"]
    segment: Int[AnyArray, "B *I T"]
    horizon: Int[AnyArray, "B *I T"]


@register_arrays
@dataclass(frozen=True, slots=True)
class PageLayout:
    """Which pages hold the cached tokens, and where these stand.

    A page holds tokens at positions `pos, pos + 1, ...`, of which the first `len` are valid, all of one segment;
    `drop` masks tokens that were selected and so are fresh instead. `shift` is how far the tokens stand from where
    their keys were rotated to; None where that is nowhere. Unused entries have `table = 0`, `len = 0`.
    """

    table: Int[AnyArray, "B *I M"]
    pos: Int[AnyArray, "B *I M"]
    len: Int[AnyArray, "B *I M"]
    segment: Int[AnyArray, "B *I M"]
    drop: Bool[AnyArray, "B *I M C"]
    shift: Int[AnyArray, "B *I M"] | None = None


@register_arrays
@dataclass(frozen=True, slots=True)
class TileLayout:
    """Tiles of queries, and the pages that only these see.

    `tokens` are indices among a prompt's fresh tokens, -1 where a tile has fewer; no token is in two tiles. A tile's
    pages are in nobody else's sight, so that the operator reads each for its own tile alone.
    """

    tokens: Int[AnyArray, "B I Q"]
    pages: PageLayout  # [B, I, M]


@dataclass(frozen=True, slots=True, eq=False)
class Rope:
    """The rotation applied to queries and keys: constants of the compiled program.

    The pair (i, i + H/2) turns by `position * inv_freq[i]` and is scaled by `factor`.
    """

    inv_freq: np.ndarray  # [H/2] float32
    factor: float = 1.0


def joined_pages(pages: PageLayout, tiles: TileLayout | None) -> PageLayout:
    """The pages that all queries may see and then those of each tile, as if all might see these too."""
    if tiles is None:
        return pages
    own = tiles.pages
    if (pages.shift is None) != (own.shift is None):
        raise ValueError("either all pages have shifts, or neither the shared ones nor those of tiles")

    def join(shared: AnyArray, own: AnyArray) -> Array:
        return jnp.concatenate([shared, own.reshape(own.shape[0], -1, *own.shape[3:])], axis=1)

    joined: PageLayout = jax.tree.map(join, pages, own)
    return joined
