"""The drain rate: how far slices come in a second with work that was estimated in seconds."""

import math

MEMORY_S = 10.0  # what was measured so long ago counts e times less
TRUST_S = 1.0  # of measuring, as which the estimate's own word of 1 counts


class DrainRate:
    """Estimated seconds of work that a slice ends in a second, measured while more waits than the slices are given.

    1 where estimates are right. It tends to 1 again where nothing was measured lately, so that what was measured in a
    bad moment does not last. Not for several threads at once.
    """

    def __init__(self) -> None:
        self._done_s = 0.0
        self._busy_s = 0.0
        self._last_s: float | None = None

    def value(self, now_s: float) -> float:
        kept = 1.0 if self._last_s is None else self._kept(now_s)
        return (self._done_s * kept + TRUST_S) / (self._busy_s * kept + TRUST_S)

    def note(self, now_s: float, done_s: float, *, was_busy: bool) -> None:
        """So many estimated seconds of a slice's work have ended; `was_busy` since the last time that this was told."""
        if self._last_s is not None:
            kept = self._kept(now_s)
            self._done_s *= kept
            self._busy_s *= kept
            if was_busy:
                self._done_s += done_s
                self._busy_s += max(now_s - self._last_s, 0.0)
        self._last_s = now_s

    def _kept(self, now_s: float) -> float:
        assert self._last_s is not None
        return math.exp(-max(now_s - self._last_s, 0.0) / MEMORY_S)
