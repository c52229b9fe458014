"""The worker of one slice: the thread that runs its loop, and how others hand it work."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from rcjax.cache import IntegrityError
from rcjax.cache.tiers import KVTiers
from rcjax.engine import tasks
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.completion import Completions, Flight
from rcjax.engine.exchange import Exchange
from rcjax.engine.executor import ExecutorLostError
from rcjax.engine.fetch import Delivery, Fetch, Peers
from rcjax.engine.generation import SILENCE, Generator, Listener, Sampling
from rcjax.engine.inbox import Inbox
from rcjax.engine.lending import lend
from rcjax.engine.loop import SliceLoop
from rcjax.engine.offline import OrderChooser
from rcjax.engine.plan import Plan, PlannedBlock
from rcjax.engine.ranker import Ranker
from rcjax.engine.semantic_history import SemanticHistories
from rcjax.engine.state import RequestState, claim_of, fail, public, resolve
from rcjax.engine.tasks import Steps, Task
from rcjax.engine.worker_stats import WorkerStats
from rcjax.errors import InvalidRequestError, UnavailableError
from rcjax.prompt import Block, BlockKind, Owner
from rcjax.request import RecommendResult

logger = logging.getLogger(__name__)
T = TypeVar("T")

_INTEGRITY_SLICE_S = 0.002  # the longest that a request has to wait for a check that runs when nothing else does
_INTEGRITY_PAUSE_S = 0.02
_INTEGRITY_AFTER_S = 0.25  # of nothing to do: between two requests of a busy server there is no time for it


class SliceWorker:
    """Owns a slice's cache and executor; every method may be called from any thread, and returns at once.

    `lost` is done, with what happened, once the thread has died of something that no request caused: books that do not
    add up, device pages that are gone, a defect. Whatever it had been given is then told that it is unavailable.
    """

    def __init__(
        self,
        cache: BlockCache,
        ranker: Ranker,
        *,
        generator: Generator | None = None,
        orders: OrderChooser | None = None,
        semantic: SemanticHistories | None = None,
        name: str = "slice-0",
        clock: Callable[[], float] = time.monotonic,
    ):
        self.cache = cache
        self.lost: Future[None] = Future()
        self._generator = generator
        self._orders = orders
        self.semantic = semantic
        self._pass_tokens = cache.pass_tokens
        self._name = name
        self._clock = clock
        self._exchange: Exchange | None = None
        self._inbox = Inbox()
        self._completions = Completions(f"rcjax-{name}-passes", self._on_landed)
        self._loop = SliceLoop(cache, ranker, semantic, self._fly, clock)
        self._open: dict[Future[Any], float] = {}  # what is not answered, and its estimated seconds
        self._lock = threading.Lock()  # guards `_open` and `_load_s`
        self._load_s = 0.0
        self._forget_before = 0
        self._check_after_s: float | None = None  # of waiting; None: all has been checked since the last work
        self._has_given_up = False  # the grace period is over: no more steps, whatever waits
        # Daemons, as a pass that outlasts the grace period must not keep the process from exiting.
        self._thread = threading.Thread(target=self._run, name=f"rcjax-{name}", daemon=True)

    def connect(self, *, peers: Peers | None, tiers: KVTiers | None, replica_share: float) -> None:
        """Has blocks that miss fetched from `peers` and `tiers` where that is cheaper; call it before `start`.

        What is fetched from peers for a request may keep `replica_share` of the pool's pages when nobody reads it.
        """
        self._exchange = Exchange(
            self.cache,
            self._on_fetched,
            self._clock,
            self._name,
            num_waiting=lambda: self.num_waiting,
            peers=peers,
            tiers=tiers,
            replica_share=replica_share,
        )

    def start(self) -> None:
        if self._exchange is not None:
            self._exchange.start()
        self._completions.start()
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Takes no new work, finishes what is there within `grace_s`, and fails the rest as unavailable; blocks.

        Weights and pages are let go of, unless a pass outlasts the grace period.
        """
        self._inbox.close()
        if self._thread.is_alive():
            self._thread.join(grace_s)
            self._has_given_up = True
            if self._open:
                logger.warning("stopping with %d calls not done after %.1f s of grace", len(self._open), grace_s)
        self._completions.stop()
        if self._exchange is not None:
            self._exchange.stop()
        self._fail_open(UnavailableError("the server stopped before this call was done"))
        has_ended = not self._thread.is_alive() and self._completions.join()
        if has_ended and (self._exchange is None or self._exchange.join()):
            self.cache.executor.release()

    # ---- work

    def submit(self, plan: Plan, *, arrival_s: float, deadline_s: float | None = None) -> Future[RecommendResult]:
        """Ranks; the answer's times run from `arrival_s`, which is on the worker's clock as `deadline_s` is."""
        future: Future[RecommendResult] = Future()
        state = RequestState(plan, arrival_s, deadline_s, future, claim_of(plan), row=plan.row)
        return self._hand_over(future, plan.cost_s, lambda: self._loop.add_request(state))

    def fill(self, blocks: Sequence[PlannedBlock], version: int) -> Future[int]:
        """Makes blocks cached; the result is how many had to be computed."""
        return self.run(lambda worker: worker._fill(blocks, version))

    def grow(self, former: PlannedBlock, block: PlannedBlock, version: int) -> Future[int]:
        """Makes `block` cached, extending `former` in place where it is cached and nobody reads it."""
        return self.run(lambda worker: tasks.grow(worker.cache, former, block, version))

    def drop(self, names: Sequence[tuple[BlockKind, Owner]], version: int) -> Future[int]:
        """Makes the blocks of items or users unfindable, also those that older plans would bring back.

        Where there are tiers the result is there once they have none of them, on the disk neither.
        """

        def drop(worker: "SliceWorker") -> int:
            if worker.semantic is not None:
                worker.semantic.drop(names)
            return sum(worker.cache.directory.drop(kind, owner, version) for kind, owner in names)

        dropped = self.call(drop)
        return dropped if self._exchange is None else self._exchange.drop_after(dropped, names)

    def lend(self, wanted: Sequence[PlannedBlock]) -> Future[Delivery]:
        """Copies of those of the blocks that this slice holds, for another slice; see `rcjax.engine.fetch.Lender`."""
        return self.call(lambda worker: lend(worker.cache, wanted))

    def generate(
        self, source: Plan | Block, sampling: Sampling, deadline_s: float | None = None, listener: Listener = SILENCE
    ) -> Future[list[int]]:
        """The token ids that continue a prompt, computed a step a turn; `listener` hears of each as it comes."""
        generator = self._generator
        if generator is None:
            raise InvalidRequestError("this engine has no generate shapes; configure shapes.generate")
        return self.run(lambda _: generator.steps(source, sampling, listener), is_urgent=True, deadline_s=deadline_s)

    def choose_orders(self, seed: int) -> Future[int]:
        """Works out which tokens of each known item the `offline` policy shall select; the result: for how many."""
        orders = self._orders
        return self.run(lambda worker: orders.choose_all(seed) if orders is not None else _nothing())

    def build_semantic_pool(self, seed: int) -> Future[int]:
        """Builds the pool that histories are borrowed from; the result is the number of its prototypes."""
        semantic = self.semantic
        return self.run(lambda worker: semantic.build(seed) if semantic is not None else _nothing())

    def run(
        self,
        start: Callable[["SliceWorker"], Steps[T]],
        *,
        is_urgent: bool = False,
        deadline_s: float | None = None,
    ) -> Future[T]:
        """Takes a task through its steps, between those of others."""
        future: Future[T] = Future()

        def add() -> None:
            def on_error(error: BaseException) -> None:
                fail(future, public(error))

            own = future if is_urgent else None  # a write that was begun runs to its end
            steps = start(self)
            self._loop.add_task(Task(steps, lambda value: resolve(future, value), on_error, is_urgent, own, deadline_s))

        return self._hand_over(future, 0.0, add)

    def call(self, task: Callable[["SliceWorker"], T]) -> Future[T]:
        """Runs something short on the worker's thread, between two steps."""
        future: Future[T] = Future()

        def run() -> None:
            if future.done():
                return
            try:
                resolve(future, task(self))
            except BaseException as error:
                fail(future, error)
                if isinstance(error, IntegrityError | ExecutorLostError):
                    raise

        return self._hand_over(future, 0.0, run)

    def forget_versions(self, before: int) -> None:
        """Says that no plan or write older than `before` lives any more outside of this worker."""
        self._forget_before = max(self._forget_before, before)

    # ---- what others may know

    @property
    def load_s(self) -> float:
        """Estimated seconds of the passes of all that waits or runs."""
        return self._load_s

    @property
    def num_waiting(self) -> int:
        """Calls that are not answered."""
        return len(self._open)

    @property
    def stats(self) -> WorkerStats:
        return WorkerStats.of(self.cache, self._loop.passes, self._loop.tokens)

    # ---- the thread

    def _hand_over(self, future: Future[T], cost_s: float, message: Callable[[], None]) -> Future[T]:
        with self._lock:
            self._open[future] = cost_s
            self._load_s += cost_s
        future.add_done_callback(self._on_done)
        if not self._inbox.put(message):
            fail(future, UnavailableError("the server is stopping"))
        return future

    def _on_done(self, future: Future[Any]) -> None:
        with self._lock:
            self._load_s -= self._open.pop(future, 0.0)
            if not self._open:
                self._load_s = 0.0  # what rounding left

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except BaseException as error:
            logger.critical("the worker of a slice died", exc_info=error)
            self._inbox.close()
            self._fail_open(UnavailableError("the server lost the slice that had this call; retry elsewhere"))
            self.lost.set_exception(error)

    def _step(self) -> bool:
        """Takes what was handed over, and one turn of the loop; False when there will be nothing more to do."""
        is_idle = self._loop.is_idle
        pause_s = self._check_after_s if is_idle else self.cache.give_up_late_fetches()
        messages = self._inbox.take(pause_s, until_closed=not self._loop.has_flights)
        if self._has_given_up:
            return False
        if not messages and (is_idle or pause_s is None):
            if is_idle and self._check_after_s is not None:
                is_round = self.cache.directory.check_integrity_within(_INTEGRITY_SLICE_S, self._clock)
                self._check_after_s = None if is_round else _INTEGRITY_PAUSE_S
            return not (is_idle and self._inbox.is_closed)
        for message in messages:
            message()
        self._loop.turn()
        if self._forget_before:
            before, self._forget_before = self._forget_before, 0
            self.cache.directory.forget_versions(min([before, *self._loop.live_versions]))
        self._check_after_s = _INTEGRITY_AFTER_S
        return not (self._inbox.is_closed and self._loop.is_idle)

    def _fly(self, flight: Flight) -> None:
        if flight.pending.is_ready():
            flight.land()
            self._on_landed(flight)
        else:
            self._completions.watch(flight)

    def _on_landed(self, flight: Flight) -> None:
        self._inbox.put(lambda: self._loop.land(flight), even_if_closed=True)

    def _on_fetched(self, fetch: Fetch) -> None:
        self._inbox.put(lambda: self._loop.land_fetch(fetch), even_if_closed=True)

    def _fill(self, blocks: Sequence[PlannedBlock], version: int) -> Steps[int]:
        num_built = yield from tasks.fill(self.cache, blocks, version, self._pass_tokens)
        if self._orders is not None:
            yield from self._orders.choose_new([planned for planned in blocks if planned.block.kind is BlockKind.ITEM])
        return num_built

    def _fail_open(self, error: UnavailableError) -> None:
        with self._lock:
            waiting = list(self._open)
        for future in waiting:
            fail(future, error)


def _nothing() -> Steps[int]:
    return 0
    yield
