"""`metis`: the paper's Algorithm 1."""

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float64, Int64

from rcjax.cache.placement.balance import MAX_MEMORY_IMBALANCE, levelled
from rcjax.cache.placement.co_occurrence import co_occurrence_graph
from rcjax.cache.placement.hot_set import HotSet, with_hot_set
from rcjax.cache.placement.method import PlacementInput, ProgressSink
from rcjax.cache.placement.placement import Placement

# METIS takes whole numbers, and adds them up in 32 bits where it was built so.
_MAX_UNITS = 1000  # of an edge of weight 1, and of the largest item
_MAX_SUM = 1e9


@dataclass(frozen=True, slots=True)
class MetisMethod:
    """A hot set on every slice, the rest of the co-occurrence graph cut by METIS into parts of equal bytes.

    Zhao et al., "RcLLM", arXiv 2605.07443, Algorithm 1; Karypis and Kumar, "A fast and high quality multilevel scheme
    for partitioning irregular graphs", 1998. Unlike the paper's, edges are weighed by requests of equal weight, parts
    are balanced by bytes instead of reviews, and items without co-occurrence are tied to similar texts.
    """

    hot: HotSet = field(default_factory=HotSet)
    name = "metis"

    def place(self, given: PlacementInput, progress: ProgressSink) -> Placement:
        progress("building the graph", 0.0)
        graph = co_occurrence_graph(given)
        hot = self.hot.rows(given)
        cold = np.setdiff1d(np.arange(len(given.item_ids)), hot)
        progress("cutting with METIS", 0.4)
        part = np.zeros(len(given.item_ids), np.int64)
        part[cold] = cut(graph[cold][:, cold], given.item_bytes[cold], given.num_slices, given.seed)
        return with_hot_set(given, part, hot)


def cut(
    graph: sp.csr_array, item_bytes: Float64[np.ndarray, "N"], num_slices: int, seed: int
) -> Int64[np.ndarray, "N"]:
    """The part of each item: parts of equal bytes up to 3%, with little edge weight between them."""
    import pymetis  # here, as servers import this module and cut nothing

    if num_slices == 1 or len(item_bytes) == 0:
        return np.zeros(len(item_bytes), np.int64)
    options = pymetis.Options(seed=seed, ufactor=round((MAX_MEMORY_IMBALANCE - 1) * 1000))
    integer = pymetis.zero_copy_dtype()  # of this type, METIS reads its arguments where they are
    sizes = _whole(item_bytes / item_bytes.max()).astype(integer)
    weights = _whole(graph.data).astype(integer)
    adjacency = pymetis.CSRAdjacency(graph.indptr.astype(integer), graph.indices.astype(integer))
    _, part = pymetis.part_graph(num_slices, adjacency, vweights=sizes, eweights=weights, options=options)
    return levelled(np.asarray(part).astype(np.int64), item_bytes, num_slices, graph)


def _whole(values: np.ndarray) -> np.ndarray:
    units = min(_MAX_UNITS, _MAX_SUM / max(float(values.sum(dtype=np.float64)), 1.0))
    return np.maximum(np.rint(values * units), 1)
