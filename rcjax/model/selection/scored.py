"""Policies that choose by what a probe measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rcjax.model.selection.policy import Measure, Quantity, Scope, Scores, SelectionPolicy
from rcjax.model.selection.tokens import CachedTokens, Mask, budget, check_share, fill_up


@dataclass(frozen=True, slots=True)
class DeviationSelection(SelectionPolicy):
    """Selects the share `r` of correctable tokens whose cached KV deviates most after the first `layers` layers.

    Yao et al., "CacheBlend", arXiv 2405.16444. A probe runs the whole prompt through the first `layers` layers and
    compares K and V of the next one. In layer 0 they depend on the token alone, so `layers` is at least 1.

    `narrow=(0.4, 0.25)` is the paper's gradual filtering: of the tokens that the first probe measured, the best 0.4
    are probed again one layer deeper with all others as cached, of these the best 0.25, and of these `r` are selected.
    """

    r: float = 0.15
    layers: int = 1
    narrow: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_share(self.r, "r")
        if self.layers < 1:
            raise ValueError(f"layers={self.layers} must be at least 1: in layer 0, KV depends on the token alone")
        shares = (1.0, *self.narrow, self.r)
        if any(after > before for before, after in pairwise(shares)):
            raise ValueError(f"narrow={self.narrow} must fall from at most 1 to at least r={self.r}")

    @property
    def measures(self) -> tuple[Measure, ...]:
        return tuple(Measure(Quantity.DEVIATION, self.layers + i, i == 0) for i in range(1 + len(self.narrow)))

    @property
    def scope(self) -> Scope:
        return Scope.PROMPT

    def probe_mask(self, tokens: CachedTokens, measured: Sequence[Scores]) -> Mask:
        survivors = np.zeros(len(tokens), bool)
        _fill_share(tokens, self.narrow[len(measured) - 1], measured[-1], survivors)
        return survivors

    def fill(self, tokens: CachedTokens, measured: Sequence[Scores], taken: Mask) -> None:
        _fill_share(tokens, self.r, measured[-1], taken)


@dataclass(frozen=True, slots=True)
class QuerySelection(SelectionPolicy):
    """Selects the share `r` of correctable tokens to which glue and task give most attention.

    "ProphetKV", arXiv 2602.02579. The probe runs the fresh tokens alone over the cached pages and sums their
    attention over heads and over the first `layers` layers (0: all).
    """

    r: float = 0.15
    layers: int = 0

    def __post_init__(self) -> None:
        check_share(self.r, "r")
        if self.layers < 0:
            raise ValueError(f"layers={self.layers} must be 0 (all) or more")

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (Measure(Quantity.QUERY_ATTENTION, self.layers, is_whole=False),)

    @property
    def scope(self) -> Scope:
        return Scope.PROMPT

    def fill(self, tokens: CachedTokens, measured: Sequence[Scores], taken: Mask) -> None:
        _fill_share(tokens, self.r, measured[0], taken)


@dataclass(frozen=True, slots=True)
class HeavyHitterSelection(SelectionPolicy):
    """RcLLM's choice, arXiv 2605.07443, eq. 3: heavy hitters of the first layer, and a local window.

    S_i = (1 - lam) ||A_i||_1 + lam * sum over M in {K, V} of ||M_i^new - M_i^cached||_1, where A_i is the attention
    that token i receives from the whole prompt, over all heads. For item tokens only the first term counts. The share
    `r_item` of correctable item tokens and `r_history` of correctable history tokens are selected (an exact history
    has none), besides the `window` last correctable tokens of the prompt. The paper gives neither lam nor window.
    """

    r_item: float = 0.3
    r_history: float = 0.3
    lam: float = 0.5
    window: int = 16

    def __post_init__(self) -> None:
        check_share(self.r_item, "r_item")
        check_share(self.r_history, "r_history")
        check_share(self.lam, "lam")
        if self.window < 0:
            raise ValueError(f"window={self.window} must not be negative")

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (Measure(Quantity.FIRST_LAYER),)

    @property
    def scope(self) -> Scope:
        return Scope.KIND

    def fill(self, tokens: CachedTokens, measured: Sequence[Scores], taken: Mask) -> None:
        attention, deviation = measured[0]
        scores = (1 - self.lam) * attention + self.lam * np.where(tokens.is_item, 0, deviation)
        in_window = np.zeros(len(tokens), bool)
        in_window[np.flatnonzero(tokens.is_correctable)[max(0, tokens.num_correctable - self.window) :]] = True
        num = []
        for share, of_kind in ((self.r_history, ~tokens.is_item), (self.r_item, tokens.is_item)):
            num_of_kind = int((tokens.is_correctable & of_kind).sum())
            num.append(min(num_of_kind, int((in_window & of_kind).sum()) + budget(share, num_of_kind)))
        group = np.where(tokens.is_correctable, tokens.is_item.astype(np.int64), -1)
        fill_up(taken, group, np.array(num), np.where(in_window, np.inf, scores))


def _fill_share(tokens: CachedTokens, share: float, scores: Scores, taken: Mask) -> None:
    """Fills `taken` up to `share` of the correctable tokens."""
    num = np.array([budget(share, tokens.num_correctable)])
    fill_up(taken, np.where(tokens.is_correctable, 0, -1), num, scores)
