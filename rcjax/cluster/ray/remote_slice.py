"""A slice of another host, as a router knows its worker: what it is asked goes to the host's actor."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from rcjax.cluster.ray.handle import HostHandle
from rcjax.cluster.ray.parcel import BlocksSent, GenerationSent, PlanSent
from rcjax.engine.generation import SILENCE, Listener, Sampling
from rcjax.engine.plan import Plan, PlannedBlock
from rcjax.engine.request_id import current_request_id
from rcjax.engine.state import fail, pass_on, resolve
from rcjax.engine.worker_stats import WorkerStats
from rcjax.errors import InvalidRequestError, RcjaxError, UnavailableError
from rcjax.prompt import Block, BlockKind, Owner
from rcjax.request import RecommendResult
from rcjax.serving.residency import Residency

NO_STATS = WorkerStats.nothing()


@dataclass(frozen=True, slots=True)
class HeldElsewhere:
    """A hint where blocks can be had that a slice may miss: of block n of `numbers`, the slice `holders[n]`."""

    numbers: tuple[int, ...] = ()
    holders: tuple[tuple[str, str, int], ...] = ()  # host, incarnation, number of the slice there


@dataclass(slots=True)
class Seats:
    """Who has each place of a cluster, as one process knows it; one thread at a time changes it."""

    holders: dict[int, tuple[HostHandle, int]] = field(default_factory=dict)  # by place: a host, the slice's number

    def elsewhere(self, place: int, blocks: Sequence[PlannedBlock], residency: Residency) -> HeldElsewhere:
        """Where other hosts hold what the slice of `place` does not."""
        if not blocks or len(self.holders) < 2:
            return HeldElsewhere()
        held = residency.holders([planned.key for planned in blocks])
        mine = self.holders.get(place)
        numbers, holders = [], []
        for number in np.flatnonzero((held[:, place] == 0) & held.any(axis=1)).tolist():
            found = [self.holders.get(other) for other in np.flatnonzero(held[number]).tolist()]
            others = [one for one in found if one is not None and mine is not None and one[0] is not mine[0]]
            if others:
                host, index = others[blocks[number].key[-1] % len(others)]  # so that not all ask the same one
                numbers.append(number)
                holders.append((host.name, host.incarnation, index))
        return HeldElsewhere(tuple(numbers), tuple(holders))


class RemoteSlice:
    """The worker of one place (`rcjax.serving.parts.Worker`), which hosts take and leave; any thread may use it.

    While none has it, and when one goes, calls fail as unavailable. `lost` is done then, and never fails: a router does
    not end because a host has. Times are sent as seconds from now, as hosts' clocks differ.
    """

    def __init__(
        self,
        place: int,
        seats: Seats,
        residency: Residency,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
    ):
        self.place = place
        self.lost: Future[None] = _done()
        self.stats = NO_STATS
        self._seats = seats
        self._residency = residency
        self._loop = loop
        self._clock = clock
        self._lock = threading.Lock()  # of the two below
        self._host: HostHandle | None = None
        self._open: set[Future[Any]] = set()
        self._number = 0

    def attach(self, host: HostHandle, number: int) -> None:
        """The slice `number` of `host` takes the place."""
        with self._lock:
            self._host, self._number = host, number
        self._seats.holders[self.place] = host, number
        self.lost = Future()

    def detach(self, why: str) -> None:
        """The host is gone: what it had is told so, and so is what follows."""
        with self._lock:
            self._host = None
            left, self._open = self._open, set()
        self._seats.holders.pop(self.place, None)
        if not self.lost.done():
            self.lost.set_result(None)
        for future in left:
            fail(future, UnavailableError(why))

    def start(self) -> None:
        """Nothing: the host's thread runs already."""

    def stop(self, grace_s: float) -> None:
        """Lets go of the host, which goes on: others may use it."""
        self.detach("the server stopped before this call was done")

    def submit(self, plan: Plan, *, arrival_s: float, deadline_s: float | None = None) -> Future[RecommendResult]:
        elsewhere = self._elsewhere(plan.wanted)
        asked = self._ask("rank", PlanSent.of(plan), elsewhere, *self._from_now(arrival_s, deadline_s))
        return _with_result(asked, lambda result: self._timed(result, arrival_s))

    def generate(
        self,
        source: Plan | Block,
        sampling: Sampling,
        deadline_s: float | None = None,
        listener: Listener = SILENCE,
    ) -> Future[list[int]]:
        wanted = () if isinstance(source, Block) else source.wanted
        sent, elsewhere = GenerationSent.of(source, sampling), self._elsewhere(wanted)
        args = (sent, elsewhere, *self._from_now(0.0, deadline_s)[1:])
        return self._begin(
            lambda host, number: asyncio.run_coroutine_threadsafe(
                host.listen("generate", listener, number, *args), self._loop
            )
        )

    def fill(self, blocks: Sequence[PlannedBlock], version: int) -> Future[int]:
        asked = self._ask("fill", BlocksSent.of(blocks), self._elsewhere(blocks), version)

        def filled(num_built: int) -> int:
            for planned in blocks:  # the host says so too, but whoever is filled next may copy from it already
                self._residency.commit(self.place, planned.key)
            return num_built

        return _with_result(asked, filled)

    def grow(self, former: PlannedBlock, block: PlannedBlock, version: int) -> Future[int]:
        return self._ask("grow", BlocksSent.of((former, block)), version)

    def drop(self, names: Sequence[tuple[BlockKind, Owner]], version: int) -> Future[int]:
        return self._ask("drop", tuple(names), version)

    def choose_orders(self, seed: int) -> Future[int]:
        return self._ask("choose_orders", seed)

    def build_semantic_pool(self, seed: int) -> Future[int]:
        return self._ask("build_semantic_pool", seed)

    def call(self, task: Callable[[Any], Any]) -> Future[Any]:
        """Refused: no function of this process runs in another."""
        refused: Future[Any] = Future()
        refused.set_exception(
            InvalidRequestError("this slice is another process's, which runs nothing of this one; ask an engine there")
        )
        return refused

    def forget_versions(self, before: int) -> None:
        """Nothing: one process tells the hosts, for all that read (`rcjax.cluster.ray.keeper`)."""

    def _elsewhere(self, blocks: Sequence[PlannedBlock]) -> HeldElsewhere:
        return self._seats.elsewhere(self.place, blocks, self._residency)

    def _from_now(self, arrival_s: float, deadline_s: float | None) -> tuple[float, float | None, str]:
        now_s = self._clock()
        return now_s - arrival_s, None if deadline_s is None else deadline_s - now_s, current_request_id()

    def _timed(self, result: RecommendResult, arrival_s: float) -> RecommendResult:
        """With the way here and back in the time to the first item."""
        ttft_ms = (self._clock() - arrival_s) * 1e3
        return replace(result, times=replace(result.times, ttft_ms=ttft_ms))

    def _ask(self, method: str, *args: Any) -> Future[Any]:
        return self._begin(lambda host, number: host.ask(method, number, *args))

    def _begin(self, ask: Callable[[HostHandle, int], Future[Any]]) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            host, number = self._host, self._number
            if host is not None:
                self._open.add(future)
        if host is None:
            future.set_exception(UnavailableError("no host has this slice"))
            return future
        asked = ask(host, number)
        future.add_done_callback(partial(self._close, asked))
        asked.add_done_callback(lambda answered: pass_on(answered, future))
        return future

    def _close(self, asked: Future[Any], future: Future[Any]) -> None:
        with self._lock:
            self._open.discard(future)
        if future.cancelled():
            asked.cancel()


def _done() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future


def _with_result(asked: Future[Any], change: Callable[[Any], Any]) -> Future[Any]:
    """A future of what `change` makes of the result; cancelling it cancels `asked`."""
    future: Future[Any] = Future()

    def done(answered: Future[Any]) -> None:
        if answered.cancelled():
            future.cancel()
            return
        error = answered.exception()
        if error is not None:
            fail(future, error)
            return
        try:
            resolve(future, change(answered.result()))
        except RcjaxError as refused:
            fail(future, refused)

    asked.add_done_callback(done)
    future.add_done_callback(lambda one: asked.cancel() if one.cancelled() else None)
    return future
