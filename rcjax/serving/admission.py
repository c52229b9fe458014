"""Admission: which requests may wait, in which order those that do are served, and how much a slice is given ahead.

A request goes TO_PLAN -> PLANNING -> TO_RUN -> RUNNING and is forgotten when its call is over, wherever it is then. The
first and the third are fair queues over callers. No threads, no JAX, and its clock is an argument.
"""

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from rcjax.errors import DeadlineExceededError, RcjaxError, ResourceExhaustedError
from rcjax.serving.admission_limits import AdmissionLimits
from rcjax.serving.calls import Call
from rcjax.serving.drain_rate import DrainRate
from rcjax.serving.fair_queue import FairQueue
from rcjax.serving.token_bucket import TokenBucket

PASSES_AHEAD = 2  # one that runs, and one that is made ready behind it
_NEW_SHARE = 0.1  # of a mean that the newest observation makes
_MAX_BUCKETS = 10_000  # of callers who are not named in the settings; the oldest is forgotten, and begins anew


class Stage(Enum):
    TO_PLAN = auto()
    PLANNING = auto()
    TO_RUN = auto()
    RUNNING = auto()


@dataclass(frozen=True, slots=True)
class Work:
    """Estimated seconds of a slice: what a request takes of it, and what the fullest pass takes that it may share."""

    seconds: float
    full_pass_s: float


@dataclass(slots=True, eq=False)
class Ticket:
    """A request that was let in; only the admission changes it."""

    call: Call[Any]
    caller: str
    work: Work
    stage: Stage = Stage.TO_PLAN
    plan: Any = None


