"""When requests come: gaps between one and the next, of mean 1, which a rate then stretches."""

import numpy as np
from jaxtyping import Float64

_BURST_RATE, _QUIET_RATE = 3.0, 0.5  # over the mean rate, which follows with a fifth of the time in bursts
_BURST_REQUESTS = 200.0  # of a burst, on average


def poisson_gaps(num_requests: int, rng: np.random.Generator) -> Float64[np.ndarray, "R"]:
    """Gaps of requests that come independently of each other."""
    return rng.exponential(size=num_requests)


def bursty_gaps(num_requests: int, rng: np.random.Generator) -> Float64[np.ndarray, "R"]:
    """Gaps of a Poisson process whose rate has two states (MMPP): bursts of three times the mean, else half of it.

    Both states last a time drawn from an exponential distribution: a burst some 200 requests, what is between twice as
    many, in four times the time.
    """
    times: list[np.ndarray] = []
    start, num_drawn, in_burst = 0.0, 0, bool(rng.random() < 0.2)
    mean_burst = _BURST_REQUESTS / _BURST_RATE
    while num_drawn <= num_requests:
        rate = _BURST_RATE if in_burst else _QUIET_RATE
        length = rng.exponential(mean_burst if in_burst else 4 * mean_burst)
        times.append(start + np.sort(rng.random(rng.poisson(rate * length))) * length)
        start, num_drawn, in_burst = start + length, num_drawn + len(times[-1]), not in_burst
    return np.diff(np.concatenate(times)[: num_requests + 1])


def recorded_gaps(at_s: Float64[np.ndarray, "R"]) -> Float64[np.ndarray, "R"]:
    """Gaps of requests that came at these times, ascending; ValueError where they do not ascend or are all one."""
    gaps = np.diff(at_s, prepend=at_s[:1])
    if len(at_s) < 2 or (gaps < 0).any() or not gaps.sum() > 0:
        raise ValueError("recorded times must ascend from the first request to the last, and not all be equal")
    return gaps * (len(gaps) - 1) / gaps.sum()
