"""The requests of one slice, by stage: what they need is claimed, and they wait for it and for a pass."""

from collections import deque
from collections.abc import Callable, Sequence

from rcjax.cache import IntegrityError
from rcjax.engine.batching import next_batch
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.executor import ExecutorLostError
from rcjax.engine.semantic_history import SemanticHistories
from rcjax.engine.shape import Shape, ShapeSet
from rcjax.engine.state import RequestState, Stage, fail, public, resolve
from rcjax.errors import RcjaxError
from rcjax.prompt import BlockKind
from rcjax.request import RecommendResult

MAX_GRANTED = 64  # requests that hold pins at once: enough to fill any batch, few enough to leave pages to others


class Requests:
    """Takes requests from PLANNED to DONE, but for the passes themselves. The loop's thread uses it."""

    def __init__(
        self, cache: BlockCache, semantic: SemanticHistories | None, shapes: ShapeSet, clock: Callable[[], float]
    ):
        self._cache = cache
        self._semantic = semantic
        self._shapes = shapes
        self._clock = clock
        self._planned: deque[RequestState] = deque()
        self._building: list[RequestState] = []
        self._ready: dict[str, list[RequestState]] = {}  # by arm, oldest first; no arm without any
        self._num_running = 0

    def __len__(self) -> int:
        return len(self._planned) + self._num_granted

    @property
    def has_ready(self) -> bool:
        return bool(self._ready)

    @property
    def live_versions(self) -> list[int]:
        """Of those that could still commit a block."""
        ready = (state for states in self._ready.values() for state in states)
        return [state.plan.version for state in (*self._planned, *self._building, *ready)]

    def add(self, state: RequestState) -> None:
        self._planned.append(state)

    # ---- PLANNED -> BUILDING -> READY

    @property
    def can_grant(self) -> bool:
        """Whether a request waits for its claim, and may get it if there are pages."""
        return bool(self._planned) and self._num_granted < MAX_GRANTED

    def grant_next(self) -> bool:
        """Pins what the oldest request needs, or answers it; False where it has to wait for pages."""
        state = self._planned[0]
        if not self._grant(state):
            return False
        self._planned.popleft()
        return True

    def note_built(self) -> None:
        """Moves on those whose blocks are all there."""
        for state in [state for state in self._building if state.claim.is_done]:
            self._building.remove(state)
            self._leave_building(state)

    def drop_dead(self) -> None:
        """Lets go of those that nobody waits for any more."""
        now_s = self._clock()
        self._planned = deque(state for state in self._planned if not state.is_dead(now_s))
        for states in (self._building, *self._ready.values()):
            for state in [state for state in states if state.is_dead(now_s)]:
                states.remove(state)
                self._release(state)
        self._ready = {arm: states for arm, states in self._ready.items() if states}

    @property
    def _num_granted(self) -> int:
        return len(self._building) + self._num_running + sum(map(len, self._ready.values()))

    def _grant(self, state: RequestState) -> bool:
        if state.is_dead(self._clock()):
            state.stage = Stage.DONE
            return True
        state.granted_s = self._clock()
        try:
            if self._semantic is not None:
                self._semantic.borrow(state)
            if not self._cache.grant(state.claim):
                return False
        except (IntegrityError, ExecutorLostError):
            raise
        except Exception as error:
            state.stage = Stage.DONE
            fail(state.future, public(error, state.request_id))
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
            fail(state.future, public(state.claim.error, state.request_id))
            return
        try:
            if self._semantic is not None:
                self._semantic.complete(state)
        except Exception as error:
            self._cache.executor.check()
            self._release(state)
            fail(state.future, public(error, state.request_id))
            return
        state.stage = Stage.READY
        self._ready.setdefault(state.plan.request.arm, []).append(state)

    # ---- READY -> RUNNING -> DONE

    def take_batch(self) -> tuple[list[RequestState], Shape] | None:
        """The requests of the next pass, of the arm whose oldest one waits longest, and its shape.

        None where that request fits no shape after all, of which it has then been told.
        """
        arm = min(self._ready, key=lambda name: self._ready[name][0].arrival_s)
        waiting = self._ready[arm]
        alone = next((state for state in waiting if state.is_alone), None)
        try:
            members, shape = next_batch([alone] if alone is not None else waiting, self._shapes)
        except RcjaxError as error:
            first = alone or waiting[0]
            self._remove_ready(arm, [first])
            self._release(first)
            fail(first.future, error)
            return None
        self._remove_ready(arm, members)
        for state in members:
            state.stage = Stage.RUNNING
        self._num_running += len(members)
        return members, shape

    def answer(self, members: Sequence[RequestState], answers: Sequence[RecommendResult | RcjaxError]) -> None:
        """Ends the requests of a pass."""
        self._num_running -= len(members)
        for state, answer in zip(members, answers, strict=True):
            if isinstance(answer, RcjaxError):
                self._discard(state)
                fail(state.future, answer)
            self._release(state)
            resolve(state.future, answer)

    def return_failed(self, members: Sequence[RequestState], error: BaseException) -> bool:
        """Takes back the requests of a pass that failed, each to be run alone; False where one was, which is told."""
        self._num_running -= len(members)
        if len(members) == 1:
            self._release(members[0])
            fail(members[0].future, public(error, members[0].request_id))
            return False
        for state in members:
            state.stage, state.is_alone = Stage.READY, True
        arm = members[0].plan.request.arm
        self._ready[arm] = [*members, *self._ready.get(arm, [])]
        return True

    def _remove_ready(self, arm: str, members: Sequence[RequestState]) -> None:
        left = [state for state in self._ready[arm] if state not in members]
        if left:
            self._ready[arm] = left
        else:
            del self._ready[arm]

    def _discard(self, state: RequestState) -> None:
        """Makes the blocks of a request unfindable: its scores were no numbers, so some KV of it may be none either."""
        for block in state.claim.pins:
            if block.kind != BlockKind.INSTRUCTION:
                self._cache.discard(block)

    def _release(self, state: RequestState) -> None:
        state.stage = Stage.DONE
        self._cache.release(state.claim)
