"""The router: from a request to a plan, to a slice, to an answer. It runs no JAX: the slices' threads do the work."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from rcjax.cache.placement import Placement, RequestLog
from rcjax.errors import InvalidRequestError, UnavailableError
from rcjax.prompt import Owner
from rcjax.request import (
    EngineInfo,
    EngineStats,
    GeneratedPiece,
    GenerateRequest,
    GenerateResult,
    Rebalanced,
    RecommendRequest,
    RecommendResult,
    Write,
    WriteResult,
)
from rcjax.serving.admission import Admission
from rcjax.serving.admission_limits import AdmissionLimits
from rcjax.serving.attempts import LOST, STOPPED, Attempts, Body
from rcjax.serving.caller import ANONYMOUS, current_caller
from rcjax.serving.calls import Calls
from rcjax.serving.dispatch import Dispatcher
from rcjax.serving.engine import RestoreResult, SnapshotResult
from rcjax.serving.engine_report import EngineReport
from rcjax.serving.engine_stats import Totals, engine_stats
from rcjax.serving.fan_out import FanOut
from rcjax.serving.generations import Generation
from rcjax.serving.intake import Intake
from rcjax.serving.owners import Everywhere, ItemOwners, OwnerRule
from rcjax.serving.parts import Library, Planned, Planner, Snapshotting, Tiers, Worker
from rcjax.serving.places import Places
from rcjax.serving.residency import Residency
from rcjax.serving.scheduler import FreeMisses, MissCosts, Policy, Time
from rcjax.serving.versions import VersionKeeper
from rcjax.serving.write_log import WriteLog
from rcjax.serving.write_room import WriteRoom
from rcjax.serving.writer import Writer

logger = logging.getLogger(__name__)


class Router:
    """Implements `rcjax.serving.engine.Engine` over the workers of a mesh's slices.

    A planner thread plans a request, and once it is its caller's turn chooses its slice and hands it over; the slice's
    thread answers. What `limits` do not let in is refused at once (`admission`, `write_room`). An exception that is no
    `RcjaxError` is logged, and its caller gets a bare `RcjaxError`. `clock` gives seconds, and is the workers' clock.

    A worker that ends by an exception takes its slice along: what it had is tried on others, writes go on without it.
    Once no slice is left, `lost` gets the first of these exceptions, and every call raises `UnavailableError`.
    """

    def __init__(
        self,
        planner: Planner,
        workers: Sequence[Worker],
        library: Library,
        info: EngineInfo,
        *,
        limits: AdmissionLimits | None = None,
        planner_threads: int = 1,
        residency: Residency | None = None,
        policy: Policy | None = None,
        max_imbalance: float | None = None,
        owners: ItemOwners | None = None,
        costs: MissCosts | None = None,
        request_log: RequestLog | None = None,
        count_compilations: Callable[[], int] = lambda: 0,
        tiers: Tiers | None = None,
        write_log: WriteLog | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """`residency` is what the workers tell of their blocks. By default nothing is told of them, misses cost nothing
        that is known, the policy is `time`, every slice owns every item, and no log is kept, of requests or writes."""
        if planner_threads < 1 or not workers:
            raise ValueError(f"{planner_threads=} and the number of {workers=} must be at least 1")
        residency = Residency(len(workers)) if residency is None else residency  # one that is empty is false
        owners = owners or ItemOwners(Everywhere(len(workers)))
        if not residency.num_slices == owners.num_slices == len(workers):
            raise ValueError(
                f"{len(workers)} workers, residency of {residency.num_slices} and owners of {owners.num_slices} slices"
            )
        self.info = info
        self.planner = planner
        self.workers = tuple(workers)
        self.owners = owners
        self.request_log = request_log
        self.snapshots: Snapshotting | None = None
        self.lost: Future[None] = Future()
        self.lost.set_running_or_notify_cancel()  # so that a waiter who is cancelled does not cancel it for others
        self.library = library
        self._count_compilations = count_compilations
        self._tiers = tiers
        self._dispatcher = Dispatcher(residency, policy or Time(), clock, max_imbalance=max_imbalance)
        self._totals = Totals()
        self._calls: Calls[Body] = Calls(clock, self._totals.add)
        self.versions = VersionKeeper(library.versions, self.workers)
        costs = costs or FreeMisses()
        self._attempts = Attempts(self.workers, self._dispatcher, self._calls, self.versions, costs)
        alive = self._dispatcher.alive
        fan_out = FanOut(self.workers, costs, alive, self._attempts.lose)
        self._writer = Writer(
            planner,
            library,
            self.versions,
            owners,
            fan_out,
            alive=alive,
            forget_user=self.forget_user,
            clock=clock,
            log=write_log,
        )
        self.places = Places(self._dispatcher, self._attempts)
        limits = limits or AdmissionLimits()
        self.write_room = WriteRoom(limits.max_writes_s, costs)
        parts = (planner, self._attempts, self._calls, self._dispatcher, residency, costs, info, limits)
        self._intake = Intake(*parts, num_threads=planner_threads, log=self._log_request, clock=clock)
        self._clock = clock
        self._loss_lock = threading.Lock()
        self._losses: list[BaseException] = []

    def start(self) -> None:
        """Starts the workers and the planner's threads."""
        for index, worker in enumerate(self.workers):
            worker.lost.add_done_callback(partial(self._on_lost, index))
            worker.start()
        self._writer.start()
        self._intake.start()

    def stop(self, grace_s: float) -> None:
        """Refuses new calls, finishes what is there within `grace_s`, fails the rest as unavailable; blocks."""
        end_s = self._clock() + grace_s
        for calls in (self._calls, self._writer.calls):
            calls.refuse("the server is stopping")
        for calls in (self._calls, self._writer.calls):
            if not calls.wait(max(0.0, end_s - self._clock())):
                logger.warning("%d calls are not done after %.1f s of grace", len(calls), grace_s)
            calls.close_all(UnavailableError(STOPPED))
        self._intake.stop()
        self._writer.stop()
        if self.snapshots is not None:
            self.snapshots.stop()
        for worker in self.workers:
            worker.stop(max(0.0, end_s - self._clock()))

    async def recommend(
        self, request: RecommendRequest, *, arrival_s: float | None = None, deadline_s: float | None = None
    ) -> RecommendResult:
        """Ranks the candidates; cancelling the await drops the request before its next step."""
        caller = current_caller().name
        return await asyncio.wrap_future(self.submit(request, caller, arrival_s=arrival_s, deadline_s=deadline_s))

    async def generate(
        self, request: GenerateRequest, *, arrival_s: float | None = None, deadline_s: float | None = None
    ) -> AsyncGenerator[GeneratedPiece | GenerateResult, None]:
        """Pieces as they come, and the result; closing the generator ends the generation before its next token."""
        generation = Generation(request, self._clock)
        call = self._intake.submit(generation, current_caller().name, arrival_s, deadline_s)
        async with aclosing(generation.read(call.future, call.arrival_s, self.planner.decode)) as parts:
            async for part in parts:
                yield part

    async def apply(self, write: Write, *, deadline_s: float | None = None) -> WriteResult:
        """Applies a write for which there is room; requests that are sent after the answer see it."""
        caller = current_caller().name
        self.write_room.check(caller)
        future = self.submit_write(write, deadline_s=deadline_s)
        self.write_room.enter(write, caller, future)
        return await asyncio.wrap_future(future)

    async def stats(self) -> EngineStats:
        return self.current_stats()

    def submit(
        self,
        request: RecommendRequest,
        caller: str = ANONYMOUS.name,
        *,
        arrival_s: float | None = None,
        deadline_s: float | None = None,
    ) -> Future[RecommendResult]:
        """Lets a request wait to be planned, and returns at once; raises what it is refused with."""
        return self._intake.submit(request, caller, arrival_s, deadline_s).future

    def submit_planned(self, requests: Sequence[RecommendRequest]) -> list[Future[RecommendResult]]:
        """Plans all requests in the calling thread, then hands all over: they wait for each other, not in a queue."""
        return self._intake.submit_planned(requests)

    def submit_write(self, write: Write, *, deadline_s: float | None = None) -> Future[WriteResult]:
        """Applies a write of this process, whatever else is under way."""
        return self._writer.submit(write, deadline_s)

    def rebalance(self, placement: Placement | OwnerRule) -> Future[Rebalanced]:
        """Makes `placement` say which slices hold an item, while requests and writes go on.

        The slices of a placement are numbered anew, so that the fewest blocks have to be built; a rule is taken as it
        is. What an item's slices lack is built, then the owners are swapped, then slices drop what is not theirs any
        more. ValueError for a placement on another number of slices, `ResourceExhaustedError` while another rebalance
        is under way.
        """
        return self._writer.rebalance(placement)

    def after_writes(self) -> Future[None]:
        """Done once all writes have ended that are begun now; those that come meanwhile do not count."""
        ended: Future[None] = Future()
        self._writer.after_begun(lambda: ended.set_result(None))
        return ended

    async def rebalance_from(self, placement_file: Path) -> Rebalanced:
        """As `rebalance`, by the file that `rcjax place` wrote; `InvalidRequestError` where that is no such file."""
        with _refused("placement_file"):
            future = self.rebalance(await asyncio.to_thread(Placement.load, placement_file))
        return await asyncio.wrap_future(future)

    async def save_request_log(self, file: Path) -> int:
        """Writes the log for `rcjax place` and `rcjax train`, and returns its number of requests; `DiskError`.

        `InvalidRequestError` where no log is kept.
        """
        if self.request_log is None:
            raise InvalidRequestError("this engine keeps no log of requests; configure mesh.request_log")
        return await asyncio.to_thread(self.request_log.save, file)

    def _log_request(self, item_ids: Sequence[str], request: RecommendRequest) -> None:
        """Logs it where a log is kept. What is learnt from it is for the settings' catalogue: the default tenant's."""
        if self.request_log is not None and not request.tenant:
            user_id = request.user_id if request.history is None else ""  # another history was ranked
            self.request_log.append(item_ids, user_id, lambda: self.library.user("", user_id) is not None)

    def forget_user(self, owner: Owner) -> None:
        """Takes a user who was deleted out of the log of requests."""
        if self.request_log is not None and not owner.tenant:
            self.request_log.forget_user(owner.id)

    async def take_snapshot(self) -> SnapshotResult:
        """Takes a snapshot while requests and writes go on; `InvalidRequestError` where no place for it is set."""
        return await asyncio.to_thread(self._snapshots().take_one)

    async def restore_snapshot(self, number: int) -> RestoreResult:
        """Restores the newest snapshot (0), or the one of that number, into free pages, while requests go on."""
        return await asyncio.to_thread(self._snapshots().restore_one, number)

    def _snapshots(self) -> Snapshotting:
        if self.snapshots is None:
            raise InvalidRequestError("this engine has no place for snapshots; configure snapshot.where")
        return self.snapshots

    def drain(self, slice_index: int) -> None:
        """Sends no more requests to a slice; it finishes what it has, and keeps its blocks up to date."""
        with _refused("slice_index"):
            self._dispatcher.drain(slice_index)

    def undrain(self, slice_index: int) -> None:
        """Sends requests to a drained slice again; `InvalidRequestError` for a dead one."""
        with _refused("slice_index"):
            self._dispatcher.undrain(slice_index)

    @property
    def admission(self) -> Admission:
        """What lets requests in, and what it knows of those that wait."""
        return self._intake.admission

    @contextmanager
    def planned(self, request: RecommendRequest) -> Iterator[Planned]:
        """A request's plan, for the length of a `with`, in which what it names can be read as it was."""
        plan: Planned = self.planner.plan(request)
        try:
            yield plan
        finally:
            self.versions.end_read(plan.version)

    def expected_slice(self, plan: Planned) -> int:
        """The slice that a request of this plan would be given now."""
        return self._attempts.expected_slice(plan)

    def current_stats(self) -> EngineStats:
        return engine_stats(
            self.library, self.workers, self._dispatcher, self._totals, self._tiers, self._count_compilations()
        )

    def report(self) -> EngineReport:
        """What metrics are made of; any thread may call it, whatever the slices' threads do."""
        return EngineReport(
            info=self.info,
            stats=self.current_stats(),
            workers=tuple(worker.stats for worker in self.workers),
            times=self._totals.times(),
            rejected=dict(self.admission.rejected) | {"write": self.write_room.num_rejected},
            num_waiting=self.admission.num_waiting,
            backlog_s=self.admission.backlog_s,
            snapshots=None if self.snapshots is None else replace(self.snapshots.counters),
        )

    def _on_lost(self, index: int, lost: "Future[None]") -> None:
        error = None if lost.cancelled() else lost.exception()
        if error is None:
            return
        logger.error("slice %d is lost", index, exc_info=error)
        with self._loss_lock:
            self._losses.append(error)
            is_last = len(self._losses) == len(self.workers)
        if is_last:
            for calls in (self._calls, self._writer.calls):
                calls.refuse(LOST)
                calls.close_all(UnavailableError(LOST))
        self._attempts.lose(index)
        if is_last:
            self.lost.set_exception(self._losses[0])


@contextmanager
def _refused(field: str) -> Iterator[None]:
    """What a caller gets for a value that makes no sense."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InvalidRequestError(str(error), field=field) from error
