"""When each request of a load test is to be sent, decided before the first one is."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcjax.catalog import Request
from rcjax.cluster.arrivals import bursty_gaps, poisson_gaps
from rcjax.request import RecommendRequest

Gaps = Callable[[int, np.random.Generator], np.ndarray]
GAPS: dict[str, Gaps] = {"poisson": poisson_gaps, "bursty": bursty_gaps}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request and when it is due, in seconds from the start."""

    at_s: float
    request: RecommendRequest


def drawn(
    requests: Sequence[Request], gaps: Gaps, rate_per_s: float, duration_s: float, *, arm: str, seed: int
) -> list[Arrival]:
    """`rate_per_s` * `duration_s` requests, drawn with replacement, at gaps of that rate in the mean."""
    rng = np.random.default_rng(seed)
    num_requests = max(1, round(rate_per_s * duration_s))
    at_s = np.cumsum(gaps(num_requests, rng)) / rate_per_s
    chosen = [requests[index] for index in rng.integers(len(requests), size=num_requests).tolist()]
    return [Arrival(float(at), _asked(one, arm)) for at, one in zip(at_s, chosen, strict=True)]


def read_trace(path: Path, requests: Sequence[Request], *, arm: str, seed: int) -> list[Arrival]:
    """The recorded arrivals of a file: JSON lines of `at_s`, ascending seconds, and perhaps what was asked.

    That is `candidates`, ids, with `user_id`, and `arm`. A line without `candidates` gets one of `requests`. The first
    arrival is at 0. ValueError names the line that is wrong.
    """
    rng = np.random.default_rng(seed)
    arrivals: list[Arrival] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                at_s = float(record["at_s"])
                if not np.isfinite(at_s) or (arrivals and at_s < arrivals[-1].at_s):
                    raise ValueError(f"at_s is {at_s}, not a number that ascends from line to line")
                one = _request_of(record) or requests[int(rng.integers(len(requests)))]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number}: no arrival: {error!r}") from error
            arrivals.append(Arrival(at_s, _asked(one, record.get("arm", arm))))
    if not arrivals:
        raise ValueError(f"{path} has no arrivals")
    first_s = arrivals[0].at_s
    return [Arrival(arrival.at_s - first_s, arrival.request) for arrival in arrivals]


def at_rate(arrivals: Sequence[Arrival], rate_per_s: float) -> list[Arrival]:
    """The same arrivals, stretched or pressed together to so many a second."""
    recorded_per_s = mean_rate(arrivals)
    return [Arrival(arrival.at_s * recorded_per_s / rate_per_s, arrival.request) for arrival in arrivals]


def mean_rate(arrivals: Sequence[Arrival]) -> float:
    """Arrivals a second, from the first to the last; ValueError where all are at once."""
    if len(arrivals) < 2 or arrivals[-1].at_s <= arrivals[0].at_s:
        raise ValueError(f"{len(arrivals)} arrivals within 0 s have no rate; give at least two that are apart")
    return (len(arrivals) - 1) / (arrivals[-1].at_s - arrivals[0].at_s)


def _request_of(record: dict[str, Any]) -> Request | None:
    if "candidates" not in record:
        return None
    candidates = record["candidates"]
    if not isinstance(candidates, list) or not candidates:
        raise ValueError(f"candidates is {candidates!r}, not a list of ids")
    return Request(str(record["user_id"]), tuple(map(str, candidates)))


def _asked(request: Request, arm: str) -> RecommendRequest:
    return RecommendRequest(request.candidates, request.user_id, arm=arm)
