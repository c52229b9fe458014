"""What admission goes by: how long requests may wait, and what each caller may ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rcjax.errors import PermissionDeniedError
from rcjax.serving.token_bucket import TokenBucket


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """What one caller may ask for; None: all arms, as many requests as there is room for."""

    arms: tuple[str, ...] | None = None
    requests_per_s: float | None = None
    burst: int = 20

    def check_arm(self, caller: str, arm: str) -> None:
        """`PermissionDeniedError` where the caller may not use an arm."""
        if self.arms is not None and arm not in self.arms:
            theirs = ", ".join(self.arms) or "none"
            message = f"caller {caller!r} may not use arm {arm!r}; it may use: {theirs}"
            raise PermissionDeniedError(message, field="arm")

    def bucket(self) -> TokenBucket | None:
        return None if self.requests_per_s is None else TokenBucket(self.requests_per_s, self.burst)


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """As `rcjax.config.AdmissionSettings` says."""

    max_queue_s: float = 10.0
    max_writes_s: float = 600.0
    default_deadline_s: float = 30.0
    default_caller: CallerLimits = CallerLimits()
    callers: Mapping[str, CallerLimits] = field(default_factory=dict)

    def of(self, caller: str) -> CallerLimits:
        return self.callers.get(caller, self.default_caller)
