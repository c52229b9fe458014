"""Random draws that are the same for a seed with every NumPy, Python and platform."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float

T = TypeVar("T")


class Draws:
    """A stream of draws named by integers, e.g. `Draws(seed, 2, user_index)`.

    Built on the raw output of PCG64 seeded by a SeedSequence: NumPy promises both for all versions, but not
    the algorithms of `Generator`'s own methods (NEP 19).
    """

    def __init__(self, *name: int):
        self._bits = np.random.PCG64(np.random.SeedSequence(name))

    def uniform(self) -> float:
        """In [0, 1), 53 bits."""
        return int(self._bits.random_raw() >> 11) * 2.0**-53

    def below(self, n: int) -> int:
        """An integer in [0, n); the bias of scaling 53 bits is below n * 2**-53."""
        return int(self.uniform() * n)

    def choice(self, things: Sequence[T]) -> T:
        return things[self.below(len(things))]

    def weighted(self, weights: Float[np.ndarray, "N"]) -> int:
        """An index, with probability proportional to its weight; zero weight is never drawn."""
        totals = np.cumsum(weights)
        return int(np.searchsorted(totals, self.uniform() * totals[-1], side="right"))

    def sample(self, things: Sequence[T], k: int) -> list[T]:
        """k distinct things in random order."""
        rest = list(things)
        return [rest.pop(self.below(len(rest))) for _ in range(k)]
