"""Requests to slices so that no slice answers far more than its share."""

import math

import numpy as np
from jaxtyping import Float32, Int64

MAX_IMBALANCE = 1.2  # the most requests of a slice over the mean
_ROUNDS = 40


def max_requests(num_requests: int, num_slices: int, max_imbalance: float = MAX_IMBALANCE) -> int:
    """The most that a slice may answer; never less than it takes to answer all."""
    mean = num_requests / num_slices
    return max(math.ceil(mean), math.floor(mean * max_imbalance))


def assign(worth: Float32[np.ndarray, "R K"], max_imbalance: float = MAX_IMBALANCE) -> Int64[np.ndarray, "R"]:
    """The slice of each request: much worth in total, and no slice with more than `max_requests`.

    Crowded slices get a price until few are (an auction), and what is too much still goes, cheapest first, to the best
    slice with room.
    """
    num_requests, num_slices = worth.shape
    limit = max_requests(num_requests, num_slices, max_imbalance)
    mean = num_requests / num_slices
    price = np.zeros(num_slices, np.float32)
    step = 0.3 * float(worth.std()) if worth.size else 0.0
    chosen = worth.argmax(axis=1)
    for number in range(_ROUNDS):
        loads = np.bincount(chosen, minlength=num_slices)
        if loads.max() <= limit:
            return chosen
        crowding = np.clip(loads / mean - 1, -1, 2)
        price += (step / (1 + 0.2 * number) * crowding).astype(np.float32)
        chosen = (worth - price).argmax(axis=1)
    return _emptied(worth - price, chosen, limit)


def _emptied(worth: Float32[np.ndarray, "R K"], chosen: Int64[np.ndarray, "R"], limit: int) -> Int64[np.ndarray, "R"]:
    loads = np.bincount(chosen, minlength=worth.shape[1])
    for crowded in np.flatnonzero(loads > limit):
        members = np.flatnonzero(chosen == crowded)
        elsewhere = np.where(loads < limit, worth[members], -np.inf)
        losses = worth[members, crowded] - elsewhere.max(axis=1)
        for request in members[np.argsort(losses, kind="stable")][: loads[crowded] - limit]:
            other = int(np.where(loads < limit, worth[request], -np.inf).argmax())
            chosen[request] = other
            loads[other] += 1
        loads[crowded] = limit
    return chosen
