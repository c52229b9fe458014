"""When a client asks again, and after which pause; the pause itself is up to the client."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rcjax.errors import RcjaxError, ResourceExhaustedError, UnavailableError


@dataclass(frozen=True)
class RetryPolicy:
    """How often a call is tried, and how long a client waits between two tries.

    Tried again is what may succeed later: RESOURCE_EXHAUSTED that says when (what gRPC itself answers so, as for a
    message that is too large, does not), and UNAVAILABLE. Before try n + 1 a client waits what the server asked for,
    and on top of that anything up to `first_pause_s` * 2^(n - 1) or what the server asked for, whichever is more: so
    nobody comes too early, and callers who were refused together do not come back together ("full jitter"). No pause
    goes past the deadline of the call: a call that would is failed at once.

    Example:

        >>> with RecommenderClient(target, retry=RetryPolicy(max_tries=2, first_pause_s=0.05)) as client:
        ...     result = client.recommend(request)
    """

    max_tries: int = 4
    first_pause_s: float = 0.1
    max_pause_s: float = 10.0  # of what is drawn; what the server asks for is kept to
    rng: random.Random = field(default_factory=random.Random, repr=False, compare=False)
    clock: Callable[[], float] = field(default=time.monotonic, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.max_tries < 1 or self.first_pause_s < 0 or self.max_pause_s < 0:
            raise ValueError(
                f"max_tries={self.max_tries} must be at least 1, first_pause_s={self.first_pause_s} and "
                f"max_pause_s={self.max_pause_s} at least 0"
            )

    def begin(self, timeout_s: float) -> "Tries":
        """The tries of one call that has `timeout_s` from now."""
        return Tries(self, self.clock() + timeout_s)


NO_RETRIES = RetryPolicy(max_tries=1)


class Tries:
    """The tries of one call, of which the first is under way."""

    def __init__(self, policy: RetryPolicy, deadline_s: float):
        self._policy = policy
        self._deadline_s = deadline_s
        self._num_tries = 1

    def remaining_s(self) -> float:
        """What is left for this try, at least 0."""
        return max(0.0, self._deadline_s - self._policy.clock())

    def next_pause_s(self, error: RcjaxError) -> float | None:
        """Seconds to wait before the next try, None where there is to be none."""
        policy = self._policy
        if self._num_tries >= policy.max_tries:
            return None
        if isinstance(error, ResourceExhaustedError) and error.retry_after_s is not None:
            asked_s = error.retry_after_s
        elif isinstance(error, UnavailableError):
            asked_s = 0.0
        else:
            return None
        drawn_s = min(policy.max_pause_s, max(asked_s, policy.first_pause_s * 2 ** (self._num_tries - 1)))
        pause_s = asked_s + policy.rng.uniform(0.0, drawn_s)
        if pause_s >= self.remaining_s():
            return None
        self._num_tries += 1
        return pause_s
