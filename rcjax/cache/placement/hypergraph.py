"""`hypergraph`: requests as hyperedges, cut by Mt-KaHyPar."""

import importlib
import sys
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np

from rcjax.cache.placement.balance import MAX_MEMORY_IMBALANCE, levelled
from rcjax.cache.placement.co_occurrence import co_occurrence_graph
from rcjax.cache.placement.hot_set import HotSet, with_hot_set
from rcjax.cache.placement.method import PlacementInput, ProgressSink
from rcjax.cache.placement.placement import Placement
from rcjax.errors import UnavailableError

_SIZE_UNITS = 1000  # of the largest item; the partitioner takes whole numbers
_REQUEST_WEIGHT = 10  # of a request's hyperedge; one that ties an item to similar texts weighs 1


@dataclass(frozen=True, slots=True)
class HypergraphMethod:
    """A hot set on every slice, the rest cut so that the requests touch few slices (connectivity less one).

    Gottesbüren et al., "Scalable shared-memory hypergraph partitioning", ALENEX 2021, in its deterministic preset.
    `UnavailableError` where the package `mtkahypar` is not installed.
    """

    hot: HotSet = field(default_factory=HotSet)
    name = "hypergraph"

    def place(self, given: PlacementInput, progress: ProgressSink) -> Placement:
        mtkahypar = _mtkahypar()
        progress("building the hypergraph", 0.0)
        hot = self.hot.rows(given)
        cold = np.setdiff1d(np.arange(len(given.item_ids)), hot)
        part = np.zeros(len(given.item_ids), np.int64)
        if given.num_slices > 1 and len(cold):
            progress("cutting with Mt-KaHyPar", 0.2)
            part[cold] = _cut(mtkahypar, given, cold)
        return with_hot_set(given, part, hot)


def _mtkahypar() -> ModuleType:
    try:
        return importlib.import_module("mtkahypar")
    except ImportError as error:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise UnavailableError(
            f"method hypergraph needs mtkahypar, which Python {python} here does not have ({error}); install "
            "rcjax[hypergraph] (wheels are for Linux on x86-64), or choose metis"
        ) from error


def _cut(mtkahypar: ModuleType, given: PlacementInput, cold: np.ndarray) -> np.ndarray:
    edges, weights = _hyperedges(given, cold)
    sizes = given.item_bytes[cold]
    units = np.maximum(np.ceil(sizes / sizes.max() * _SIZE_UNITS), 1).astype(np.int64)
    mtkahypar.set_seed(given.seed)
    partitioner = mtkahypar.initialize(1, print_warnings=False)
    context = partitioner.context_from_preset(mtkahypar.PresetType.DETERMINISTIC)
    context.set_partitioning_parameters(given.num_slices, MAX_MEMORY_IMBALANCE - 1, mtkahypar.Objective.KM1)
    context.logging = False
    graph = partitioner.create_hypergraph(context, len(cold), len(edges), edges, units.tolist(), weights)
    part = np.array(graph.partition(context).get_partition(), np.int64)
    return levelled(part, sizes, given.num_slices, co_occurrence_graph(given)[cold][:, cold])


def _hyperedges(given: PlacementInput, cold: np.ndarray) -> tuple[list[list[int]], list[int]]:
    """The requests' cold items, and for items that no request names, each with those of similar texts."""
    groups = [given.requests[:, cold]]
    if given.similarity is not None:
        unasked = np.flatnonzero(given.popularity == 0)
        tied = given.similarity[unasked].tolil()
        tied[np.arange(len(unasked)), unasked] = 1.0
        groups.append(tied.tocsr()[:, cold])
    edges: list[list[int]] = []
    weights: list[int] = []
    for group, weight in zip(groups, (_REQUEST_WEIGHT, 1), strict=False):
        group = group.tocsr()
        found = [ids.tolist() for ids in np.split(group.indices, group.indptr[1:-1]) if len(ids) > 1]
        edges += found
        weights += [weight] * len(found)
    return edges, weights
