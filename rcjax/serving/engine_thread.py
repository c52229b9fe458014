"""The one thread that owns the engine: the event loop hands it work and awaits futures, and never runs JAX."""

import asyncio
import dataclasses
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from rcjax.errors import DeadlineExceededError, RcjaxError, ResourceExhaustedError, UnavailableError
from rcjax.request import Engine, EngineInfo, RecommendRequest, RecommendResult

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """A request to rank or a call to make, and the future through which its caller is told."""

    body: RecommendRequest | Callable[[Engine], Any]
    arrival_s: float
    deadline_s: float | None
    future: Future[Any] = dataclasses.field(default_factory=Future)


class EngineThread:
    """Runs calls in order of arrival, and requests that wait in a row as one batch.

    At most `max_queue` calls wait; one more raises `ResourceExhaustedError`. Work whose caller gave up
    (cancelled, deadline passed) is dropped before the engine sees it. Calls before the engine is there, or
    after `stop`, raise `UnavailableError`. An exception that is no `RcjaxError` is logged and becomes a bare
    `RcjaxError`. `clock` gives seconds; arrivals and deadlines are on it.
    """

    def __init__(self, factory: Callable[[], Engine], *, max_queue: int, max_batch: int, clock: Callable[[], float]):
        if max_queue < 1 or max_batch < 1:
            raise ValueError(f"{max_queue=} and {max_batch=} must be at least 1")
        self._factory = factory
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._clock = clock
        self._changed = threading.Condition()  # guards all below
        self._queue: deque[_Work] = deque()
        self._running: list[_Work] = []
        self._engine: Engine  # made, and used, by the thread only
        self._info: EngineInfo | None = None
        self._is_stopping = False
        # Both are running from the start, so that a waiter who is cancelled does not cancel them for others.
        self.ready: Future[EngineInfo] = Future()
        self.ready.set_running_or_notify_cancel()
        self._ended: Future[None] = Future()
        self._ended.set_running_or_notify_cancel()
        # A daemon, as a call that outlasts the grace period must not keep the process from exiting.
        self._thread = threading.Thread(target=self._run, name="rcjax-engine", daemon=True)

    def start(self) -> None:
        """Starts the thread, whose first act is to make the engine; `ready` tells how that went."""
        self._thread.start()

    async def stop(self, grace_s: float) -> None:
        """Refuses new work, finishes what is there within `grace_s`, and fails the rest as unavailable."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread.ident is None:  # never started
            return
        ended = asyncio.wrap_future(self._ended)
        await asyncio.wait([ended], timeout=grace_s)
        ended.cancel()  # else the thread would report to a loop that may be closed by then
        with self._changed:
            waiting, self._queue = self._queue, deque()
            for work in waiting:
                work.future.set_running_or_notify_cancel()
            for work in [*self._running, *waiting]:
                _tell(work, UnavailableError("the server stopped before this call was done"))
            if self._running:
                logger.warning("stopping while the engine is still busy after %.1f s of grace", grace_s)

    @property
    def info(self) -> EngineInfo:
        """What the engine serves; `UnavailableError` before it is there."""
        if self._info is None:
            raise UnavailableError("the server is starting; wait until its health is SERVING")
        return self._info

    @property
    def num_waiting(self) -> int:
        """Calls that wait for the engine and whose callers wait for them."""
        with self._changed:
            self._queue = deque(work for work in self._queue if not self._is_dead(work))
            return len(self._queue)

    async def recommend(
        self, request: RecommendRequest, *, arrival_s: float, deadline_s: float | None = None
    ) -> RecommendResult:
        """Ranks, and fills in `queue_ms` and `ttft_ms`, both counted from `arrival_s`."""
        work = _Work(request, arrival_s, deadline_s)
        self._check_room()
        result: RecommendResult = await self._submit(work)
        return result

    async def call(self, call: Callable[[Engine], T], *, deadline_s: float | None = None) -> T:
        """Runs `call` in its turn. Once it has started it runs to its end, even if the caller gives up."""
        work = _Work(call, self._clock(), deadline_s)
        self._check_room()
        result: T = await self._submit(work)
        return result

    async def inspect(self, call: Callable[[Engine], T], *, deadline_s: float | None = None) -> T:
        """Runs a call that only looks, before all that wait and even if the queue is full."""
        result: T = await self._submit(_Work(call, self._clock(), deadline_s), is_first=True)
        return result

    def _check_room(self) -> None:
        if self.num_waiting >= self._max_queue:
            raise ResourceExhaustedError(f"{self._max_queue} calls wait already, which is the limit; retry later")

    def _submit(self, work: _Work, *, is_first: bool = False) -> asyncio.Future[Any]:
        with self._changed:
            _ = self.info
            if self._is_stopping:
                raise UnavailableError("the server is stopping")
            if is_first:
                self._queue.appendleft(work)
            else:
                self._queue.append(work)
            self._changed.notify()
        return asyncio.wrap_future(work.future)

    def _is_dead(self, work: _Work) -> bool:
        """Whether nobody waits for it any more; a caller whose deadline has passed is told so."""
        if work.deadline_s is None or self._clock() < work.deadline_s:
            return work.future.cancelled()
        if work.future.set_running_or_notify_cancel():
            _tell(work, DeadlineExceededError("the deadline passed while the call waited for the engine"))
        return True

    def _run(self) -> None:
        try:
            self._engine = self._factory()
            self._info = self._engine.info()
        except BaseException as error:  # whatever it is, those who wait for the engine must hear of it
            self.ready.set_exception(error)
        else:
            self.ready.set_result(self._info)
            while batch := self._take():
                self._handle(batch)
        self._ended.set_result(None)

    def _take(self) -> list[_Work]:
        """Waits for a call, or up to `max_batch` requests with no call between them; empty means stop."""
        with self._changed:
            batch: list[_Work] = []
            while not batch and not (self._is_stopping and not self._queue):
                self._changed.wait_for(lambda: self._queue or self._is_stopping)
                while self._queue and _can_join(self._queue[0], batch, self._max_batch):
                    work = self._queue.popleft()
                    if not self._is_dead(work) and work.future.set_running_or_notify_cancel():
                        batch.append(work)
            self._running = batch
            return batch

    def _handle(self, batch: Sequence[_Work]) -> None:
        start_s = self._clock()
        outcomes = self._outcomes([work.body for work in batch])
        end_s = self._clock()
        with self._changed:
            self._running = []
            for work, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, RecommendResult):
                    outcome = _timed(outcome, (start_s - work.arrival_s) * 1e3, (end_s - work.arrival_s) * 1e3)
                _tell(work, outcome)

    def _outcomes(self, bodies: Sequence[Any]) -> Sequence[Any]:
        """What each call returned, or the error to answer it with; a request that breaks a batch breaks alone."""
        try:
            if not isinstance(bodies[0], RecommendRequest):
                return [bodies[0](self._engine)]
            outcomes = self._engine.recommend(bodies)
            if len(outcomes) != len(bodies):
                raise RuntimeError(f"the engine gave {len(outcomes)} results for {len(bodies)} requests")
            return outcomes
        except Exception as error:
            if len(bodies) == 1:
                return [_public(error)]
            logger.exception("the engine failed on a batch of %d requests; running each alone", len(bodies))
        return [outcome for body in bodies for outcome in self._outcomes([body])]


def _can_join(work: _Work, batch: Sequence[_Work], max_batch: int) -> bool:
    if not batch:
        return True
    is_request = isinstance(work.body, RecommendRequest)
    return is_request and isinstance(batch[0].body, RecommendRequest) and len(batch) < max_batch


def _public(error: Exception) -> RcjaxError:
    """What a caller may know of `error`; what they may not is logged."""
    if isinstance(error, RcjaxError):
        return error
    logger.error("the engine failed on a call", exc_info=error)
    return RcjaxError("internal error; the server's log has the details")


def _timed(result: RecommendResult, queue_ms: float, ttft_ms: float) -> RecommendResult:
    times = dataclasses.replace(result.times, queue_ms=queue_ms, ttft_ms=ttft_ms)
    return dataclasses.replace(result, times=times)


def _tell(work: _Work, outcome: Any) -> None:
    if work.future.done():  # told already, when the grace period ended
        return
    if isinstance(outcome, Exception):
        work.future.set_exception(outcome)
    else:
        work.future.set_result(outcome)
