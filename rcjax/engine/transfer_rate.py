"""What moving pages takes: seconds to begin with, and seconds a page, learnt from what was moved."""

import threading

_KEPT = 0.9  # of the weight of earlier transfers, with each new one
_ASSUMED_WEIGHT = 0.01  # of the two that are assumed, beside 1 for each that was seen
_ASSUMED_PAGES = (1, 16)
_FADE = 0.98  # of an estimate that was too dear to be used


class TransferRate:
    """A line through the transfers seen, the newest weighing most: least squares, neither part below zero.

    It starts as the line of `begin_s` and `page_s`, which the first transfers that are seen outweigh. Any thread may
    call it, as slices share what they learn.
    """

    def __init__(self, begin_s: float, page_s: float):
        self._lock = threading.Lock()
        # Weighted sums, over transfers of n pages that took t seconds, of 1, n, n n, t and n t.
        self._weight = self._n = self._nn = self._t = self._nt = 0.0
        for num_pages in _ASSUMED_PAGES:
            self._add(num_pages, begin_s + page_s * num_pages, _ASSUMED_WEIGHT)

    def seconds(self, num_pages: int) -> float:
        """For so many pages in one go."""
        with self._lock:
            begin_s, page_s = self._line()
        return begin_s + page_s * num_pages

    def observe(self, num_pages: int, seconds: float) -> None:
        """Learns from a transfer; nothing from one of no pages."""
        if not num_pages:
            return
        with self._lock:
            self._weight *= _KEPT
            self._n *= _KEPT
            self._nn *= _KEPT
            self._t *= _KEPT
            self._nt *= _KEPT
            self._add(num_pages, seconds, 1.0)

    def fade(self) -> None:
        """Lowers the estimate a little."""
        with self._lock:
            self._t *= _FADE
            self._nt *= _FADE

    def _add(self, num_pages: int, seconds: float, weight: float) -> None:
        self._weight += weight
        self._n += weight * num_pages
        self._nn += weight * num_pages**2
        self._t += weight * seconds
        self._nt += weight * num_pages * seconds

    def _line(self) -> tuple[float, float]:
        spread = self._weight * self._nn - self._n**2
        if spread <= 1e-6 * self._weight * self._nn:  # transfers of one size do not tell the parts from each other
            return 0.0, self._nt / self._nn
        page_s = (self._weight * self._nt - self._n * self._t) / spread
        if page_s < 0:
            return self._t / self._weight, 0.0
        begin_s = (self._t - page_s * self._n) / self._weight
        return (begin_s, page_s) if begin_s >= 0 else (0.0, self._nt / self._nn)
