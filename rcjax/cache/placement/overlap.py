"""`overlap`: items stand on the slices whose requests ask for them, as often as a budget allows."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float32, Int64

from rcjax.cache.placement.bounded_load import assign
from rcjax.cache.placement.co_occurrence import co_occurrence_graph
from rcjax.cache.placement.method import PlacementInput, ProgressSink, best_shares
from rcjax.cache.placement.metis import cut
from rcjax.cache.placement.placement import Placement
from rcjax.cache.placement.selection import select

_HELD_SHARE = 0.1  # of the requests, which say when to stop
_MIN_HELD = 20
_PLANNED_IMBALANCE = 1.0  # of the requests that it learns from; others will not keep to it as well


@dataclass(frozen=True, slots=True)
class OverlapMethod:
    """Requests are spread over slices, items go where their requests are, and both are repeated in turn.

    Every slice holds up to `budget_factor` times its share of the catalogue's bytes. What item i is worth on slice p is
    the share of p's requests that is i, smoothed in two ways that keep rare items from following single requests:
    the same share of the items whose text is most like i's, and i's share of all requests. `select` turns worth into
    places. A request then goes to the slice where it may expect most hits without its own part in what stands there,
    and no slice gets more than its share of the requests.

    It starts from a METIS cut. A tenth of the requests is held out, and the round counts that serves these best; where
    repeating does not help, as with requests of categories that are drawn independently, that is the first.
    Takes memory for about 5 float32 arrays of [items, slices] and [requests, slices].
    """

    budget_factor: float = 2.0
    num_rounds: int = 6
    name = "overlap"

    def place(self, given: PlacementInput, progress: ProgressSink) -> Placement:
        if self.budget_factor < 1:
            raise ValueError(f"budget_factor={self.budget_factor} must be at least 1: every item stands somewhere")
        progress("building the graph", 0.0)
        graph = co_occurrence_graph(given, text_for_all=True)
        progress("cutting with METIS", 0.1)
        start = cut(graph, given.item_bytes, given.num_slices, given.seed)
        del graph
        stands = Placement.of_part(given.item_ids, start, given.num_slices).matrix
        learnt, held = _split(given)
        chosen = assign((learnt.shares @ stands).toarray(), _PLANNED_IMBALANCE)
        best_share, best = -1.0, (stands, chosen)
        for number in range(self.num_rounds):
            progress(f"round {number + 1} of {self.num_rounds}", 0.3 + 0.6 * number / self.num_rounds)
            worth = _worth(learnt, chosen)
            placed, full_at = self._select(given, worth)
            placement = Placement.of_matrix(given.item_ids, placed)
            share = float(best_shares(held.requests, placement).mean()) if held.requests.shape[0] else float(number)
            if share > best_share:
                best_share, best = share, (placement.matrix, chosen)
            chosen = assign(_expected_hits(learnt, worth, full_at, chosen), _PLANNED_IMBALANCE)
        progress("placing", 0.95)
        return self._with_held_out(given, learnt, held, best)

    def _select(
        self, given: PlacementInput, worth: Float32[np.ndarray, "N K"]
    ) -> tuple[Bool[np.ndarray, "N K"], Float32[np.ndarray, "K"]]:
        budget_bytes = self.budget_factor * given.total_bytes / given.num_slices
        return select(worth, given.item_bytes, budget_bytes * (1 + 1e-12))

    def _with_held_out(
        self,
        given: PlacementInput,
        learnt: PlacementInput,
        held: PlacementInput,
        best: tuple[sp.csr_array, Int64[np.ndarray, "R"]],
    ) -> Placement:
        """The best round's, once more with the requests that were held out."""
        stands, chosen = best
        theirs = assign((held.shares @ stands).toarray(), _PLANNED_IMBALANCE)
        requests = sp.vstack([learnt.requests, held.requests], format="csr")
        worth = _worth(given.with_requests(requests), np.concatenate([chosen, theirs]))
        return Placement.of_matrix(given.item_ids, self._select(given, worth)[0])


def _split(given: PlacementInput) -> tuple[PlacementInput, PlacementInput]:
    """The requests to learn from and those that are held out, none where there are few."""
    num_requests = given.requests.shape[0]
    num_held = int(num_requests * _HELD_SHARE)
    num_held = num_held if num_held >= _MIN_HELD else 0
    order = np.random.default_rng(given.seed).permutation(num_requests)
    held, learnt = np.sort(order[:num_held]), np.sort(order[num_held:])
    return given.with_requests(given.requests[learnt]), given.with_requests(given.requests[held])


def _prior(given: PlacementInput) -> Float32[np.ndarray, "N"]:
    """What a slice's share of all requests would ask of each item, were all slices alike."""
    shares = np.bincount(given.shares.indices, given.shares.data, minlength=len(given.item_ids))
    return (shares / given.num_slices).astype(np.float32)


def _worth(given: PlacementInput, chosen: Int64[np.ndarray, "R"]) -> Float32[np.ndarray, "N K"]:
    num_requests = len(chosen)
    ones = np.ones(num_requests, np.float32)
    answered = sp.csr_array((ones, chosen, np.arange(num_requests + 1)), (num_requests, given.num_slices))
    asked = (given.shares.T @ answered).toarray()
    worth = asked + _prior(given)[:, None]
    if given.similarity is not None:
        worth += given.similarity @ asked
    return worth


def _expected_hits(
    given: PlacementInput,
    worth: Float32[np.ndarray, "N K"],
    full_at: Float32[np.ndarray, "K"],
    chosen: Int64[np.ndarray, "R"],
) -> Float32[np.ndarray, "R K"]:
    """The share of each request that stands on each slice, if its own part in the worth there is left out.

    An item's chance to stand grows with its worth per byte d: d^2 / (d^2 + f^2), f being where the slice is full.
    """
    per_byte = (1 / given.item_bytes).astype(np.float32)
    full_at = np.maximum(full_at, np.finfo(np.float32).tiny ** 0.25)
    hits: Float32[np.ndarray, "R K"] = np.asarray(given.shares @ _chance(worth * per_byte[:, None], full_at))
    lens = np.diff(given.shares.indptr)
    row, items = np.repeat(np.arange(len(chosen)), lens), given.shares.indices
    theirs = chosen[row]
    without = np.maximum(worth[items, theirs] - given.shares.data, 0) * per_byte[items]
    own = np.bincount(row, _chance(without, full_at[theirs]) * given.shares.data, minlength=len(chosen))
    hits[np.arange(len(chosen)), chosen] = own
    return hits


def _chance(density: np.ndarray, full_at: np.ndarray) -> np.ndarray:
    ratio = density / full_at
    return np.asarray(1 - 1 / (1 + ratio * ratio), np.float32)
