"""What a simulated run found."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from rcjax.cluster.simulation.slice import LOCAL, REPLICA
from rcjax.engine.origin import Origin

FOUND = (LOCAL, REPLICA, *map(str, Origin))
WARM_UP_SHARE = 0.2  # of the requests, while caches and queues fill: no part of times and hits


@dataclass(frozen=True, eq=False)
class Outcome:
    """Of each request when it came, when its pass ended, its slice, and how many items were where (`FOUND`)."""

    arrival_s: Float64[np.ndarray, "R"]
    done_s: Float64[np.ndarray, "R"]
    slices: Int64[np.ndarray, "R"]
    found: Int64[np.ndarray, "R F"]
    busy_s: Float64[np.ndarray, "K"]
    num_passes: int
    num_decisions: int

    @cached_property
    def is_counted(self) -> Bool[np.ndarray, "R"]:
        return np.arange(len(self.arrival_s)) >= int(WARM_UP_SHARE * len(self.arrival_s))

    @cached_property
    def ttft_s(self) -> Float64[np.ndarray, "_"]:
        """Of the requests after the warm-up, in the order in which they came."""
        return (self.done_s - self.arrival_s)[self.is_counted]

    @property
    def span_s(self) -> float:
        return float(self.done_s.max() - self.arrival_s.min())

    @property
    def throughput_per_s(self) -> float:
        """Answers a second in the middle of the run, from the third tenth to the eighth."""
        done = np.sort(self.done_s)
        first, last = int(0.3 * len(done)), int(0.8 * len(done))
        return float((last - first) / (done[last] - done[first]))

    def quantiles_s(self, shares: Sequence[float]) -> list[float]:
        """TTFT that these shares of the requests do not exceed."""
        return np.quantile(self.ttft_s, shares).tolist()

    def figures(self) -> dict[str, Any]:
        """As `rcjax simulate --json` writes them.

        Utilisation is the share of the time in which slices run passes, imbalance the longest such time of a slice
        over the mean; hits are shares of the items that requests ask for.
        """
        p50, p90, p99 = np.percentile(self.ttft_s, (50, 90, 99)).tolist()
        found = self.found[self.is_counted].sum(axis=0)
        shares = (found / max(found.sum(), 1)).tolist()
        return {
            "num_requests": len(self.arrival_s),
            "requests_per_s": len(self.arrival_s) / self.span_s,
            "ttft_s": {"mean": float(self.ttft_s.mean()), "p50": p50, "p90": p90, "p99": p99},
            "utilisation": float(self.busy_s.mean() / self.span_s),
            "imbalance": float(self.busy_s.max() / self.busy_s.mean()),
            "hits": dict(zip(FOUND, shares, strict=True)),
            "requests_per_pass": len(self.arrival_s) / self.num_passes,
            "num_decisions": self.num_decisions,
        }
