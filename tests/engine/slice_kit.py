"""A slice without a device or threads: cache, ranker and loop are real, and passes end when the test says so."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

import numpy as np
from planning_kit import new_planner
from tiny_engine import ARMS, LIMITS, PAGE_TOKENS, event, item, tiny_model

from rcjax.cache import BlockDirectory, GreedyDual, PagePool
from rcjax.config import ArmSettings
from rcjax.engine import tasks
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.completion import Flight
from rcjax.engine.cost import CostModel, Program
from rcjax.engine.executor import Executor, ExecutorLostError, Pending
from rcjax.engine.generation import Generator, Sampling
from rcjax.engine.loop import SliceLoop
from rcjax.engine.plan import Plan, PlannedBlock
from rcjax.engine.ranker import Ranker
from rcjax.engine.selector import Selector
from rcjax.engine.shape import Shape, ShapeSet
from rcjax.engine.state import RequestState, claim_of, fail, public, resolve
from rcjax.engine.tasks import Steps, Task
from rcjax.model.scoring import Scorer
from rcjax.prompt import BlockKind, Owner
from rcjax.request import RecommendRequest

RANK = {Shape(400, 64): 1.0, Shape(400, 64, 4): 1.5}
BUILD = {Shape(48, 16): 1.0, Shape(128, 16): 2.0}
GENERATE = {Shape(400, 64): 1.0}
VOCAB = LIMITS.max_candidates + 2
DEFAULT_ARM = "parallel_anchor_blocks"
PROBING_ARM = "probing"
KIT_ARMS = ARMS | {PROBING_ARM: ArmSettings(selection="deviation(r=0.3)")}


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class ScriptedPass(Pending):
    """A pass that ends when the test says how; until then its result must not be asked for."""

    def __init__(self, program: Program, default: Any, start_s: float):
        self.program = program
        self.start_s = start_s
        self.num_rows, self.num_tokens = program.shape.batch, 0
        self.default = default
        self._outcome: list[Any] = []

    def end(self, outcome: Any = None) -> None:
        """With `outcome`, which may be an error; else with what such a pass gives: scores that fall."""
        self._outcome.append(self.default if outcome is None else outcome)

    def is_ready(self) -> bool:
        return bool(self._outcome)

    def result(self) -> Any:
        (outcome,) = self._outcome
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class AwaitedPass(ScriptedPass):
    """The same for other threads, which wait for its end."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self._is_over = threading.Event()

    def end(self, outcome: Any = None) -> None:
        super().end(outcome)
        self._is_over.set()

    def result(self) -> Any:
        self._is_over.wait()
        return super().result()


class ScriptedExecutor(Executor):
    """Notes the passes that are started; `refusing` is raised by the next start, `is_lost` by every check.

    With `is_immediate`, passes are over as soon as they are started.
    """

    def __init__(self, clock: Clock, kind: type[ScriptedPass] = ScriptedPass):
        self._kind = kind
        self.queue: SimpleQueue[ScriptedPass] = SimpleQueue()  # as `started`, to wait for the next one
        self.cost = CostModel(tiny_model().config, PAGE_TOKENS, 1000)
        self.started: list[ScriptedPass] = []
        self.refusing: list[BaseException] = []
        self.is_lost = False
        self.is_immediate = False
        self._clock = clock

    @property
    def pool_bytes(self) -> int:
        return 0

    def rank(self, batch, shape):
        logits = np.zeros((shape.batch, LIMITS.max_candidates, VOCAB), np.float32) - np.arange(VOCAB, dtype=np.float32)
        return self._pass("rank", shape, logits)

    def build(self, batch, source, destination, shape):
        return self._pass("build", shape, None)

    def probe(self, batch, known, asks, shape, measure):
        return self._pass("probe", shape, np.zeros(batch.token_ids.shape, np.float32), measure)

    def decode(self, batch, source, destination, shape):
        return self._pass("decode", shape, np.zeros((shape.batch, 1, 5), np.float32))

    def release(self):
        pass

    def check(self):
        if self.is_lost:
            raise ExecutorLostError("the pages are gone")

    def _pass(self, purpose, shape, default, measure=None):
        if self.refusing:
            raise self.refusing.pop()
        started = self._kind(Program(purpose, shape, measure), default, self._clock())
        self.started.append(started)
        if self.is_immediate:
            started.end()
        else:
            self.queue.put(started)
        return started


def shape_set(purpose: str, seconds: dict[Shape, float]) -> ShapeSet:
    return ShapeSet(purpose, list(seconds), seconds.__getitem__)


