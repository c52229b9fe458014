"""The tokens that a policy chooses from, and the one way in which it takes some of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from rcjax.prompt import Block, BlockKind, Prompt

Offsets = list[np.ndarray]  # per cached block: ascending int32 offsets into its tokens
Mask = Bool[np.ndarray, "S"]


@dataclass(frozen=True, slots=True, eq=False)
class CachedTokens:
    """The S tokens of a prompt's cached blocks, end to end in prompt order.

    Correctable are those whose cached KV may differ from what the prompt would compute; only these are worth
    choosing from. A token that is computed whatever the policy says is none of them.
    """

    block: Int[np.ndarray, "S"]  # index of the token's block among the cached ones
    offset: Int[np.ndarray, "S"]  # into the block
    block_len: Int[np.ndarray, "blocks"]
    is_item: Mask
    is_correctable: Mask

    @classmethod
    def of(cls, prompt: Prompt, cached: Sequence[Block]) -> "CachedTokens":
        lengths = np.array([len(block) for block in cached], np.int64)
        starts = np.cumsum(lengths) - lengths

        def spread(flags: list[bool]) -> np.ndarray:
            return np.repeat(np.array(flags, bool), lengths)

        return cls(
            np.repeat(np.arange(len(cached)), lengths),
            np.arange(lengths.sum()) - np.repeat(starts, lengths),
            lengths,
            spread([block.kind is BlockKind.ITEM for block in cached]),
            spread([not prompt.is_exact(block) for block in cached]),
        )

    def __len__(self) -> int:
        return len(self.block)

    @property
    def num_correctable(self) -> int:
        return int(self.is_correctable.sum())

    def offsets(self, taken: Mask) -> Offsets:
        """The tokens of `taken`, block by block."""
        chosen = np.flatnonzero(taken)
        ends = np.searchsorted(self.block[chosen], np.arange(len(self.block_len)), side="right")
        return np.split(self.offset[chosen].astype(np.int32), ends[:-1]) if len(ends) else []


def fill_up(
    taken: Mask, group: Int[np.ndarray, "S"], num: Int[np.ndarray, "groups"], scores: Float[np.ndarray, "S"]
) -> None:
    """Adds the best-scored tokens of each group to `taken` until it holds `num` of that group; earlier ones win ties.

    A token of group -1 is never added. A group that already holds more keeps them, so the outcome has
    `max(num, held before)` of each group: a number that no score can change.
    """
    held = np.bincount(group[taken & (group >= 0)], minlength=len(num))
    left = np.flatnonzero((group >= 0) & ~taken)
    left = left[np.lexsort((-scores[left], group[left]))]  # stable
    own = group[left]
    place = np.arange(len(left)) - np.searchsorted(own, own)
    taken[left[place < (num - held)[own]]] = True


def budget(share: float, num_tokens: int) -> int:
    """`share` of `num_tokens`, rounded up; less than a billionth above a whole number is rounding error."""
    return math.ceil(share * num_tokens - 1e-9)


def check_share(value: float, name: str) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value} must be a share from 0 to 1")
