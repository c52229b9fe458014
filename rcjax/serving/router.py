"""The router: from a request to a plan, to a slice, to an answer. It runs no JAX: the slices' threads do the work."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from weakref import ref

from rcjax.errors import UnavailableError
from rcjax.request import (
    EngineInfo,
    EngineStats,
    RecommendRequest,
    RecommendResult,
    TokenCounts,
    Write,
    WriteResult,
)
from rcjax.serving.calls import Call, Calls, check_room
from rcjax.serving.parts import Library, Planned, Planner, Worker
from rcjax.serving.scheduler import LeastCompletionTime, Scheduler
from rcjax.serving.versions import VersionKeeper
from rcjax.serving.writer import Writer

logger = logging.getLogger(__name__)
STOPPED = "the server stopped before this call was done"


class Router:
    """Implements `rcjax.request.Engine` over the workers of a machine's slices.

    A planner thread plans a request, chooses its slice and hands it over; the slice's thread answers. `max_queue`
    requests may be under way, and as many writes; one more raises `ResourceExhaustedError`. An exception that is no
    `RcjaxError` is logged, and its caller gets a bare `RcjaxError`. `lost` gets the exception of the first worker that
    ends by one: from then on every call raises `UnavailableError`. `clock` gives seconds, and is the workers' clock.
    """

    def __init__(
        self,
        planner: Planner,
        workers: Sequence[Worker],
        library: Library,
        info: EngineInfo,
        *,
        max_queue: int,
        planner_threads: int = 1,
        scheduler: Scheduler | None = None,
        count_compilations: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.monotonic,
    ):
        if max_queue < 1 or planner_threads < 1 or not workers:
            raise ValueError(f"{max_queue=}, {planner_threads=} and the number of {workers=} must be at least 1")
        self.info = info
        self.max_queue = max_queue
        self.planner = planner
        self.workers = tuple(workers)
        self.lost: Future[None] = Future()
        self.lost.set_running_or_notify_cancel()  # so that a waiter who is cancelled does not cancel it for others
        self._library = library
        self._count_compilations = count_compilations
        self._scheduler = scheduler or LeastCompletionTime()
        self._totals = _Totals()
        self._calls: Calls[RecommendRequest] = Calls(clock, self._totals.add)
        self._versions = VersionKeeper(library.versions, self.workers)
        self._writer = Writer(planner, self.workers, library, self._versions, max_queue, clock)
        self._clock = clock
        self._to_plan: SimpleQueue[Call[RecommendRequest] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._plan_calls, name=f"rcjax-planner-{number}", daemon=True)
            for number in range(planner_threads)
        ]

    def start(self) -> None:
        """Starts the workers and the planner's threads."""
        for worker in self.workers:
            worker.lost.add_done_callback(self._on_lost)
            worker.start()
        self._writer.start()
        for thread in self._threads:
            thread.start()

    def stop(self, grace_s: float) -> None:
        """Refuses new calls, finishes what is there within `grace_s`, fails the rest as unavailable; blocks."""
        end_s = self._clock() + grace_s
        for calls in (self._calls, self._writer.calls):
            calls.refuse("the server is stopping")
        for calls in (self._calls, self._writer.calls):
            if not calls.wait(max(0.0, end_s - self._clock())):
                logger.warning("%d calls are not done after %.1f s of grace", len(calls), grace_s)
            calls.close_all(UnavailableError(STOPPED))
        for _ in self._threads:
            self._to_plan.put(None)
        self._writer.stop()
        for worker in self.workers:
            worker.stop(max(0.0, end_s - self._clock()))

    async def recommend(
        self, request: RecommendRequest, *, arrival_s: float | None = None, deadline_s: float | None = None
    ) -> RecommendResult:
        """Ranks the candidates; cancelling the await drops the request before its next step."""
        return await asyncio.wrap_future(self.submit(request, arrival_s=arrival_s, deadline_s=deadline_s))

    async def apply(self, write: Write, *, deadline_s: float | None = None) -> WriteResult:
        """Applies a write; requests that are sent after the answer see it."""
        return await asyncio.wrap_future(self.submit_write(write, deadline_s=deadline_s))

    async def stats(self) -> EngineStats:
        return self.current_stats()

    def submit(
        self, request: RecommendRequest, *, arrival_s: float | None = None, deadline_s: float | None = None
    ) -> Future[RecommendResult]:
        """Queues a request to be planned, and returns at once."""
        check_room(len(self._calls), self.max_queue)
        call = self._calls.open(request, arrival_s, deadline_s)
        self._to_plan.put(call)
        return call.future

    def submit_planned(self, requests: Sequence[RecommendRequest]) -> list[Future[RecommendResult]]:
        """Plans all requests in the calling thread, then hands all over: they wait for each other, not in a queue."""
        calls = [self._calls.open(request, None, None) for request in requests]
        plans = [self._plan(call) for call in calls]
        for call, plan in zip(calls, plans, strict=True):
            if plan is not None:
                self._hand_over(call, plan)
        return [call.future for call in calls]

    def submit_write(self, write: Write, *, deadline_s: float | None = None) -> Future[WriteResult]:
        return self._writer.submit(write, deadline_s)

    @contextmanager
    def planned(self, request: RecommendRequest) -> Iterator[Planned]:
        """A request's plan, for the length of a `with`, in which what it names can be read as it was."""
        plan: Planned = self.planner.plan(request)
        try:
            yield plan
        finally:
            self._versions.end_read(plan.version)

    def current_stats(self) -> EngineStats:
        slices = [worker.stats for worker in self.workers]
        num_requests, num_failed, tokens = self._totals.read()
        return EngineStats(
            num_items=self._library.num_items,
            num_users=self._library.num_users,
            num_requests=num_requests,
            num_failed=num_failed,
            num_compilations=self._count_compilations(),
            num_hits=sum(one.num_hits for one in slices),
            num_misses=sum(one.num_misses for one in slices),
            num_evictions=sum(one.num_evictions for one in slices),
            pages_total=sum(one.pages_total for one in slices),
            pages_used=sum(one.pages_used for one in slices),
            pool_bytes=sum(one.pool_bytes for one in slices),
            tokens=tokens,
        )

    def _plan_calls(self) -> None:
        while (call := self._to_plan.get()) is not None:
            plan = self._plan(call)
            if plan is not None:
                self._hand_over(call, plan)

    def _plan(self, call: Call[RecommendRequest]) -> Planned | None:
        """The plan of a call, or None where it is over: nobody waits for it, or it cannot be planned."""
        if not self._calls.is_wanted(call):
            return None
        try:
            plan: Planned = self.planner.plan(call.body)
        except Exception as error:
            self._calls.close(call, error)
            return None
        return plan

    def _hand_over(self, call: Call[RecommendRequest], plan: Planned) -> None:
        try:
            index = self._scheduler.choose(plan, [worker.load_s for worker in self.workers])
            future = self.workers[index].submit(plan, arrival_s=call.arrival_s, deadline_s=call.deadline_s)
        except Exception as error:
            self._versions.end_read(plan.version)
            self._calls.close(call, error)
            return
        future.add_done_callback(partial(self._on_answer, call, plan.version))
        call.future.add_done_callback(partial(_cancel, ref(future)))

    def _on_answer(self, call: Call[RecommendRequest], version: int, future: Future[RecommendResult]) -> None:
        self._versions.end_read(version)
        if future.cancelled():
            self._calls.close(call, UnavailableError(STOPPED))
        else:
            self._calls.close(call, future.exception() or future.result())

    def _on_lost(self, lost: "Future[None]") -> None:
        error = None if lost.cancelled() else lost.exception()
        if error is None:
            return
        logger.error("a slice is lost", exc_info=error)
        refusal = "the server has lost its engine and is going down"
        for calls in (self._calls, self._writer.calls):
            calls.refuse(refusal)
            calls.close_all(UnavailableError(refusal))
        if not self.lost.done():
            self.lost.set_exception(error)


def _cancel(slice_future: "ref[Future[RecommendResult]]", _: object) -> None:
    """Cancels the slice's part of a call that is over, if it is not over too.

    The reference is weak, as the two futures would else keep each other until the garbage collector comes.
    """
    future = slice_future()
    if future is not None:
        future.cancel()


class _Totals:
    """What was answered so far; any thread adds to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_requests = 0
        self._num_failed = 0
        self._tokens = TokenCounts()

    def add(self, outcome: RecommendResult | BaseException) -> None:
        with self._lock:
            self._num_requests += 1
            if isinstance(outcome, RecommendResult):
                self._tokens += outcome.tokens
            else:
                self._num_failed += 1

    def read(self) -> tuple[int, int, TokenCounts]:
        with self._lock:
            return self._num_requests, self._num_failed, self._tokens
