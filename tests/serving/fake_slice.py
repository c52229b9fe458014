"""A planner, a library and workers whose answers can be computed by hand, for tests of what routes between them."""

import contextlib
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import numpy as np
from fake_router import INFO, ranked

from rcjax.errors import InvalidRequestError, NotFoundError, UnavailableError
from rcjax.prompt import Block, BlockKind, Layout, Owner, Prompt, Scoring
from rcjax.request import (
    AppendEvents,
    DeleteItems,
    GenerateRequest,
    PutItems,
    PutUser,
    RecommendRequest,
    TokenCounts,
    Write,
)
from rcjax.serving.admission_limits import AdmissionLimits
from rcjax.serving.local import LocalEngine
from rcjax.serving.router import Router

PROMPT = Prompt((), (), Layout.SEQUENTIAL, Scoring.LABEL)


NO_LIMITS = AdmissionLimits(max_queue_s=1e9, default_deadline_s=1e9)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def owner_of(full_id: str) -> Owner:
    """The owner whose full id this is."""
    tenant, _, own_id = full_id.rpartition("\0")
    return Owner(tenant, own_id)


@dataclass(frozen=True)
class FakePlannedBlock:
    """A block of `owner`, as its full id, whose tokens are the letters of `text`."""

    owner: str
    text: str
    kind: BlockKind = BlockKind.ITEM

    @property
    def block(self) -> Block:
        return Block(self.kind, np.zeros(len(self.text), np.int32), 0, owner=owner_of(self.owner))

    @property
    def key(self) -> bytes:
        return hashlib.sha256(f"{self.owner}\0{self.text}".encode()).digest()


@dataclass(frozen=True)
class FakePlan:
    """Costs a second for each candidate, in passes of eight requests; `wanted` are texts as the library had them."""

    request: RecommendRequest
    version: int
    wanted: tuple[FakePlannedBlock, ...] = ()
    prompt: Prompt = PROMPT

    @property
    def item_ids(self) -> tuple[str, ...]:
        return self.request.candidates

    @property
    def cost_s(self) -> float:
        return float(len(self.request.candidates))

    share_s = cost_s

    @property
    def full_pass_s(self) -> float:
        return 8 * self.cost_s


@dataclass(frozen=True)
class FakeGenerationPlan:
    source: Any
    version: int
    sampling: Any = None
    wanted: tuple[FakePlannedBlock, ...] = ()
    cost_s: float = 1.0
    share_s: float = 1.0
    full_pass_s: float = 1.0


@dataclass(frozen=True)
class FakeWritePlan:
    write: Write
    version: int
    build: tuple[FakePlannedBlock, ...] = ()
    grow_from: FakePlannedBlock | None = None
    drop: tuple[tuple[BlockKind, Owner], ...] = ()


@dataclass(frozen=True)
class FakeWorkerStats:
    num_hits: int = 1
    num_misses: int = 2
    num_evictions: int = 3
    pages_total: int = 4
    pages_used: int = 5
    pool_bytes: int = 6
    num_replica_hits: int = 7
    num_fetched: int = 8
    num_from_host: int = 9
    num_from_disk: int = 10
    fetched_bytes: int = 11
    from_host_bytes: int = 12
    from_disk_bytes: int = 13
    lent_bytes: int = 14
    spilled_bytes: int = 15
    num_local_hits: int = 16
    num_computed: int = 17
    num_not_spilled: int = 18
    passes: Any = field(default_factory=dict)
    prompt_tokens: Any = field(default_factory=dict)
    missed_tokens: Any = field(default_factory=dict)


class FakeVersions:
    """Counts up with each write that ends; remembers which versions are read and written."""

    def __init__(self) -> None:
        self.current = 1
        self.alive: Counter[int] = Counter()

    def begin(self) -> int:
        self.alive[self.current] += 1
        return self.current

    begin_read = begin_write = begin

    def end_read(self, version: int) -> None:
        self.alive -= Counter([version])

    def end_write(self, version: int) -> None:
        self.end_read(version)
        self.current += 1

    @property
    def oldest(self) -> int:
        return min(self.alive, default=self.current)


