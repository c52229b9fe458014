"""`streaming`: one pass over the items, and the way for newcomers into a placement that stands."""

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float64, Int64

from rcjax.cache.placement.balance import MAX_MEMORY_IMBALANCE
from rcjax.cache.placement.co_occurrence import co_occurrence_graph
from rcjax.cache.placement.hot_set import HotSet, with_hot_set
from rcjax.cache.placement.method import PlacementInput, ProgressSink, silent
from rcjax.cache.placement.placement import Placement

_GAMMA = 1.5
_PROGRESS_EVERY = 10_000


@dataclass(frozen=True, slots=True)
class StreamingMethod:
    """A hot set on every slice; each other item, one after another, goes where its neighbours are and room is left.

    Tsourakakis et al., "FENNEL: streaming graph partitioning for massive scale graphs", WSDM 2014: item v goes to the
    slice with the largest w(v, slice) - a g |slice|^(g - 1), where w is the weight of v's edges to it, g = 1.5 and
    a = sqrt(K) (edge weight) / (items)^g. Sizes are in bytes of a mean item. Items come in an order drawn by the seed.
    """

    hot: HotSet = field(default_factory=HotSet)
    name = "streaming"

    def place(self, given: PlacementInput, progress: ProgressSink) -> Placement:
        hot = self.hot.rows(given)
        cold = np.setdiff1d(np.arange(len(given.item_ids)), hot)
        progress("building the graph", 0.0)
        graph = co_occurrence_graph(given)
        pull = np.zeros((len(cold), given.num_slices), np.float32)
        used = np.zeros(given.num_slices)
        part = np.zeros(len(given.item_ids), np.int64)
        part[cold] = _stream(graph, given, cold, pull, used, progress)
        return with_hot_set(given, part, hot)


def place_newcomers(placement: Placement, given: PlacementInput, progress: ProgressSink = silent) -> Placement:
    """Gives each item of `given` that `placement` lacks one slice; the others stay where they stand.

    Items that `given` lacks are left out. ValueError where the numbers of slices differ.
    """
    if placement.num_slices != given.num_slices:
        raise ValueError(f"{given.num_slices=} is not that of the placement, {placement.num_slices}")
    row_of = {item_id: row for row, item_id in enumerate(given.item_ids)}
    row_in_given = np.array([row_of.get(item_id, -1) for item_id in placement.item_ids], np.int64)[placement.rows]
    rows, slices = row_in_given[row_in_given >= 0], placement.slices[row_in_given >= 0].astype(np.int64)
    new = np.setdiff1d(np.arange(len(given.item_ids)), rows)
    graph = co_occurrence_graph(given)
    ones = np.ones(len(rows), np.float32)
    stands = sp.coo_array((ones, (rows, slices)), (len(given.item_ids), given.num_slices)).tocsr()
    used = np.bincount(slices, given.item_bytes[rows], minlength=given.num_slices)
    part = _stream(graph, given, new, (graph[new] @ stands).toarray(), used, progress)
    rows, slices = np.concatenate([rows, new]), np.concatenate([slices, part])
    return Placement.of_pairs(given.item_ids, rows, slices, given.num_slices)


def _stream(
    graph: sp.csr_array,
    given: PlacementInput,
    rows: Int64[np.ndarray, "M"],
    pull: np.ndarray,  # [M, K] edge weight from each of the rows to what stands already
    used: Float64[np.ndarray, "K"],
    progress: ProgressSink,
) -> Int64[np.ndarray, "M"]:
    """The slice of each of the rows; `used` has the bytes of what stands already, and is added to."""
    num_slices, mean_bytes = given.num_slices, given.item_bytes.mean()
    limit = MAX_MEMORY_IMBALANCE * (used.sum() + given.item_bytes[rows].sum()) / num_slices
    alpha = np.sqrt(num_slices) * max(float(graph.data.sum()) / 2, 1.0) / len(given.item_ids) ** _GAMMA
    part = np.full(len(given.item_ids), -1, np.int64)
    order = np.random.default_rng(given.seed).permutation(len(rows))
    for number, at in enumerate(order):
        if number % _PROGRESS_EVERY == 0:
            progress("streaming items", number / len(order))
        item = rows[at]
        edges = slice(graph.indptr[item], graph.indptr[item + 1])
        there = part[graph.indices[edges]]
        met = there >= 0
        weight = pull[at] + np.bincount(there[met], graph.data[edges][met], minlength=num_slices)
        value = weight - alpha * _GAMMA * (used / mean_bytes) ** (_GAMMA - 1)
        fits = used + given.item_bytes[item] <= limit
        chosen = int(np.where(fits, value, -np.inf).argmax()) if fits.any() else int(used.argmin())
        part[item] = chosen
        used[chosen] += given.item_bytes[item]
    return part[rows]