class Slice:
    """The parts of one slice, and the calls that a worker would make of them."""

    def __init__(
        self,
        num_pages: int = 200,
        kind: type[ScriptedPass] = ScriptedPass,
        executor_type: type[ScriptedExecutor] = ScriptedExecutor,
        **hooks: Callable[[bytes], None],
    ):
        self.clock = Clock()
        self.planner = new_planner(arms=KIT_ARMS, default_arm=DEFAULT_ARM, shapes=tuple(RANK), cost_of=RANK.__getitem__)
        self.executor = executor_type(self.clock, kind)
        self.directory = BlockDirectory(PagePool(num_pages, PAGE_TOKENS), GreedyDual(), **hooks)
        instruction = self.planner.builder.instruction_block()
        build_shapes = shape_set("build", BUILD)
        self.cache = BlockCache(self.executor, self.directory, self.planner.keys, build_shapes, instruction)
        self.executor.is_immediate = True
        self.cache.build_instruction()
        self.executor.is_immediate = False
        self.executor.started.clear()
        rank_shapes = shape_set("rank", RANK)
        selector = Selector(self.executor, rank_shapes, PAGE_TOKENS)
        self.ranker = Ranker(
            self.executor,
            selector,
            rank_shapes,
            Scorer(np.arange(VOCAB, dtype=np.int32)),
            page_tokens=PAGE_TOKENS,
            num_reads=LIMITS.max_candidates,
            clock=self.clock,
        )
        self.generator = Generator(self.cache, selector, None, shape_set("generate", GENERATE), frozenset())
        self.flights: list[Flight] = []
        self.loop = SliceLoop(self.cache, self.ranker, None, self.flights.append, self.clock)
        self.futures: list[Future[Any]] = []

    def plan(self, items: Sequence[int], *, events: Sequence[int] = (0,), arm: str = "", text: str = "") -> Plan:
        """Of a request over inline items and events, by number."""
        history = tuple(event(number) for number in events)
        plan = self.planner.plan(RecommendRequest(tuple(item(i, text=text) for i in items), history=history, arm=arm))
        self.planner.library.versions.end_read(plan.version)
        return plan

    def request(
        self,
        items: Sequence[int],
        *,
        events: Sequence[int] = (0,),
        deadline_s: float | None = None,
        arm: str = "",
        text: str = "",
    ) -> RequestState:
        """Hands over a request; call `turn` for it to go on."""
        plan = self.plan(items, events=events, arm=arm, text=text)
        state = RequestState(plan, self.clock(), deadline_s, Future(), claim_of(plan), row=plan.row)
        self.futures.append(state.future)
        self.loop.add_request(state)
        return state

    def task(self, steps: Steps[Any], *, is_urgent: bool = False, deadline_s: float | None = None) -> Future[Any]:
        future: Future[Any] = Future()
        self.futures.append(future)
        own = future if is_urgent else None
        self.loop.add_task(
            Task(
                steps,
                lambda value: resolve(future, value),
                lambda e: fail(future, public(e)),
                is_urgent,
                own,
                deadline_s,
            )
        )
        return future

    def fill(self, numbers: Sequence[int], version: int = 0) -> Future[int]:
        blocks = [self.planned(number) for number in numbers]
        return self.task(tasks.fill(self.cache, blocks, version, self.cache.pass_tokens))

    def generate(self, items: Sequence[int] | str, num_tokens: int = 4, **limits: Any) -> Future[list[int]]:
        sampling = Sampling(num_tokens)
        if isinstance(items, str):
            return self.task(
                self.generator.steps(self.planner.builder.text_block(items), sampling), is_urgent=True, **limits
            )
        plan = self.plan(items, arm="sequential_label_blocks")
        return self.task(self.generator.steps(plan, sampling), is_urgent=True, **limits)

    def planned(self, number: int, text: str = "") -> PlannedBlock:
        """An item of the catalogue, whose id is its own."""
        one = item(number, text=text)
        ids = self.planner.builder.item_ids(one)
        key = self.planner.keys.key(BlockKind.ITEM, Owner("", one.item_id), ids)
        return PlannedBlock(self.planner.builder.block(BlockKind.ITEM, ids, Owner("", one.item_id)), key)

    def turn(self) -> None:
        self.loop.turn()

    @property
    def running(self) -> list[str]:
        """What is on the device, oldest first."""
        return [flight.pending.program.purpose for flight in self.flights]

    def land(self, outcome: Any = None, *, seconds: float | None = None) -> str:
        """Ends the oldest pass, as long after its start as its shape takes; returns what it was."""
        flight = self.flights.pop(0)
        program = flight.pending.program
        if seconds is None:
            seconds = {"rank": RANK, "build": BUILD}.get(program.purpose, {}).get(program.shape, 1.0)
        self.clock.now_s += seconds
        flight.pending.end(outcome)
        flight.land()
        self.loop.land(flight)
        self.loop.turn()
        return program.purpose

    def land_all(self, outcome: Callable[[Flight], Any] = lambda flight: None) -> list[str]:
        """Ends passes until nothing is under way; returns what they were."""
        self.turn()
        purposes = []
        while self.flights:
            purposes.append(self.land(outcome(self.flights[0])))
        return purposes

    def assert_idle(self) -> None:
        """Nothing is under way, nothing but the instruction is pinned, everybody was answered, the books add up."""
        assert self.loop.is_idle
        assert not self.flights
        assert self.cache.num_claims == 0
        assert not self.cache.building_versions
        assert self.directory.stats().pages_pinned == len(self.cache.instruction_pages)
        self.directory.check_integrity()
        assert all(future.done() for future in self.futures)


def warm(slice_: Slice, *numbers: int) -> None:
    """Makes a request's blocks cached."""
    slice_.request(numbers)
    slice_.land_all()