class FakeLibrary:
    """Users' texts and items' texts by full id; a swap says in `log` that it happened."""

    def __init__(self, log: list[Any]):
        self.texts: dict[str, str] = {"ann": "", **{f"item-{n}": f"No. {n}" for n in range(10)}}
        self.versions = FakeVersions()
        self._log = log

    @property
    def num_items(self) -> int:
        return len(self.item_owners)

    @property
    def num_users(self) -> int:
        return len(self.texts) - self.num_items

    @property
    def item_owners(self) -> list[Owner]:
        return [owner_of(full_id) for full_id in self.texts if owner_of(full_id).id.startswith("item")]

    def user(self, tenant: str, user_id: str) -> str | None:
        return self.texts.get(Owner(tenant, user_id).full_id)

    def swap(self, plan: FakeWritePlan) -> int:
        self._log.append("swap")
        self.texts |= {planned.owner: planned.text for planned in plan.build}
        existed = [self.texts.pop(owner.full_id, None) is not None for _, owner in plan.drop]
        return sum(existed)


class FakePlanner:
    """Knows what the library knows; `before` is called with each request or write and may block or raise."""

    def __init__(self, library: FakeLibrary):
        self._library = library
        self.before: Callable[[Any], object] = lambda asked: None
        self.threads: set[str] = set()

    def plan(self, request: RecommendRequest) -> FakePlan:
        self.threads.add(threading.current_thread().name)
        self.before(request)
        full = [Owner(request.tenant, item_id).full_id for item_id in request.candidates]
        for index, candidate in enumerate(request.candidates):
            if full[index] not in self._library.texts:
                raise NotFoundError(f"unknown item {candidate!r}", field=f"candidates[{index}].item_id")
        wanted = tuple(FakePlannedBlock(full_id, self._library.texts[full_id]) for full_id in full)
        return FakePlan(request, self._library.versions.begin(), wanted)

    def plan_generation(self, request: GenerateRequest) -> FakeGenerationPlan:
        self.before(request)
        return FakeGenerationPlan(request.prompt, self._library.versions.begin())

    def decode(self, token_ids: Sequence[int]) -> str:
        """1 is "a", 2 is "b"."""
        return "".join(chr(ord("a") - 1 + token_id) for token_id in token_ids)

    def item_block(self, owner: Owner) -> FakePlannedBlock | None:
        text = self._library.texts.get(owner.full_id)
        return None if text is None else FakePlannedBlock(owner.full_id, text)

    def plan_write(self, write: Write) -> FakeWritePlan:
        self.before(write)
        texts = self._library.texts
        build: tuple[FakePlannedBlock, ...] = ()
        grow_from, drop = None, ()
        if isinstance(write, PutItems):
            if not write.items:
                raise InvalidRequestError("items is empty", field="items")
            build = tuple(
                FakePlannedBlock(Owner(write.tenant, item.item_id).full_id, item.title) for item in write.items
            )
        elif isinstance(write, PutUser):
            events = write.user.events
            text = "".join(event.title for event in events)
            build = (FakePlannedBlock(Owner(write.tenant, write.user.user_id).full_id, text, BlockKind.HISTORY),)
        elif isinstance(write, AppendEvents):
            full_id = Owner(write.tenant, write.user_id).full_id
            if full_id not in texts:
                raise NotFoundError(f"unknown user {write.user_id!r}", field="user_id")
            grow_from = FakePlannedBlock(full_id, texts[full_id], BlockKind.HISTORY)
            added = "".join(event.title for event in write.events)
            build = (FakePlannedBlock(full_id, grow_from.text + added, BlockKind.HISTORY),)
        elif isinstance(write, DeleteItems):
            drop = tuple((BlockKind.ITEM, Owner(write.tenant, item_id)) for item_id in write.item_ids)
        else:
            drop = ((BlockKind.HISTORY, Owner(write.tenant, write.user_id)),)
        return FakeWritePlan(write, self._library.versions.begin(), build, grow_from, drop)


