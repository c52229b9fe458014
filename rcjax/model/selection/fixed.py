"""Policies that need no probe."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcjax.model.selection.policy import Measure, Quantity, Scope, Scores, SelectionPolicy
from rcjax.model.selection.tokens import CachedTokens, Mask, fill_up


@dataclass(frozen=True, slots=True)
class NoSelection(SelectionPolicy):
    """Trusts every cached token."""

    @property
    def scope(self) -> Scope:
        return Scope.BLOCK

    def fill(self, tokens: CachedTokens, measured: Sequence[Scores], taken: Mask) -> None:
        pass


@dataclass(frozen=True, slots=True)
class FullSelection(SelectionPolicy):
    """Selects every cached token: full recompute, by the path that the other policies take."""

    @property
    def scope(self) -> Scope:
        return Scope.BLOCK

    def fill(self, tokens: CachedTokens, measured: Sequence[Scores], taken: Mask) -> None:
        taken[:] = True


@dataclass(frozen=True, slots=True)
class BoundarySelection(SelectionPolicy):
    """Selects the first and last tokens of each block whose cached KV is not exact.

    Hu et al., "EPIC", arXiv 2410.15332 (LegoLink): a block's first tokens act as attention sinks of their own,
    which is where its KV differs most from what the whole prompt would give. Blocks that are exact where they
    stand (instruction, history) have nothing to correct and are left out.
    """

    first: int = 0
    last: int = 0

    def __post_init__(self) -> None:
        if self.first < 0 or self.last < 0 or self.first + self.last == 0:
            raise ValueError(f"boundary needs {self.first=} >= 0, {self.last=} >= 0 and one of them above 0")

    @property
    def scope(self) -> Scope:
        return Scope.BLOCK

    def fill(self, tokens: CachedTokens, measured: Sequence[Scores], taken: Mask) -> None:
        from_end = tokens.block_len[tokens.block] - tokens.offset
        is_end = (tokens.offset < self.first) | (from_end <= self.last)
        num = np.minimum(tokens.block_len, self.first + self.last)
        group = np.where(tokens.is_correctable, tokens.block, -1)
        fill_up(taken, group, num, is_end.astype(np.float32))


@dataclass(frozen=True, slots=True)
class OfflineSelection(SelectionPolicy):
    """Selects `k` positions of each block, chosen when it was built: where its KV depends most on the context.

    "CacheTune", arXiv 2605.24022: those of the largest mean KV deviation over sampled contexts, which are prompts of
    other items and some user's history (`rcjax.engine.offline`). A block that has none stored, as it came inline or
    missed, gives its first `k`.
    """

    k: int = 8

    def __post_init__(self) -> None:
        if self.k < 0:
            raise ValueError(f"k={self.k} must not be negative")

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (Measure(Quantity.STORED_ORDER),)

    @property
    def scope(self) -> Scope:
        return Scope.BLOCK

    def fill(self, tokens: CachedTokens, measured: Sequence[Scores], taken: Mask) -> None:
        group = np.where(tokens.is_correctable, tokens.block, -1)
        fill_up(taken, group, np.minimum(tokens.block_len, self.k), measured[0])
