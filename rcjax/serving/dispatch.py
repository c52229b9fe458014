"""The dispatcher: which slice serves a request, what is under way where, and what follows when a slice dies.

It has no threads and no JAX, and its clock is an argument: a router and a simulator drive the same one.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rcjax.errors import UnavailableError
from rcjax.serving.residency import Residency
from rcjax.serving.scheduler import MeshScheduler, Policy, Wants
from rcjax.serving.slice_loads import SliceLoads, SliceState

MAX_RETRIES = 2


@dataclass(slots=True, eq=False)
class Dispatch:
    """A request that a slice has; only the dispatcher changes it. `body` is its caller's, who sends it."""

    wants: Wants
    pass_s: float
    body: Any
    index: int = -1  # the slice that has it
    work_s: float = 0.0  # what it adds to that slice's load
    num_retries: int = 0


@dataclass(slots=True)
class _SliceBook:
    """What the dispatcher gave a slice. The one that it got first is taken to run, the others to wait behind it."""

    under_way: dict[Dispatch, None] = field(default_factory=dict)
    queued_s: float = 0.0
    free_at_s: float = 0.0  # when what runs is expected to be done
    num_requests: int = 0
    given_s: float = 0.0


@dataclass(frozen=True, slots=True)
class SliceWork:
    """What a slice has of the dispatcher: now, and since start-up."""

    state: SliceState
    queue_s: float
    num_under_way: int
    num_requests: int
    given_s: float


