"""Calls that are under way: each is answered once, whoever comes first, and none is forgotten."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from rcjax.engine.request_id import current_request_id
from rcjax.engine.state import public
from rcjax.errors import DeadlineExceededError, RcjaxError, UnavailableError

logger = logging.getLogger(__name__)
Body = TypeVar("Body")


@dataclass(slots=True, eq=False)
class Call(Generic[Body]):
    """What a caller asked for, when, until when they wait, and the future through which they are told."""

    body: Body
    arrival_s: float
    deadline_s: float | None
    future: Future[Any] = field(default_factory=Future)
    request_id: str = field(default_factory=current_request_id)


class Calls(Generic[Body]):
    """The calls that are under way; any thread may use it.

    `clock` gives seconds; arrivals and deadlines are on it. `told` is called with each outcome that a caller is told,
    and the seconds since the call's arrival.
    """

    def __init__(self, clock: Callable[[], float], told: Callable[[Any, float], None] = lambda outcome, seconds: None):
        self._clock = clock
        self._told = told
        self._changed = threading.Condition(threading.Lock())  # guards all below
        self._open: set[Call[Body]] = set()
        self._refusal = ""

    def __len__(self) -> int:
        return len(self._open)

    def open(self, body: Body, arrival_s: float | None, deadline_s: float | None) -> Call[Body]:
        """A new call; `UnavailableError` once calls are refused."""
        call = Call(body, self._clock() if arrival_s is None else arrival_s, deadline_s)
        with self._changed:
            if self._refusal:
                raise UnavailableError(self._refusal)
            self._open.add(call)
        return call

    def withdraw(self, call: Call[Body]) -> None:
        """Forgets a call that is refused: nobody has heard of it."""
        with self._changed:
            self._open.discard(call)
            if not self._open:
                self._changed.notify_all()

    def is_wanted(self, call: Call[Body]) -> bool:
        """Whether its caller still waits; a call that nobody waits for is closed, one past its deadline is told so."""
        if call.future.cancelled():
            self.close(call, UnavailableError("the call was cancelled"))
            return False
        if call.deadline_s is not None and self._clock() >= call.deadline_s:
            self.close(call, DeadlineExceededError("the deadline passed while the call waited for the engine"))
            return False
        return call in self._open

    def close(self, call: Call[Body], outcome: Any) -> None:
        """Ends a call with a result, or with an exception for its caller; does nothing to one that has ended."""
        with self._changed:
            if call not in self._open:
                return
            self._open.discard(call)
            if not self._open:
                self._changed.notify_all()
        if not call.future.set_running_or_notify_cancel():
            return
        self._told(outcome, self._clock() - call.arrival_s)
        if isinstance(outcome, BaseException):
            call.future.set_exception(public(outcome, call.request_id))
        else:
            call.future.set_result(outcome)

    def refuse(self, why: str) -> None:
        """From now on `open` raises `UnavailableError(why)`; calls that are open go on."""
        with self._changed:
            self._refusal = self._refusal or why

    def wait(self, timeout_s: float) -> bool:
        """Waits until no call is open, but no longer than `timeout_s`; whether none is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._open, timeout_s)

    def close_all(self, error: RcjaxError) -> None:
        with self._changed:
            left = list(self._open)
        for call in left:
            self.close(call, error)
