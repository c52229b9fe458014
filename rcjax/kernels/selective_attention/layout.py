"""Where fresh and cached tokens stand in the prompt: what the operator needs to know besides q, k and v."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from rcjax.kernels.arrays import AnyArray, register_arrays


@register_arrays
@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Where the fresh tokens stand: absolute prompt position (-1: padding), segment and horizon."""

    pos: Int[AnyArray, "B T"]
    segment: Int[AnyArray, "B T"]
    horizon: Int[AnyArray, "B T"]


@register_arrays
@dataclass(frozen=True, slots=True)
class PageLayout:
    """Which pages hold the cached tokens, and where these stand.

    A page holds tokens at positions `pos, pos + 1, ...`, of which the first `len` are valid, all of one segment;
    `drop` masks tokens that were selected and so are fresh instead. Unused entries have `table = 0`, `len = 0`.
    """

    table: Int[AnyArray, "B M"]
    pos: Int[AnyArray, "B M"]
    len: Int[AnyArray, "B M"]
    segment: Int[AnyArray, "B M"]
    drop: Bool[AnyArray, "B M C"]


@dataclass(frozen=True, slots=True, eq=False)
class Rope:
    """The rotation applied to queries and keys: constants of the compiled program.

    The pair (i, i + H/2) turns by `position * inv_freq[i]` and is scaled by `factor`.
    """

    inv_freq: np.ndarray  # [H/2] float32
    factor: float = 1.0
