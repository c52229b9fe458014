"""Histograms as plain numbers: cheap to add to, and read by whoever exports them."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HistogramCounts:
    """How many values were at most each bound and above the one before it, and above all; and the sum of values."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]  # one more than bounds
    total: float

    @property
    def num_values(self) -> int:
        return sum(self.counts)

    def __add__(self, other: "HistogramCounts") -> "HistogramCounts":
        if self.bounds != other.bounds:
            raise ValueError(f"histograms of the bounds {self.bounds} and {other.bounds} have no sum")
        counts = tuple(one + another for one, another in zip(self.counts, other.counts, strict=True))
        return HistogramCounts(self.bounds, counts, self.total + other.total)


class Histogram:
    """Counts values by bucket. One thread at a time adds; any may read, and may miss the value just being added."""

    def __init__(self, bounds: Sequence[float]):
        self.bounds = tuple(bounds)
        if list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError(f"{bounds=} must ascend")
        self._counts = [0] * (len(self.bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self._total += value

    def read(self) -> HistogramCounts:
        return HistogramCounts(self.bounds, tuple(self._counts), self._total)


def merged(histograms: Iterable[HistogramCounts]) -> HistogramCounts | None:
    """The sum of histograms of the same bounds; None of none."""
    found: HistogramCounts | None = None
    for one in histograms:
        found = one if found is None else found + one
    return found