class Admission:
    """Lets requests in by the seconds that they are expected to wait; any thread may use it.

    What a request waits for is what runs, and what its own caller and, in turn, the others have waiting: a caller who
    floods is refused alone. A request that finds nothing before it is let in whatever the estimates say, as they could
    never be put right else. `num_open` says how many slices take requests. `left` gets the ticket of a call that ended,
    cancelled for example, while it waited in a queue; `rejected` counts what was refused, by reason.
    """

    def __init__(
        self,
        limits: AdmissionLimits,
        clock: Callable[[], float],
        *,
        num_open: Callable[[], int],
        num_planners: int,
        left: Callable[[Ticket], None],
    ):
        self.limits = limits
        self.rejected = Counter(dict.fromkeys(("arm", "rate", "queue", "deadline"), 0))
        self._clock = clock
        self._num_open = num_open
        self._num_planners = num_planners
        self._left = left
        self._lock = threading.Lock()  # of all below, and of `rejected`
        self._tickets: dict[Future[Any], Ticket] = {}
        self._to_plan: FairQueue[Ticket] = FairQueue()
        self._to_run: FairQueue[Ticket] = FairQueue()
        self._num_running = 0
        self._running_s = 0.0
        self._rate = DrainRate()
        self._mean_plan_s = 0.0
        self._mean_s: dict[str, float] = {}  # a request's seconds, by arm; arms that a planner knows
        self._buckets: dict[str, TokenBucket] = {}

    def __len__(self) -> int:
        """Requests that were let in and are not over."""
        return len(self._tickets)

    @property
    def num_waiting(self) -> int:
        """Of these, those that wait in a queue of the admission."""
        return len(self._to_plan) + len(self._to_run)

    @property
    def has_waiting_plans(self) -> bool:
        return len(self._to_run) > 0

    def wait_s(self, caller: str) -> float:
        """Seconds that a request of the caller's which came now would wait for a slice."""
        with self._lock:
            return self._wait_s(caller, self._clock())

    @property
    def backlog_s(self) -> float:
        """Seconds until the slices that take requests have done all that was let in."""
        with self._lock:
            left_s = self._running_s + self._to_run.queued_s + self._to_plan.queued_s
            return left_s / (max(self._num_open(), 1) * self._rate.value(self._clock()))

    def check(self, caller: str, arm: str, deadline_s: float | None) -> None:
        """Raises what a request is refused with: `PermissionDeniedError`, `ResourceExhaustedError`, which says when to
        retry, or `DeadlineExceededError`. To be called once for each request, as it takes of the caller's rate.
        """
        with self._lock:
            now_s, reason = self._clock(), "arm"
            try:
                self.limits.of(caller).check_arm(caller, arm)
                reason = "rate"
                bucket = self._bucket(caller)
                if bucket is not None:
                    bucket.take(now_s)
                reason, wait_s = "queue", self._wait_s(caller, now_s)
                self._check_wait(wait_s)
                reason = "deadline"
                _check_deadline(wait_s, self._mean_s.get(arm, 0.0), deadline_s, now_s)
            except RcjaxError:
                self.rejected[reason] += 1
                raise

    def enter(self, call: Call[Any], caller: str, arm: str) -> None:
        """Lets a call wait to be planned."""
        with self._lock:
            # Until it is planned it counts as one of its arm, with the planner's time as if that were a slice's.
            planning_s = self._mean_plan_s * max(self._num_open(), 1) / self._num_planners
            seconds = self._mean_s.get(arm, 0.0) + planning_s
            ticket = Ticket(call, caller, Work(seconds, 0.0))
            self._tickets[call.future] = ticket
            self._to_plan.push(caller, ticket, seconds)
        call.future.add_done_callback(self._on_done)

    def next_to_plan(self) -> Call[Any] | None:
        """The call whose turn it is; None where none waits."""
        with self._lock:
            if not len(self._to_plan):
                return None
            ticket = self._to_plan.pop()
            ticket.stage = Stage.PLANNING
            return ticket.call

    def planned(self, call: Call[Any], plan: Any, arm: str, work: Work, plan_s: float) -> bool:
        """Lets a call wait for a slice, with its plan, which took `plan_s`; False where the call is over by now.

        `ResourceExhaustedError` where its deadline would pass before, now that all is known of it.
        """
        with self._lock:
            self._mean_plan_s += _NEW_SHARE * (plan_s - self._mean_plan_s)
            mean_s = self._mean_s.get(arm, work.seconds)
            self._mean_s[arm] = mean_s + _NEW_SHARE * (work.seconds - mean_s)
            ticket = self._tickets.get(call.future)
            if ticket is None:
                return False
            now_s = self._clock()
            try:
                _check_deadline(self._wait_s(ticket.caller, now_s), plan.cost_s, call.deadline_s, now_s)
            except RcjaxError:
                self.rejected["deadline"] += 1
                raise
            ticket.stage, ticket.plan, ticket.work = Stage.TO_RUN, plan, work
            self._to_run.push(ticket.caller, ticket, work.seconds)
        return True

    def next_to_run(self) -> Ticket | None:
        """The request whose turn it is, for a slice to have it; None where none waits, or slices have enough ahead."""
        with self._lock:
            first = self._to_run.first()
            if first is None or not self._has_room(first[0]):
                return None
            ticket = self._to_run.pop()
            ticket.stage = Stage.RUNNING
            self._num_running += 1
            self._running_s += ticket.work.seconds
            return ticket

    def _on_done(self, future: Future[Any]) -> None:
        with self._lock:
            ticket = self._tickets.pop(future)
            if ticket.stage is Stage.RUNNING:
                self._end(ticket, is_done=not future.cancelled() and future.exception() is None)
            elif ticket.stage is Stage.TO_PLAN:
                self._to_plan.remove(ticket.caller, ticket)
            elif ticket.stage is Stage.TO_RUN:
                self._to_run.remove(ticket.caller, ticket)
        self._left(ticket)

    def _end(self, ticket: Ticket, *, is_done: bool) -> None:
        self._num_running -= 1
        self._running_s = self._running_s - ticket.work.seconds if self._num_running else 0.0  # without rounding
        done_s = ticket.work.seconds / max(self._num_open(), 1) if is_done else 0.0
        self._rate.note(self._clock(), done_s, was_busy=len(self._to_run) > 0)

    def _has_room(self, ticket: Ticket) -> bool:
        """Whether slices have less ahead than two passes like the one that this request is for."""
        num_open = max(self._num_open(), 1)
        own_s = max(ticket.work.seconds, ticket.work.full_pass_s)
        return self._num_running < num_open or self._running_s < PASSES_AHEAD * own_s * num_open

    def _wait_s(self, caller: str, now_s: float) -> float:
        if not self._tickets:
            return 0.0
        ahead_s = self._running_s + self._to_run.ahead_s(caller) + self._to_plan.ahead_s(caller)
        return ahead_s / (max(self._num_open(), 1) * self._rate.value(now_s))

    def _check_wait(self, wait_s: float) -> None:
        limit_s = self.limits.max_queue_s
        if wait_s > limit_s:
            raise ResourceExhaustedError(
                f"what waits before this request takes {wait_s:.3g} s, over the limit of {limit_s:g} s; retry later",
                retry_after_s=wait_s - limit_s / 2,  # when half of the queue is free
            )

    def _bucket(self, caller: str) -> TokenBucket | None:
        bucket = self._buckets.get(caller)
        if bucket is None:
            bucket = self.limits.of(caller).bucket()
            if bucket is None:
                return None
            if len(self._buckets) >= _MAX_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
            self._buckets[caller] = bucket
        return bucket


def _check_deadline(wait_s: float, own_s: float, deadline_s: float | None, now_s: float) -> None:
    """Refuses what would end after its deadline because of what waits before it."""
    if deadline_s is None or wait_s <= 0:
        return
    if deadline_s <= now_s:
        raise DeadlineExceededError("the deadline has passed")
    late_s = now_s + wait_s + own_s - deadline_s
    if late_s > 0:
        raise ResourceExhaustedError(
            f"the deadline is in {deadline_s - now_s:.3g} s; what waits before this request takes {wait_s:.3g} s, the "
            f"request {own_s:.3g} s; retry later, or with more time",
            retry_after_s=late_s,
        )
