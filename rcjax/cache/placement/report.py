"""What a placement reaches on requests: hits on the best slice, slices touched, loads and bytes."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Float64, Int64

from rcjax.cache.placement.bounded_load import MAX_IMBALANCE
from rcjax.cache.placement.placement import Placement

_CHUNK_VALUES = 4_000_000  # of [requests, slices] at a time


@dataclass(frozen=True, slots=True)
class PlacementReport:
    """Shares are means over requests; imbalances are the largest slice over the mean of all.

    `hit_share`: items that the request's best slice has. `bounded_hit_share`: the same where requests come one after
    another and none goes to a slice that has 1.2 times the mean of those so far. `load_imbalance`: requests a slice
    where each goes to its best one, of several the one with the fewest. `slices_touched`: the best slice, then those
    that together have the rest, chosen greedily. `budget_factor`: bytes of all slices over those of the catalogue.
    """

    num_requests: int
    hit_share: float
    bounded_hit_share: float
    slices_touched: float
    load_imbalance: float
    memory_imbalance: float
    budget_factor: float
    max_slice_bytes: float


def evaluate(placement: Placement, requests: sp.csr_array, item_bytes: Float64[np.ndarray, "N"]) -> PlacementReport:
    """Rows of the placement's items are the columns of `requests`; ValueError without a request."""
    num_requests, num_slices = requests.shape[0], placement.num_slices
    if not num_requests:
        raise ValueError("there is no request to evaluate a placement with")
    shares, touched = np.zeros(num_requests, np.float32), np.zeros(num_requests, np.int64)
    router = _Router(num_slices)
    step = max(_CHUNK_VALUES // num_slices, 1)
    for first in range(0, num_requests, step):
        chunk = requests[first : first + step]
        hits = (chunk @ placement.matrix).toarray()
        lens = np.diff(chunk.indptr)
        router.route(hits, lens)
        shares[first : first + step] = hits.max(axis=1) / lens
        touched[first : first + step] = _slices_touched(chunk, placement, hits)
    used = np.asarray(placement.matrix.T.astype(np.float64) @ item_bytes)
    return PlacementReport(
        num_requests=num_requests,
        hit_share=float(shares.mean()),
        bounded_hit_share=router.bounded_hits / num_requests,
        slices_touched=float(touched.mean()),
        load_imbalance=float(router.loads.max() / router.loads.mean()),
        memory_imbalance=float(used.max() / used.mean()),
        budget_factor=float(used.sum() / item_bytes.sum()),
        max_slice_bytes=float(used.max()),
    )


class _Router:
    """Sends requests one after another, once to the best slice and once to the best that is not crowded."""

    def __init__(self, num_slices: int):
        self.loads = np.zeros(num_slices, np.int64)
        self._bounded = np.zeros(num_slices, np.int64)
        self._num_routed = 0
        self.bounded_hits = 0.0

    def route(self, hits: Float32[np.ndarray, "R K"], lens: Int64[np.ndarray, "R"]) -> None:
        for row, length in zip(hits, lens, strict=True):
            self._num_routed += 1
            best = np.flatnonzero(row == row.max())
            self.loads[best[self.loads[best].argmin()]] += 1
            limit = np.ceil(MAX_IMBALANCE * self._num_routed / len(self.loads))
            free = np.where(self._bounded < limit, row, -1)
            best = np.flatnonzero(free == free.max())
            chosen = best[self._bounded[best].argmin()]
            self._bounded[chosen] += 1
            self.bounded_hits += float(row[chosen] / length)


def _slices_touched(
    requests: sp.csr_array, placement: Placement, hits: Float32[np.ndarray, "R K"]
) -> Int64[np.ndarray, "R"]:
    there = placement.rows * placement.num_slices + placement.slices
    row = np.repeat(np.arange(requests.shape[0]), np.diff(requests.indptr))
    touched = np.zeros(requests.shape[0], np.int64)
    items = requests.indices.astype(np.int64)
    while len(row):
        asking = np.unique(row)
        touched[asking] += 1
        asked = items * placement.num_slices + hits.argmax(axis=1)[row]
        at = np.minimum(np.searchsorted(there, asked), len(there) - 1)
        missed = there[at] != asked
        row, items = row[missed], items[missed]
        left = sp.csr_array((np.ones(len(row), np.float32), (row, items)), requests.shape)
        hits = (left @ placement.matrix).toarray()
    return touched