class FakeWorker:
    """Answers on a thread of its own, one thing after the other, after `before(name)`, which may block or raise.

    `seen` has what its thread came to: candidates of requests, owners of blocks.
    """

    def __init__(self, log: list[Any]):
        self.seen: list[Any] = []
        self.before: Callable[[str], object] = lambda name: None
        self.stats = FakeWorkerStats()
        self.lost: Future[None] = Future()
        self.forgotten: list[int] = []
        self.stopped: list[float] = []
        self.deadlines_s: list[float | None] = []  # of generations
        self._log = log
        self._queue: SimpleQueue[tuple[str, Any, Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def num_waiting(self) -> int:
        return self._queue.qsize()

    def start(self) -> None:
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        self.stopped.append(grace_s)
        self._queue.put(None)

    def submit(self, plan: FakePlan, *, arrival_s: float, deadline_s: float | None) -> Future[Any]:
        return self._put("submit", plan.request.candidates, lambda: ranked(plan.request))

    def fill(self, blocks: Sequence[FakePlannedBlock], version: int) -> Future[int]:
        return self._put("fill", [planned.owner for planned in blocks], lambda: len(blocks))

    def grow(self, former: FakePlannedBlock, block: FakePlannedBlock, version: int) -> Future[int]:
        return self._put("grow", (former.text, block.text), lambda: 1)

    def drop(self, names: Sequence[tuple[BlockKind, Owner]], version: int) -> Future[int]:
        return self._put("drop", [owner.full_id for _, owner in names], lambda: len(names))

    def generate(
        self, source: Any, sampling: Any, *, deadline_s: float | None = None, listener: Any = None
    ) -> Future[list[int]]:
        """Tokens 1, 2, 3; `before` is called with each, too."""

        def answer() -> list[int]:
            if listener is not None:
                listener.on_prompt(TokenCounts(cached=7))
                for token_id in (1, 2, 3):
                    self.before(f"token {token_id}")
                    listener.on_token(token_id)
            return [1, 2, 3]

        self.deadlines_s.append(deadline_s)
        return self._put("generate", source, answer)

    def choose_orders(self, seed: int) -> Future[int]:
        return self._put("choose_orders", seed, lambda: 10)

    def build_semantic_pool(self, seed: int) -> Future[int]:
        return self._put("build_semantic_pool", seed, lambda: 20)

    def call(self, task: Callable[[Any], Any]) -> Future[Any]:
        return self._put("call", None, lambda: task(self))

    def forget_versions(self, before: int) -> None:
        self.forgotten.append(before)

    def _put(self, name: str, argument: Any, answer: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._queue.put((name, argument, future, answer))
        return future

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            name, argument, future, answer = work
            if not future.set_running_or_notify_cancel():
                continue
            self.seen.append(argument)
            self._log.append(name)
            try:
                self.before(name)
                future.set_result(answer())
            except Exception as error:
                future.set_exception(error)


class Slices:
    """A router over fake slices, started; `log` has what swaps and workers did, in order."""

    def __init__(self, num_workers: int = 1, *, planner_threads: int = 1, **routing: Any):
        self.log: list[Any] = []
        self.clock = Clock()
        self.library = FakeLibrary(self.log)
        self.planner = FakePlanner(self.library)
        self.workers = [FakeWorker(self.log) for _ in range(num_workers)]
        self.router = Router(
            self.planner,
            self.workers,
            self.library,
            INFO,
            planner_threads=planner_threads,
            count_compilations=lambda: 7,
            clock=self.clock,
            **routing,
        )

    @property
    def worker(self) -> FakeWorker:
        return self.workers[0]

    def __enter__(self) -> "Slices":
        self.router.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.router.stop(0.0)

    def local(self) -> LocalEngine:
        return LocalEngine(self.router, lambda text: Block(BlockKind.TASK, np.zeros(len(text), np.int32), 0))


def ask(*numbers: int) -> RecommendRequest:
    return RecommendRequest(tuple(f"item-{number}" for number in numbers), "ann")


def until_refused(slices: Slices) -> None:
    """Asks until the router takes no more, as it was told to stop on another thread; give it `NO_LIMITS`."""
    with contextlib.suppress(UnavailableError):
        while True:
            slices.router.submit(ask(9))
