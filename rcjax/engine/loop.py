"""The loop of one slice: which step comes next, one pass at a time.

A request goes PLANNED -> BUILDING -> READY -> RUNNING -> DONE. Requests whose blocks are all pinned share passes as the
batch former says; blocks that miss, of whomever, share build passes; everything else is a task (`rcjax.engine.tasks`).
While a pass runs on the device the loop grants claims and prepares rows, and the pass after it is started before the
answers of the one that ended are read out.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rcjax.cache import IntegrityError
from rcjax.engine.batching import next_batch
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.claim import Claim
from rcjax.engine.completion import Flight
from rcjax.engine.executor import ExecutorLostError, Pending
from rcjax.engine.ranker import Ranker
from rcjax.engine.semantic_history import SemanticHistories
from rcjax.engine.state import RequestState, Stage, fail, public, resolve
from rcjax.engine.tasks import Task
from rcjax.errors import RcjaxError

logger = logging.getLogger(__name__)

MAX_GRANTED = 64  # requests that hold pins at once: enough to fill any batch, few enough to leave pages to others
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
        self._ranker = ranker
        self._semantic = semantic
        self._fly = fly
        self._clock = clock
        self._planned: deque[RequestState] = deque()
        self._building: list[RequestState] = []
        self._ready: dict[str, list[RequestState]] = {}  # by arm, oldest first; no arm without any
        self._num_running = 0
        self._turns: deque[Task] = deque()  # tasks that wait for a turn
        self._claiming: deque[tuple[Task, Claim]] = deque()  # tasks whose claim is not granted yet
        self._waiting: list[tuple[Task, Claim]] = []  # tasks whose claim is granted, and being built or just there
        self._num_flights = 0
        self._landed_s = 0.0
        self._background_s = 0.0  # seconds that writes may take before requests go first again
        self._kinds = deque(["rank", "build", "turn"])  # who is asked first for the next pass, in turn

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way and nothing waits."""
        return not (
            self._num_flights
            or self._planned
            or self._building
            or self._ready
            or self._num_running
            or self._turns
            or self._claiming
            or self._waiting
            or self.cache.has_builds
        )

    @property
    def has_flights(self) -> bool:
        return self._num_flights > 0

    @property
    def live_versions(self) -> list[int]:
        """Of the requests and writes that could still commit a block."""
        states = [*self._planned, *self._building, *(state for ready in self._ready.values() for state in ready)]
        claims = [claim for _, claim in (*self._claiming, *self._waiting)]
        live = [state.plan.version for state in states] + [claim.version for claim in claims]
        return live + self.cache.building_versions

    def add_request(self, state: RequestState) -> None:
        self._planned.append(state)

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
        if flight.pending.program.purpose == "rank" and not self._num_flights and self._ready:
            self._start()
        self._resume(flight.task, flight.value, flight.error)

    def _observe(self, flight: Flight, seconds: float) -> None:
        program = flight.pending.program
        self.cache.executor.cost.observe(program.purpose, program.shape, seconds, program.measure)
        if not flight.task.is_urgent:
            # Not below the one pass: what writes took while no request waited is not held against them.
            self._background_s = max(self._background_s - seconds, -seconds)
        elif self.cache.has_builds or not all(
            task.is_urgent for task in (*self._turns, *(t for t, _ in self._waiting))
        ):
            self._background_s += seconds * BACKGROUND_SHARE / (1 - BACKGROUND_SHARE)
        else:
            self._background_s = 0.0  # time that no write asked for is not saved up

    def _advance(self) -> None:
        """Every step that needs no pass: grants, in order of arrival, and what is built by now."""
        for state in [state for state in self._building if state.claim.is_done]:
            self._building.remove(state)
            self._leave_building(state)
        while self._planned and self._num_granted < MAX_GRANTED:
            if not self._grant(self._planned[0]):
                return  # in order: those behind it would keep it waiting for ever
            self._planned.popleft()
        while self._claiming and self._grant_task(*self._claiming[0]):
            pass

    @property
    def _num_granted(self) -> int:
        return len(self._building) + self._num_running + sum(map(len, self._ready.values()))

    def _grant(self, state: RequestState) -> bool:
        """Pins what a request needs, or answers it; False where it has to wait for pages."""
        if state.is_dead(self._clock()):
            state.stage = Stage.DONE
            return True
        state.granted_s = self._clock()
        try:
            if self._semantic is not None and not self._semantic.lend(state):
                return False
            if not self.cache.grant(state.claim):
                self._give_back_scratch(state)
                return False
        except (IntegrityError, ExecutorLostError):
            raise
        except Exception as error:
            self.cache.executor.check()
            self._give_back_scratch(state)
            state.stage = Stage.DONE
            fail(state.future, public(error))
            return True
        state.stage = Stage.BUILDING
        if state.claim.is_done:
            self._leave_building(state)
        else:
            self._building.append(state)
        return True

    def _leave_building(self, state: RequestState) -> None:
        state.ready_s = self._clock()
        if state.claim.error is not None:
            self._release(state)
            fail(state.future, public(state.claim.error))
            return
        if self._semantic is not None:
            self._semantic.complete(state)
        state.stage = Stage.READY
        self._ready.setdefault(state.plan.request.arm, []).append(state)

    def _release(self, state: RequestState) -> None:
        state.stage = Stage.DONE
        self.cache.release(state.claim)
        self._give_back_scratch(state)

    def _give_back_scratch(self, state: RequestState) -> None:
        for scratch in state.scratch:
            self.cache.directory.release(scratch)
        state.scratch.clear()

    def _drop_dead(self) -> None:
        """Lets go of requests and tasks that nobody waits for any more."""
        now_s = self._clock()
        self._planned = deque(state for state in self._planned if not state.is_dead(now_s))
        for states in (self._building, *self._ready.values()):
            for state in [state for state in states if state.is_dead(now_s)]:
                states.remove(state)
                self._release(state)
        self._ready = {arm: states for arm, states in self._ready.items() if states}
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
        has_urgent = bool(self._ready or self.cache.has_urgent_builds or self._next_turn(may_write=False))
        may_write = not has_urgent or self._background_s > 0
        for kind in list(self._kinds):
            if self._start_kind(kind, may_write=may_write):
                self._kinds.remove(kind)
                self._kinds.append(kind)
                return True
        return False

    def _start_kind(self, kind: str, *, may_write: bool) -> bool:
        if kind == "rank" and self._ready:
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
        if _task_of(entry).is_dead(self._clock()):
            self._drop_dead()
        elif isinstance(entry, Task):
            self._turns.remove(entry)
            self._resume(entry, None, None)
        else:
            self._waiting.remove(entry)
            self._end_wait(*entry)

    def _start_rank(self) -> None:
        """Starts a pass of the arm whose oldest request waits longest."""
        arm = min(self._ready, key=lambda name: self._ready[name][0].arrival_s)
        waiting = self._ready[arm]
        alone = next((state for state in waiting if state.is_alone), None)
        try:
            members, shape = next_batch([alone] if alone is not None else waiting, self._ranker.shapes)
        except RcjaxError as error:
            state = alone or waiting[0]
            self._take_ready(arm, [state])
            self._release(state)
            fail(state.future, error)
            return
        self._take_ready(arm, members)
        for state in members:
            state.stage = Stage.RUNNING
        self._num_running += len(members)
        steps = self._ranker.rank(members, shape)
        task = Task(steps, lambda answers: self._answer(members, answers), lambda e: self._fail_batch(members, e), True)
        self._resume(task, None, None)

    def _take_ready(self, arm: str, members: Sequence[RequestState]) -> None:
        left = [state for state in self._ready[arm] if state not in members]
        if left:
            self._ready[arm] = left
        else:
            del self._ready[arm]

    def _answer(self, members: Sequence[RequestState], answers: Sequence[Any]) -> None:
        self._num_running -= len(members)
        for state, answer in zip(members, answers, strict=True):
            if isinstance(answer, RcjaxError):
                self._discard(state)
                fail(state.future, answer)
            self._release(state)
            resolve(state.future, answer)

    def _discard(self, state: RequestState) -> None:
        """Makes the blocks of a request unfindable: its scores were no numbers, so some KV of it may be none either."""
        for index in state.plan.cached:
            block = state.plan.prompt.blocks[index]
            if block.owner:
                self.cache.directory.drop(block.kind, block.owner, state.plan.version)

    def _fail_batch(self, members: Sequence[RequestState], error: BaseException) -> None:
        """A request that breaks a batch breaks alone: the others, and it, are run again by themselves."""
        self._num_running -= len(members)
        if len(members) == 1:
            self._release(members[0])
            fail(members[0].future, public(error))
            return
        if not isinstance(error, RcjaxError):
            logger.error("a pass of %d requests failed; running each alone", len(members), exc_info=error)
        for state in members:
            state.stage, state.is_alone = Stage.READY, True
        arm = members[0].plan.request.arm
        self._ready[arm] = [*members, *self._ready.get(arm, [])]

    def _start_builds(self) -> None:
        is_urgent = self.cache.has_urgent_builds
        group, _ = self.cache.next_builds()
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
