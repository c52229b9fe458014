"""The hot set: the items that stand on every slice."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from rcjax.cache.placement.method import PlacementInput
from rcjax.cache.placement.placement import Placement


@dataclass(frozen=True, slots=True)
class HotSet:
    """The most popular items, up to the one limit that is given; none where no limit is.

    `count`: so many. `share`: as many as together have this share of all references. `budget_factor`: as many as fit
    where all slices together may take this many times the catalogue's bytes.
    """

    count: int | None = None
    share: float | None = None
    budget_factor: float | None = None

    def __post_init__(self) -> None:
        if sum(limit is not None for limit in (self.count, self.share, self.budget_factor)) > 1:
            raise ValueError(f"{self} has more than one limit; give count, share or budget_factor")
        if (self.count or 0) < 0 or not 0 <= (self.share or 0) <= 1:
            raise ValueError(f"{self}: count must be at least 0 and share from 0 to 1")
        if self.budget_factor is not None and self.budget_factor < 1:
            raise ValueError(f"budget_factor={self.budget_factor} must be at least 1: every item stands somewhere")

    def rows(self, given: PlacementInput) -> Int64[np.ndarray, "H"]:
        """Rows of the hot items, most popular first; items that no request names are never hot."""
        popularity = given.popularity
        order = np.argsort(-popularity, kind="stable")[: int((popularity > 0).sum())]
        if self.count is not None:
            return order[: self.count]
        if self.share is not None:
            reached = np.cumsum(popularity[order]) / max(popularity.sum(), 1)
            return order[: int(np.searchsorted(reached, self.share - 1e-12) + 1)] if self.share else order[:0]
        if self.budget_factor is not None:
            more_bytes = np.cumsum(given.item_bytes[order]) * (given.num_slices - 1)
            room = (self.budget_factor - 1) * given.total_bytes
            return order[: int(np.searchsorted(more_bytes, room * (1 + 1e-12), side="right"))]
        return order[:0]


def with_hot_set(given: PlacementInput, part: Int64[np.ndarray, "N"], hot: Int64[np.ndarray, "H"]) -> Placement:
    """One slice an item as `part` says, and all for the hot ones."""
    num_items, num_slices = len(part), given.num_slices
    cold = np.setdiff1d(np.arange(num_items), hot)
    rows = np.concatenate([cold, np.repeat(hot, num_slices)])
    slices = np.concatenate([part[cold], np.tile(np.arange(num_slices), len(hot))])
    return Placement.of_pairs(given.item_ids, rows, slices, num_slices)
