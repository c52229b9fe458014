"""From one placement to another with the fewest moved blocks."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from scipy.optimize import linear_sum_assignment

from rcjax.cache.placement.placement import Placement


@dataclass(frozen=True, eq=False)
class Moves:
    """`placement` is the new one, its slices numbered so that the fewest blocks have to come to one.

    Block n of `arriving` comes to a slice, block n of `leaving` goes from one: rows of [row in `placement.item_ids`,
    slice] and of [row in the old placement's, slice], in the order of item and slice.
    """

    placement: Placement
    arriving: Int64[np.ndarray, "A 2"]
    leaving: Int64[np.ndarray, "L 2"]


def moves(old: Placement, new: Placement) -> Moves:
    """The fewest block moves: which of the new slices is which of the old ones is chosen for the most blocks kept.

    An item that only one of them has arrives or leaves. ValueError where the numbers of slices differ.
    """
    if old.num_slices != new.num_slices:
        raise ValueError(f"{new.num_slices=} is not that of the old placement, {old.num_slices}")
    row_in_old = np.array([old.row_of.get(item_id, -1) for item_id in new.item_ids], np.int64)
    both = np.flatnonzero(row_in_old >= 0)
    kept = (old.matrix[row_in_old[both]].T @ new.matrix[both]).toarray()  # [old slice, new slice]
    old_slices, new_slices = linear_sum_assignment(kept, maximize=True)
    renamed = np.empty(new.num_slices, np.int64)
    renamed[new_slices] = old_slices
    placement = Placement.of_pairs(new.item_ids, new.rows, renamed[new.slices], new.num_slices)
    arriving = ~_stands(old, row_in_old[placement.rows], placement.slices)
    row_in_new = np.array([new.row_of.get(item_id, -1) for item_id in old.item_ids], np.int64)
    leaving = ~_stands(placement, row_in_new[old.rows], old.slices)
    return Moves(placement, _pairs(placement, arriving), _pairs(old, leaving))


def _stands(placement: Placement, rows: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """Of each pair, whether the item stands there; row -1 stands nowhere."""
    there = placement.rows * placement.num_slices + placement.slices
    return (rows >= 0) & np.isin(rows * placement.num_slices + slices, there)


def _pairs(placement: Placement, chosen: np.ndarray) -> np.ndarray:
    return np.stack([placement.rows[chosen], placement.slices[chosen].astype(np.int64)], axis=1)
