"""A token bucket: so many calls a second, and after a pause some more at once."""

from rcjax.errors import ResourceExhaustedError


class TokenBucket:
    """`per_s` calls a second on average, and no more than `burst` at once. Not for several threads at once."""

    def __init__(self, per_s: float, burst: int):
        self.per_s = per_s
        self.burst = burst
        self._tokens = float(burst)
        self._filled_s: float | None = None  # when `_tokens` was true; None before the first call

    def take(self, now_s: float) -> None:
        """Counts a call; `ResourceExhaustedError`, which says when the next one is due, where it is one too many."""
        if self._filled_s is not None:
            gained = max(now_s - self._filled_s, 0.0) * self.per_s
            self._tokens = min(self._tokens + gained, float(self.burst))
        self._filled_s = now_s
        if self._tokens < 1.0:
            raise ResourceExhaustedError(
                f"this caller may send {self.per_s:g} requests a second, and {self.burst} at once; retry later",
                retry_after_s=(1.0 - self._tokens) / self.per_s,
            )
        self._tokens -= 1.0
