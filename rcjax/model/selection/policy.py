"""What a selection policy is, and what it may ask to be measured."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

import numpy as np
from jaxtyping import Float

from rcjax.model.selection.tokens import CachedTokens, Mask, Offsets
from rcjax.prompt import Block, Prompt

Scores = Float[np.ndarray, "..."]  # [S], or a row of these for each of several quantities


class Quantity(StrEnum):
    """What can be known of a cached token; see `rcjax.model.probe` for those that a pass measures."""

    DEVIATION = "deviation"  # ||KV_new - KV_cached||_2 in one layer
    MEAN_DEVIATION = "mean deviation"  # its mean over all layers
    FIRST_LAYER = "first layer"  # two rows: attention received, and sum of ||M_new - M_cached||_1 over K and V
    QUERY_ATTENTION = "query attention"  # attention that the glue's and the task's tokens give it
    STORED_ORDER = "stored order"  # kept with the block: higher is more worth correcting


@dataclass(frozen=True, slots=True)
class Measure:
    """A quantity in `layer` (counted from 0), or over the first `layer` layers where it is a sum; 0: over all.

    With `is_whole` the pass that measures it computes the whole prompt and reads no cached KV; otherwise it computes
    what is fresh and what the policy's `probe_mask` says.
    """

    quantity: Quantity
    layer: int = 0
    is_whole: bool = True

    @property
    def is_probe(self) -> bool:
        """Whether a pass has to measure it."""
        return self.quantity is not Quantity.STORED_ORDER


class Scope(IntEnum):
    """Of what a policy fixes the number of selected tokens."""

    BLOCK = 0
    KIND = 1
    PROMPT = 2


class SelectionPolicy(ABC):
    """Chooses tokens of the prompt's cached blocks to compute again."""

    __slots__ = ()

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What has to be measured before `select`, in this order."""
        return ()

    @property
    @abstractmethod
    def scope(self) -> Scope: ...

    @abstractmethod
    def fill(self, tokens: CachedTokens, measured: Sequence[Scores], taken: Mask) -> None:
        """Adds tokens to `taken`, where this policy wants more than it already holds.

        `measured` has one entry for each of `measures`.
        """

    def probe_mask(self, tokens: CachedTokens, measured: Sequence[Scores]) -> Mask:
        """The cached tokens that the probe of measure `len(measured)` computes again, where it is not a whole one."""
        return np.zeros(len(tokens), bool)

    def select(self, prompt: Prompt, cached: Sequence[Block], measured: Sequence[Scores] = ()) -> Offsets:
        """The offsets to select in each of `cached`, which are blocks of `prompt`."""
        return self.choose(CachedTokens.of(prompt, cached), measured)

    def choose(self, tokens: CachedTokens, measured: Sequence[Scores] = ()) -> Offsets:
        """The offsets to select in each block of `tokens`."""
        taken = np.zeros(len(tokens), bool)
        self.fill(tokens, measured, taken)
        return tokens.offsets(taken)
