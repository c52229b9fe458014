"""A limit to the lines that a log gets."""


class LineLimit:
    """Lets through so many lines a second, and counts the others. One thread uses it."""

    def __init__(self, max_per_s: int):
        self._max_per_s = max_per_s
        self._second = 0
        self._num_taken = 0
        self._num_untold = 0

    def take(self, now_s: float) -> int | None:
        """How many lines were held back since the last one, or None where this one is, too."""
        if int(now_s) != self._second:
            self._second, self._num_taken = int(now_s), 0
        if self._num_taken >= self._max_per_s:
            self._num_untold += 1
            return None
        self._num_taken += 1
        num_untold, self._num_untold = self._num_untold, 0
        return num_untold
