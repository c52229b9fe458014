"""The co-occurrence graph: items that requests name together, and similar texts where there is nothing else."""

import numpy as np
import scipy.sparse as sp

from rcjax.cache.placement.method import PlacementInput

_MAX_PAIRS = 30_000_000
_TEXT_WEIGHT = 0.3  # what all of an item's text neighbours weigh together; one request with it weighs 1


def co_occurrence_graph(given: PlacementInput, *, text_for_all: bool = False) -> sp.csr_array:
    """[N, N] float32, symmetric, without loops: an edge weighs what the requests that name both items give it.

    Each of a request's L items shares 1 between its L - 1 others, so that long requests do not drown short ones. Where
    all pairs would be more than 30 million, each item of a long request is paired with some of the others, drawn by the
    seed, and the edge's weight is scaled to the same expectation. Items without an edge, or with `text_for_all` all of
    them, are tied to those of the most similar texts.
    """
    first, second, weight = _pairs(given)
    num_items = len(given.item_ids)
    graph = sp.coo_array((weight, (first, second)), (num_items, num_items)).tocsr()
    if given.similarity is not None:
        is_alone = np.ones(num_items, bool) if text_for_all else _degrees(graph) == 0
        text = given.similarity.copy()
        text.data = text.data * _TEXT_WEIGHT * np.repeat(is_alone, np.diff(text.indptr))
        graph = (graph + text).tocsr()
    graph = (graph + graph.T).tocsr()
    graph.eliminate_zeros()
    return graph


def _degrees(graph: sp.csr_array) -> np.ndarray:
    return np.diff(graph.indptr) + np.bincount(graph.indices, minlength=graph.shape[0])


def _pairs(given: PlacementInput) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each pair once: in a request's items, shuffled and in a ring, those that stand 1, 2, ... places apart."""
    starts, columns = given.requests.indptr, given.requests.indices
    lens = np.diff(starts).astype(np.int64)
    row = np.repeat(np.arange(len(lens)), lens)
    order = np.lexsort((np.random.default_rng(given.seed).random(len(columns)), row))
    columns = columns[order]
    place = np.arange(len(columns)) - np.repeat(starts[:-1], lens)
    reach = _reach(lens)
    found = []
    for apart in range(1, reach + 1):
        # at half of an even ring, the pair would be seen from both ends
        here = np.flatnonzero((2 * apart < lens[row]) | ((2 * apart == lens[row]) & (place < apart)))
        length = lens[row[here]]
        other = starts[row[here]] + (place[here] + apart) % length
        # of the L - 1 others, 2 * reach are within reach; every one of them is where that is more than L - 1
        weight = 1.0 / np.minimum(length - 1, 2 * reach)
        found.append((columns[here], columns[other], weight.astype(np.float32)))
    if not found:
        return np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32)
    first, second, weights = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return first, second, weights


def _reach(lens: np.ndarray) -> int:
    """How many places apart pairs may stand, so that there are at most `_MAX_PAIRS`; at least 1."""
    longest = int(lens.max(initial=0)) // 2
    for reach in range(longest, 1, -1):
        if np.minimum(lens // 2, reach) @ lens <= _MAX_PAIRS:
            return reach
    return min(longest, 1)
