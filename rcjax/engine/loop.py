"""The loop of one slice: which step comes next, one pass at a time.

A request goes PLANNED -> BUILDING -> READY -> RUNNING -> DONE. Requests whose blocks are all pinned share passes as the
batch former says; blocks that miss, of whomever, share build passes, or are fetched, which is no pass and delays none;
everything else is a task (`rcjax.engine.tasks`).
While a pass runs on the device the loop grants claims and prepares rows, and the pass after it is started before the
answers of the one that ended are read out.
"""

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from rcjax.cache import IntegrityError
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.claim import Claim
from rcjax.engine.completion import Flight
from rcjax.engine.executor import ExecutorLostError, Pending
from rcjax.engine.fetch import Fetch
from rcjax.engine.pass_tally import PassTally
from rcjax.engine.ranker import Ranker
from rcjax.engine.requests import Requests
from rcjax.engine.semantic_history import SemanticHistories
from rcjax.engine.state import RequestState
from rcjax.engine.tasks import Task
from rcjax.errors import RcjaxError

logger = logging.getLogger(__name__)

BACKGROUND_SHARE = 0.2  # of the time for writes, while requests wait


class SliceLoop:
    """The steps of one slice, on one thread. `fly` is handed each pass that was started; `land` takes it back."""

    def __init__(
        self,
        cache: BlockCache,
        ranker: Ranker,
        semantic: SemanticHistories | None,
        fly: Callable[[Flight], None],
        clock: Callable[[], float],
    ):
        self.cache = cache
        self.passes = PassTally()
        self.tokens = ranker.tokens
        self._ranker = ranker
        self._fly = fly
        self._clock = clock
        self._requests = Requests(cache, semantic, ranker.shapes, clock)
        self._turns: deque[Task] = deque()  # tasks that wait for a turn
        self._claiming: deque[tuple[Task, Claim]] = deque()  # tasks whose claim is not granted yet
        self._waiting: list[tuple[Task, Claim]] = []  # tasks whose claim is granted, and being built or just there
        self._num_flights = 0
        self._landed_s = 0.0
        self._background_s = 0.0  # seconds that writes may take before requests go first again
        self._gave_way = False  # the last turn of a task led to no pass
        self._kinds = deque(["rank", "build", "turn"])  # who is asked first for the next pass, in turn
        self._claimants = deque(["requests", "tasks"])  # who is asked first for the next claim, in turn

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way and nothing waits."""
        return not (
            self._num_flights
            or len(self._requests)
            or self._turns
            or self._claiming
            or self._waiting
            or self.cache.has_builds
            or self.cache.is_fetching
        )

    @property
    def has_flights(self) -> bool:
        """Whether passes or fetches are under way."""
        return self._num_flights > 0 or self.cache.is_fetching

    @property
    def live_versions(self) -> list[int]:
        """Of the requests and writes that could still commit a block."""
        claims = [claim for _, claim in (*self._claiming, *self._waiting)]
        return [*self._requests.live_versions, *(claim.version for claim in claims), *self.cache.building_versions]

    def add_request(self, state: RequestState) -> None:
        self._requests.add(state)

    def add_task(self, task: Task) -> None:
        self._turns.append(task)

    # ---- a turn

    def turn(self) -> None:
        """Grants what can be granted, and starts a pass if none is under way."""
        self._advance()
        while not self._num_flights and self._start():
            self._advance()

    def land(self, flight: Flight) -> None:
        """Takes back a pass whose result is there: the next one is started, then its task goes on."""
        now_s = self._clock()
        seconds = now_s - max(flight.pending.start_s, self._landed_s)
        self._landed_s = now_s
        self._num_flights -= 1
        if flight.error is None:
            self._observe(flight, seconds)
        else:
            self.cache.executor.check()
        self._drop_dead()
        if flight.pending.program.purpose == "rank" and not self._num_flights and self._requests.has_ready:
            self._start()
        self._resume(flight.task, flight.value, flight.error)

    def land_fetch(self, fetch: Fetch) -> None:
        """Takes back a fetch that is over."""
        self.cache.land(fetch)
        self._drop_dead()

    def _observe(self, flight: Flight, seconds: float) -> None:
        pending = flight.pending
        program = pending.program
        self.cache.executor.cost.observe(program.purpose, program.shape, seconds, program.measure)
        self.passes.add(program.purpose, program.shape, pending.num_rows, pending.num_tokens, seconds)
        if not flight.task.is_urgent:
            # Not below the one pass: what writes took while no request waited is not held against them.
            self._background_s = max(self._background_s - seconds, -seconds)
        elif self._has_background:
            self._background_s += seconds * BACKGROUND_SHARE / (1 - BACKGROUND_SHARE)
        else:
            self._background_s = 0.0  # time that no write asked for is not saved up

    @property
    def _has_background(self) -> bool:
        tasks = (*self._turns, *(task for task, _ in self._waiting))
        return self.cache.has_builds or not all(task.is_urgent for task in tasks)

    def _advance(self) -> None:
        """Every step that needs no pass: what is built by now, and grants.

        Requests and tasks are granted in turn, each in order of arrival. Whoever lacks pages keeps those behind it, and
        the others, from taking them: else it would wait for ever.
        """
        self._requests.note_built()
        while True:
            claimants = [name for name in self._claimants if self._can_grant(name)]
            if not claimants or not self._grant_next(claimants[0]):
                return
            self._claimants.remove(claimants[0])
            self._claimants.append(claimants[0])

    def _can_grant(self, claimant: str) -> bool:
        return self._requests.can_grant if claimant == "requests" else bool(self._claiming)

    def _grant_next(self, claimant: str) -> bool:
        return self._requests.grant_next() if claimant == "requests" else self._grant_task(*self._claiming[0])

    def _drop_dead(self) -> None:
        """Lets go of requests and tasks that nobody waits for any more."""
        now_s = self._clock()
        self._requests.drop_dead()
        for task, claim in [entry for entry in self._waiting if entry[0].is_dead(now_s)]:
            self._waiting.remove((task, claim))
            self.cache.release(claim)
            task.steps.close()
        for queue in (self._turns, self._claiming):
            for entry in [entry for entry in queue if _task_of(entry).is_dead(now_s)]:
                queue.remove(entry)  # type: ignore[arg-type]
                _task_of(entry).steps.close()

    # ---- starting passes

    def _start(self) -> bool:
        """Takes the step that is due; whether there was one. It may end without a pass."""
        has_turn = self._next_turn(may_write=False) is not None
        has_urgent = self._requests.has_ready or self.cache.has_urgent_builds or has_turn
        may_write = not has_urgent or self._background_s > 0 or self._gave_way
        for kind in list(self._kinds):
            if self._start_kind(kind, may_write=may_write):
                self._kinds.remove(kind)
                self._kinds.append(kind)
                return True
        return False

    def _start_kind(self, kind: str, *, may_write: bool) -> bool:
        if kind == "rank" and self._requests.has_ready:
            self._start_rank()
        elif kind == "build" and (self.cache.has_urgent_builds or (may_write and self.cache.has_builds)):
            self._start_builds()
        elif kind == "turn" and (entry := self._next_turn(may_write=may_write)) is not None:
            self._take_turn(entry)
        else:
            return False
        return True

    def _next_turn(self, *, may_write: bool) -> Task | tuple[Task, Claim] | None:
        """A task that can go on: one whose claim is there, else the one whose turn it is."""
        for task, claim in self._waiting:
            if claim.is_done and (may_write or task.is_urgent):
                return task, claim
        return next((task for task in self._turns if may_write or task.is_urgent), None)

    def _take_turn(self, entry: Task | tuple[Task, Claim]) -> None:
        num_flights = self._num_flights
        if _task_of(entry).is_dead(self._clock()):
            self._drop_dead()
        elif isinstance(entry, Task):
            self._turns.remove(entry)
            self._resume(entry, None, None)
        else:
            self._waiting.remove(entry)
            self._end_wait(*entry)
        self._gave_way = self._num_flights == num_flights

    def _start_rank(self) -> None:
        batch = self._requests.take_batch()
        if batch is None:
            return
        members, shape = batch

        def on_error(error: BaseException) -> None:
            if self._requests.return_failed(members, error) and not isinstance(error, RcjaxError):
                about = {"request_id": " ".join(state.request_id for state in members).strip()}
                logger.error(
                    "a pass of %d requests failed; running each alone", len(members), exc_info=error, extra=about
                )

        steps = self._ranker.rank(members, shape)
        self._resume(Task(steps, lambda answers: self._requests.answer(members, answers), on_error, True), None, None)

    def _start_builds(self) -> None:
        is_urgent = self.cache.has_urgent_builds
        group = self.cache.next_builds()
        self._resume(Task(self.cache.run_builds(group), _ignore, _log_build, is_urgent), None, None)

    # ---- tasks

    def _resume(self, task: Task, value: Any, error: BaseException | None) -> None:
        """Lets a task take its next step."""
        try:
            wanted = task.steps.send(value) if error is None else task.steps.throw(error)
        except StopIteration as end:
            task.on_done(end.value)
        except (IntegrityError, ExecutorLostError):
            raise
        except Exception as failure:
            self.cache.executor.check()  # a pass may fail where it is started, too
            task.on_error(failure)
        else:
            self._wait_for(task, wanted)

    def _wait_for(self, task: Task, wanted: Pending[Any] | Claim | None) -> None:
        if wanted is None:
            self._turns.append(task)
        elif isinstance(wanted, Claim):
            self._claiming.append((task, wanted))
        else:
            self._num_flights += 1
            self._fly(Flight(task, wanted))

    def _grant_task(self, task: Task, claim: Claim) -> bool:
        try:
            if not self.cache.grant(claim):
                return False
        except (IntegrityError, ExecutorLostError):
            raise
        except Exception as error:
            self._claiming.popleft()
            self._resume(task, None, error)
            return True
        self._waiting.append(self._claiming.popleft())
        return True

    def _end_wait(self, task: Task, claim: Claim) -> None:
        if claim.error is not None:
            self.cache.release(claim)
        self._resume(task, None, claim.error)


def _task_of(entry: Task | tuple[Task, Claim]) -> Task:
    return entry if isinstance(entry, Task) else entry[0]


def _ignore(value: object) -> None:
    pass


def _log_build(error: BaseException) -> None:
    logger.error("a pass that builds blocks failed", exc_info=error)