class Dispatcher:
    """Gives each request to a slice that `policy` chooses, and keeps the slices' loads by what it gave them.

    A slice that dies loses what it had, and one that stalls is relieved of it: each request may be given to another,
    `MAX_RETRIES` times. Any thread may call it; `clock` gives seconds.
    """

    def __init__(
        self,
        residency: Residency,
        policy: Policy,
        clock: Callable[[], float],
        *,
        max_imbalance: float | None = None,
    ):
        self.num_slices = residency.num_slices
        self.policy = policy
        self._residency = residency
        self._clock = clock
        self._loads = SliceLoads(residency.num_slices)
        self._scheduler = MeshScheduler(policy, residency, self._loads, max_imbalance=max_imbalance)
        self._lock = threading.Lock()  # of all below
        self._books = [_SliceBook() for _ in range(residency.num_slices)]
        self._states = [SliceState.OPEN] * residency.num_slices
        self._num_decisions = 0
        self._num_retries = 0

    def dispatch(self, wants: Wants, pass_s: float, body: Any = None) -> Dispatch:
        """Chooses a slice for a request whose own pass takes `pass_s`; UnavailableError where none takes any."""
        dispatch = Dispatch(wants, pass_s, body)
        with self._lock:
            self._give(dispatch)
        return dispatch

    def preview(self, wants: Wants, pass_s: float) -> int:
        """The slice that `dispatch` would choose now; nothing is given to it."""
        with self._lock:
            return self._scheduler.preview(wants, pass_s, self._clock()).index

    def retry(self, dispatch: Dispatch) -> None:
        """Chooses another slice for a request that its own did not answer; UnavailableError after `MAX_RETRIES`."""
        with self._lock:
            if dispatch.num_retries == MAX_RETRIES:
                raise UnavailableError(f"{MAX_RETRIES + 1} slices died or stalled with this request; retry it")
            self._give(dispatch)
            dispatch.num_retries += 1
            self._num_retries += 1

    def end(self, dispatch: Dispatch, index: int) -> bool:
        """Ends what the slice `index` had; False where it has it no longer, so that its answer counts for nothing."""
        with self._lock:
            book = self._books[index]
            if dispatch not in book.under_way:
                return False
            now_s = self._clock()
            is_first = next(iter(book.under_way)) is dispatch
            del book.under_way[dispatch]
            if not book.under_way:
                book.queued_s, book.free_at_s = 0.0, now_s  # without what rounding left
            elif is_first:
                following = next(iter(book.under_way))
                book.queued_s -= following.work_s
                book.free_at_s = now_s + following.work_s
            else:
                book.queued_s -= dispatch.work_s
            self._report(index, now_s)
        return True

    def lose(self, index: int) -> tuple[Dispatch, ...]:
        """Takes the slice `index` for dead; what it had, for the caller to retry, oldest first. Nothing if it was."""
        return self._part(index, SliceState.DEAD)

    def vacate(self, index: int) -> tuple[Dispatch, ...]:
        """As `lose`, for a worker that is gone as it was told to be: nothing is the matter with the place."""
        return self._part(index, SliceState.ABSENT)

    def occupy(self, index: int) -> None:
        """Gives requests to a new worker in the place `index`, which holds nothing yet; nothing if one is there."""
        with self._lock:
            if not self._states[index].is_alive:
                self._set_state(index, SliceState.OPEN)

    def stall(self, index: int) -> tuple[Dispatch, ...]:
        """Gives the slice `index` no more requests until `resume`; what it had, for the caller to retry elsewhere.

        Nothing where no other slice is open: its answers, late as they may be, are the only ones.
        """
        with self._lock:
            others = [other for other, state in enumerate(self._states) if other != index and state is SliceState.OPEN]
            if not others or not self._states[index].is_alive:
                return ()
            if self._states[index] is SliceState.OPEN:  # one that drains goes on draining
                self._set_state(index, SliceState.STALLED)
            return self._relieve(index)

    def resume(self, index: int) -> None:
        """Gives a stalled slice requests again; nothing for any other."""
        with self._lock:
            if self._states[index] is SliceState.STALLED:
                self._set_state(index, SliceState.OPEN)

    def _part(self, index: int, state: SliceState) -> tuple[Dispatch, ...]:
        with self._lock:
            if not self._states[index].is_alive:
                return ()
            self._set_state(index, state)
            lost = self._relieve(index)
        self._residency.forget(index)
        return lost

    def _relieve(self, index: int) -> tuple[Dispatch, ...]:
        book = self._books[index]
        given = tuple(book.under_way)
        book.under_way.clear()
        book.queued_s, book.free_at_s = 0.0, self._clock()
        self._report(index, book.free_at_s)
        return given

    def drain(self, index: int) -> None:
        """Gives the slice `index` no more requests; it finishes what it has. ValueError for a dead one."""
        self._change_state(index, SliceState.DRAINING)

    def undrain(self, index: int) -> None:
        """Gives a drained slice requests again; ValueError for a dead one."""
        self._change_state(index, SliceState.OPEN)

    def alive(self) -> tuple[int, ...]:
        """The slices that have a living worker, ascending; those that drain or stall among them."""
        return tuple(index for index, state in enumerate(self._states) if state.is_alive)

    def work(self) -> tuple[SliceWork, ...]:
        """Of each slice."""
        waiting_s = self._loads.waiting_s(self._clock())
        with self._lock:
            return tuple(
                SliceWork(state, float(queue_s), len(book.under_way), book.num_requests, book.given_s)
                for state, queue_s, book in zip(self._states, waiting_s, self._books, strict=True)
            )

    @property
    def num_open(self) -> int:
        """Slices that are given requests."""
        return self._states.count(SliceState.OPEN)

    @property
    def num_decisions(self) -> int:
        """Choices of a slice so far, those of retries among them."""
        return self._num_decisions

    @property
    def num_retries(self) -> int:
        return self._num_retries

    def _give(self, dispatch: Dispatch) -> None:
        now_s = self._clock()
        choice = self._scheduler.choose(dispatch.wants, dispatch.pass_s, now_s)
        self._num_decisions += 1
        dispatch.index, dispatch.work_s = choice.index, dispatch.pass_s + choice.miss_s
        book = self._books[choice.index]
        if book.under_way:
            book.queued_s += dispatch.work_s
        else:
            book.free_at_s = now_s + dispatch.work_s
        book.under_way[dispatch] = None
        book.num_requests += 1
        book.given_s += dispatch.work_s
        self._report(choice.index, now_s)

    def _report(self, index: int, now_s: float) -> None:
        book = self._books[index]
        self._loads.report(index, max(book.queued_s, 0.0), max(book.free_at_s - now_s, 0.0), now_s)

    def _change_state(self, index: int, state: SliceState) -> None:
        with self._lock:
            if 0 <= index < self.num_slices and not self._states[index].is_alive:
                raise ValueError(
                    f"slice {index} is {self._states[index]}: it neither drains nor takes requests; restart the server"
                )
            self._set_state(index, state)

    def _set_state(self, index: int, state: SliceState) -> None:
        self._loads.set_state(index, state)  # which refuses a slice that there is not
        self._states[index] = state
