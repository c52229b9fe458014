"""Slices that do nothing until a test says so, over the engine's own library: every interleaving can be had.

Contents are numbers: an item has one, a history one for each event. An answer says which numbers were ranked from.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from fake_router import INFO

from rcjax.catalog.types import Event, Item, User
from rcjax.engine.library import Library
from rcjax.engine.plan import Change, PlannedBlock, Stored, WritePlan
from rcjax.errors import NotFoundError, UnavailableError
from rcjax.prompt import Block, BlockKind, Owner
from rcjax.request import (
    AppendEvents,
    DeleteItems,
    DeleteUser,
    PutItems,
    PutUser,
    RankedItem,
    RecommendRequest,
    RecommendResult,
    StageTimes,
    TokenCounts,
    Write,
)
from rcjax.serving.owners import ItemOwners
from rcjax.serving.residency import Residency
from rcjax.serving.router import Router

Name = tuple[BlockKind, str]  # of what a slice holds, with the full id
INSTRUCTION = (BlockKind.INSTRUCTION, "")


def put(item_id: str, number: int, tenant: str = "") -> PutItems:
    return PutItems((Item(item_id, str(number)),), tenant)


def user(user_id: str, *numbers: int) -> User:
    return User(user_id, tuple(Event("item", str(number)) for number in numbers))


def block_of(kind: BlockKind, owner: Owner, numbers: Sequence[int]) -> PlannedBlock:
    block = Block(kind, np.array(numbers, np.int32), 0, owner=owner)
    return PlannedBlock(block, hashlib.sha256(f"{kind} {owner} {list(numbers)}".encode()).digest())


def name_of(kind: BlockKind, owner: Owner) -> Name:
    return kind, owner.full_id


def numbers_of(planned: PlannedBlock) -> tuple[int, ...]:
    return tuple(planned.block.token_ids.tolist())


@dataclass(frozen=True)
class ManualPlan:
    request: RecommendRequest
    wanted: tuple[PlannedBlock, ...]
    version: int
    cost_s: float = 1.0
    share_s: float = 1.0
    full_pass_s: float = 1.0

    @property
    def item_ids(self) -> tuple[str, ...]:
        return self.request.candidates


class ManualPlanner:
    def __init__(self, library: Library):
        self.library = library

    def plan(self, request: RecommendRequest) -> ManualPlan:
        version = self.library.versions.begin_read()
        try:
            user = self.library.user(request.tenant, request.user_id)
            items = [self.item_block(Owner(request.tenant, item_id)) for item_id in request.candidates]
            blocks = [user.block if user else None, *items]
            if None in blocks:
                raise NotFoundError("unknown")
            return ManualPlan(request, tuple(blocks), version)
        except BaseException:
            self.library.versions.end_read(version)
            raise

    def item_block(self, owner: Owner) -> PlannedBlock | None:
        stored = self.library.item(owner.tenant, owner.id)
        return None if stored is None else stored.block

    def plan_write(self, write: Write) -> WritePlan:
        former: PlannedBlock | None = None
        drop: tuple[tuple[BlockKind, Owner], ...] = ()
        contents: list[tuple[tuple[BlockKind, Owner], Any, PlannedBlock]] = []
        if isinstance(write, PutItems):
            for item in write.items:
                owner = Owner(write.tenant, item.item_id)
                block = block_of(BlockKind.ITEM, owner, [int(item.title)])
                contents.append(((BlockKind.ITEM, owner), item, block))
        elif isinstance(write, DeleteItems):
            drop = tuple((BlockKind.ITEM, Owner(write.tenant, item_id)) for item_id in write.item_ids)
        elif isinstance(write, DeleteUser):
            drop = ((BlockKind.HISTORY, Owner(write.tenant, write.user_id)),)
        else:
            owner = Owner(write.tenant, write.user.user_id if isinstance(write, PutUser) else write.user_id)
            events = write.user.events if isinstance(write, PutUser) else write.events
            if isinstance(write, AppendEvents):
                stored = self.library.user(owner.tenant, owner.id)
                if stored is None:
                    raise NotFoundError("unknown")
                former, events = stored.block, (*stored.content, *events)
            block = block_of(BlockKind.HISTORY, owner, [int(event.title) for event in events])
            contents.append(((BlockKind.HISTORY, owner), events, block))
        version = self.library.versions.begin_write()
        stored_by_name = [(name, Stored(content, version, block)) for name, content, block in contents]
        commit = [Change(*name, stored) for name, stored in stored_by_name] + [Change(*name, None) for name in drop]
        return WritePlan(write, version, tuple(block for *_, block in contents), former, drop, tuple(commit))


@dataclass(frozen=True)
class ManualStats:
    num_hits: int
    num_misses: int
    num_evictions: int = 0
    pages_total: int = 100
    pages_used: int = 0
    pool_bytes: int = 1000
    num_replica_hits: int = 0
    num_fetched: int = 0
    num_from_host: int = 0
    num_from_disk: int = 0
    fetched_bytes: int = 0
    from_host_bytes: int = 0
    from_disk_bytes: int = 0
    lent_bytes: int = 0
    spilled_bytes: int = 0


class ManualSlice:
    """A worker whose `step` does the next thing that it was given, and which keeps to the directory's rules.

    A block is kept if nothing newer is known of its name; what is older than a deletion is used and let go. What is
    known of deletions goes with `forget_versions`, so that one which comes too early lets deleted content back in.
    """

    def __init__(self, index: int, residency: Residency):
        self.index = index
        self.lost: Future[None] = Future()
        self.held: dict[Name, tuple[PlannedBlock, int]] = {}
        self.work: deque[tuple[str, Future[Any], Callable[[], Any]]] = deque()
        self.num_hits = self.num_misses = 0
        self.is_dead = False
        self._residency = residency
        self._dropped: dict[Name, int] = {}

    # ---- for tests

    def step(self, at: int = 0) -> str:
        """Does one of the things that wait, as a slice's requests and writes overtake each other; what it was."""
        name, future, do = self.work[at]
        del self.work[at]
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(do())
            except Exception as error:
                future.set_exception(error)
        return name

    def die(self) -> None:
        self.is_dead = True
        while self.work:
            _, future, _ = self.work.popleft()
            if future.set_running_or_notify_cancel():
                future.set_exception(UnavailableError("the slice is lost"))
        self.lost.set_exception(RuntimeError("the device fell off"))

    def evict(self, name: Name) -> None:
        planned, _ = self.held.pop(name)
        self._residency.evict(self.index, planned.key)

    def holds(self, kind: BlockKind, full_id: str, *numbers: int) -> bool:
        held = self.held.get((kind, full_id))
        return held is not None and numbers_of(held[0]) == numbers

    # ---- a worker

    @property
    def stats(self) -> ManualStats:
        return ManualStats(self.num_hits, self.num_misses, pages_used=len(self.held))

    def start(self) -> None: ...

    def stop(self, grace_s: float) -> None:
        while self.work:
            self.work.popleft()[1].cancel()

    def submit(self, plan: ManualPlan, *, arrival_s: float, deadline_s: float | None) -> Future[RecommendResult]:
        def rank() -> RecommendResult:
            numbers = [self._read(planned, plan.version) for planned in plan.wanted]
            ranking = [
                RankedItem(item_id, float(one[0]), rank)
                for rank, (item_id, one) in enumerate(zip(plan.item_ids, numbers[1:], strict=True), start=1)
            ]
            return RecommendResult(tuple(ranking), TokenCounts(), StageTimes(), str(numbers[0]))

        return self._put("submit", rank)

    def fill(self, blocks: Sequence[PlannedBlock], version: int) -> Future[int]:
        return self._put("fill", lambda: sum(self._make(planned, version) for planned in blocks))

    def grow(self, former: PlannedBlock, block: PlannedBlock, version: int) -> Future[int]:
        return self._put("grow", lambda: self._make(block, version))

    def drop(self, names: Sequence[tuple[BlockKind, Owner]], version: int) -> Future[int]:
        return self._put("drop", lambda: sum(self._drop(name_of(*name), version) for name in names))

    def generate(self, plan: Any, sampling: Any) -> Future[list[int]]:
        raise NotImplementedError

    def choose_orders(self, seed: int) -> Future[int]:
        raise NotImplementedError

    def build_semantic_pool(self, seed: int) -> Future[int]:
        raise NotImplementedError

    def call(self, task: Callable[[Any], Any]) -> Future[Any]:
        return self._put("call", lambda: task(self))

    def forget_versions(self, before: int) -> None:
        self._dropped = {name: version for name, version in self._dropped.items() if version >= before}

    def _put(self, name: str, do: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        if self.is_dead:
            future.set_exception(UnavailableError("the slice is lost"))
        else:
            self.work.append((name, future, do))
        return future

    def _read(self, planned: PlannedBlock, version: int) -> tuple[int, ...]:
        """What is ranked from: the block that is held under its key, else one that is computed now."""
        is_miss = self._make(planned, version)
        self.num_misses += is_miss
        self.num_hits += not is_miss
        return numbers_of(planned)

    def _make(self, planned: PlannedBlock, version: int) -> bool:
        """Whether it had to be computed."""
        name = name_of(planned.block.kind, planned.block.owner)
        former, former_version = self.held.get(name, (None, 0))
        if former is not None and former.key == planned.key:
            self.held[name] = former, max(version, former_version)
            return False
        if version >= max(former_version, self._dropped.get(name, 0)):
            if former is not None:
                self.evict(name)
            self.held[name] = planned, version
            self._residency.commit(self.index, planned.key)
        return True

    def _drop(self, name: Name, version: int) -> bool:
        held = self.held.get(name)
        if held is not None and held[1] > version:
            return False
        self._dropped[name] = max(version, self._dropped.get(name, 0))
        if held is not None:
            self.evict(name)
        return held is not None


class ManualMesh:
    """A router over manual slices, started, with `now_s` for its clock.

    `settle` before looking: it lets the writer's thread finish.
    """

    def __init__(self, num_slices: int, *, owners: ItemOwners | None = None, **routing: Any):
        self.now_s = 0.0
        self.residency = Residency(num_slices)
        self.library = Library(2**20)
        self.slices = [ManualSlice(index, self.residency) for index in range(num_slices)]
        self.router = Router(
            ManualPlanner(self.library),
            self.slices,
            self.library,
            INFO,
            residency=self.residency,
            owners=owners,
            clock=lambda: self.now_s,
            **routing,
        )
        self.router.start()

    def __enter__(self) -> "ManualMesh":
        return self

    def __exit__(self, *exception: object) -> None:
        self.router.stop(0.0)

    @property
    def living(self) -> list[ManualSlice]:
        return [one for one in self.slices if not one.is_dead]

    def ask(self, user_id: str, *item_ids: str, tenant: str = "") -> Future[RecommendResult]:
        (future,) = self.router.submit_planned([RecommendRequest(item_ids, user_id, tenant=tenant)])
        return future

    def write(self, write: Write) -> Future[Any]:
        future = self.router.submit_write(write)
        self.settle()
        return future

    def settle(self) -> None:
        """Waits until the writer's thread has done all that it can: a step may have another one follow."""
        for _ in range(6):
            reached = threading.Event()
            self.router._writer.soon(reached.set)
            assert reached.wait(60)

    def run(self) -> None:
        """Has all slices do all that they were given, and what follows from that."""
        self.settle()
        while busy := [one for one in self.slices if one.work]:
            for one in busy:
                one.step()
            self.settle()

    def do(self, write: Write) -> Any:
        """The result of a write that nothing comes between."""
        future = self.write(write)
        self.run()
        return future.result(0)
