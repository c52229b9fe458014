"""Writes: planned on a thread of their own, built on slices, then swapped in; no thread waits for a slice."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

from rcjax.cache.placement import Placement
from rcjax.engine.threads import join_all
from rcjax.errors import ResourceExhaustedError
from rcjax.prompt import BlockKind, Owner
from rcjax.request import AppendEvents, DeleteUser, PutUser, Rebalanced, Write, WriteResult
from rcjax.serving.calls import Call, Calls
from rcjax.serving.fan_out import FanOut
from rcjax.serving.owners import ItemOwners, OwnerRule
from rcjax.serving.parts import BlockToBuild, Library, Planner, WritePlanned
from rcjax.serving.rebalance import Rebalance, renumbered
from rcjax.serving.versions import VersionKeeper
from rcjax.serving.write_log import NoLog, WriteLog


class Writer:
    """Applies writes, many at once, so that the blocks of several share passes; those of one user in their order.

    What is put is built before the library's swap, so that the requests that see it find it: an item on the slices that
    own it, a history on all. What is deleted is swapped out first, so that no new plan names it, and answered once
    every slice has dropped it. A write that nobody waits for any more is dropped if it has not started; else it runs to
    its end. Rebalances take their steps between writes.
    """

    def __init__(
        self,
        planner: Planner,
        library: Library,
        versions: VersionKeeper,
        owners: ItemOwners,
        fan_out: FanOut,
        *,
        alive: Callable[[], tuple[int, ...]],
        forget_user: Callable[[Owner], None],
        clock: Callable[[], float],
        log: WriteLog | None = None,
    ):
        """`log` keeps writes elsewhere too; by default this process alone has them."""
        self.calls: Calls[Any] = Calls(clock)
        self._planner = planner
        self._library = library
        self._versions = versions
        self._owners = owners
        self._fan_out = fan_out
        self._alive = alive
        self._forget_user = forget_user
        self._log = log or NoLog()
        self._to_do: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()  # of the three below
        self._behind: dict[Owner, deque[Call[Write]]] = {}  # by user with a write under way: those that wait for it
        self._under_way: set[Call[Write]] = set()  # begun
        self._barriers: list[tuple[set[Call[Write]], Callable[[], None]]] = []  # what waits for those to end
        self._is_rebalancing = False  # the writer's thread and the slices' take turns at it
        self._thread = threading.Thread(target=self._run, name="rcjax-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread once it has taken the steps that wait, and waits a moment for that."""
        self._to_do.put(None)
        join_all([self._thread])

    def submit(self, write: Write, deadline_s: float | None) -> Future[WriteResult]:
        call = self.calls.open(write, None, deadline_s)
        user = _user_of(write)
        if user is not None:
            with self._lock:
                behind = self._behind.get(user)
                if behind is not None:
                    behind.append(call)
                    return call.future
                self._behind[user] = deque()
        self.soon(lambda: self._start(call))
        return call.future

    def rebalance(self, following: Placement | OwnerRule) -> Future[Rebalanced]:
        """See `Router.rebalance`; a rule is taken as it is."""
        if following.num_slices != self._owners.num_slices:
            raise ValueError(f"a placement on {following.num_slices} slices; the mesh has {self._owners.num_slices}")
        call = self.calls.open(following, None, None)
        self.soon(lambda: self._begin_rebalance(call))
        return call.future

    def soon(self, step: Callable[[], None]) -> None:
        """Has the writer's thread call `step`, after what waits there already."""
        self._to_do.put(step)

    def after_begun(self, step: Callable[[], None]) -> None:
        """Has the writer's thread call `step` once all writes have ended that are begun now."""
        with self._lock:
            if self._under_way:
                self._barriers.append((set(self._under_way), step))
                return
        self.soon(step)

    def _run(self) -> None:
        while (step := self._to_do.get()) is not None:
            step()

    def _begin_rebalance(self, call: Call[Placement | OwnerRule]) -> None:
        if self._is_rebalancing:
            self.calls.close(call, ResourceExhaustedError("a rebalance is under way; retry once it has ended"))
            return

        def ended(outcome: Rebalanced | Exception) -> None:
            self._is_rebalancing = False
            self.calls.close(call, outcome)

        self._is_rebalancing = True
        parts = (self._planner, self._library, self._versions, self._owners, self._fan_out)
        try:
            following = call.body
            if isinstance(following, Placement):
                following = self._owners.adapted(renumbered(following, self._owners.rule, self._library))
            rebalance = Rebalance(following, *parts, self, ended)
        except Exception as error:
            ended(error)
            return
        rebalance.begin()

    def _start(self, call: Call[Write]) -> None:
        if not self.calls.is_wanted(call):
            self._let_next(call)
            return
        with self._lock:
            self._under_way.add(call)
        self._begin(call)

    def _begin(self, call: Call[Write]) -> None:
        try:
            plan: WritePlanned = self._planner.plan_write(call.body)
        except Exception as error:
            self._end(call, error)
            return

        def fail(error: Exception) -> None:
            self._end(call, error, plan)

        try:
            if plan.drop:  # a deletion, or a history that has become empty
                self._drop(call, plan, fail)
            else:
                self._build(call, plan, fail)
        except Exception as error:
            fail(error)

    def _build(self, call: Call[Write], plan: WritePlanned, fail: Callable[[Exception], None]) -> None:
        def swap(num_built: int) -> None:
            self._library.swap(plan)
            num_tokens = sum(len(planned.block) for planned in plan.build)
            self._end(call, WriteResult(num_built, num_tokens=num_tokens), plan)

        def keep(num_built: int) -> None:
            self._log.append(plan, lambda: swap(num_built), fail)

        if plan.grow_from is not None:
            self._fan_out.grow(plan.grow_from, plan.build[0], plan.version, keep, fail)
        else:
            self._fan_out.fill(self._parts(plan.build), plan.version, keep, fail)

    def _drop(self, call: Call[Write], plan: WritePlanned, fail: Callable[[Exception], None]) -> None:
        num_deleted = self._library.swap(plan)
        if isinstance(call.body, DeleteUser):
            self._forget_user(Owner(call.body.tenant, call.body.user_id))
        result = WriteResult(num_deleted=num_deleted)

        def drop() -> None:
            self._fan_out.drop_everywhere(plan.drop, plan.version, lambda _: self._end(call, result, plan), fail)

        self._log.append(plan, drop, fail)

    def _parts(self, blocks: Sequence[BlockToBuild]) -> dict[int, list[BlockToBuild]]:
        """The blocks of each slice."""
        parts: dict[int, list[BlockToBuild]] = {}
        for planned in blocks:
            is_item = planned.block.kind is BlockKind.ITEM
            for index in self._owners.slices_of(planned.block.owner.full_id) if is_item else self._alive():
                parts.setdefault(index, []).append(planned)
        return parts

    def _end(self, call: Call[Write], outcome: WriteResult | Exception, plan: WritePlanned | None = None) -> None:
        if plan is not None:
            self._versions.end_write(plan.version)
        self.calls.close(call, outcome)
        self._let_next(call)
        with self._lock:
            self._under_way.discard(call)
            for begun, _ in self._barriers:
                begun.discard(call)
            open_now = [step for begun, step in self._barriers if not begun]
            self._barriers = [barrier for barrier in self._barriers if barrier[0]]
        for step in open_now:
            self.soon(step)

    def _let_next(self, call: Call[Write]) -> None:
        user = _user_of(call.body)
        if user is None:
            return
        with self._lock:
            behind = self._behind[user]
            if not behind:
                del self._behind[user]
                return
            following = behind.popleft()
        self.soon(lambda: self._start(following))


def _user_of(write: Write) -> Owner | None:
    """The user that a write changes, if it changes one."""
    if isinstance(write, PutUser):
        return Owner(write.tenant, write.user.user_id)
    return Owner(write.tenant, write.user_id) if isinstance(write, AppendEvents | DeleteUser) else None
