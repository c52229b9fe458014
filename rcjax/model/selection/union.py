"""Several policies under one budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from rcjax.model.selection.fixed import FullSelection, NoSelection
from rcjax.model.selection.policy import Measure, Scope, Scores, SelectionPolicy
from rcjax.model.selection.tokens import CachedTokens, Mask


@dataclass(frozen=True, slots=True)
class UnionSelection(SelectionPolicy):
    """Each part adds its best tokens until what is selected so far reaches the part's own number.

    So `boundary(first=2) + deviation(r=0.15)` selects 0.15 of the correctable tokens: the first two of each block, and
    the largest deviations for what is left (nothing, where the boundaries alone are more). Parts that count per
    block come first, then those that count per kind, then those that count over the prompt; in another order
    the total would depend on which tokens the parts share.
    """

    parts: tuple[SelectionPolicy, ...]

    def __post_init__(self) -> None:
        for part in self.parts:
            if isinstance(part, NoSelection | FullSelection):
                raise ValueError("none and full stand alone: in a union they change nothing or everything")
        if any(former.scope > latter.scope for former, latter in pairwise(self.parts)):
            raise ValueError("in a union, boundary and offline come first, then heavy_hitter, then deviation and query")

    @property
    def measures(self) -> tuple[Measure, ...]:
        return tuple(measure for part in self.parts for measure in part.measures)

    @property
    def scope(self) -> Scope:
        return self.parts[-1].scope

    def probe_mask(self, tokens: CachedTokens, measured: Sequence[Scores]) -> Mask:
        for part, own in self._shares(measured):
            if len(own) < len(part.measures):
                return part.probe_mask(tokens, own)
        raise ValueError(f"all {len(measured)} measures are there; nothing is left to probe")

    def fill(self, tokens: CachedTokens, measured: Sequence[Scores], taken: Mask) -> None:
        for part, own in self._shares(measured):
            part.fill(tokens, own, taken)

    def _shares(self, measured: Sequence[Scores]) -> Iterator[tuple[SelectionPolicy, Sequence[Scores]]]:
        """Each part with what was measured for it."""
        at = 0
        for part in self.parts:
            yield part, measured[at : at + len(part.measures)]
            at += len(part.measures)
