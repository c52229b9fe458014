"""The actor of a host: its slices, which routers and other hosts ask, and its replica of the library."""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import ray
import ray.util

from rcjax.cluster.ray.answer import Answer, answered
from rcjax.cluster.ray.joining import Joining
from rcjax.cluster.ray.lending import LoanDesk, RemotePeers
from rcjax.cluster.ray.news import Hello, News
from rcjax.cluster.ray.outbox import Messages, Outbox, ToldResidency
from rcjax.cluster.ray.parcel import BlocksSent, GenerationSent, PlanSent
from rcjax.cluster.ray.profile import Profile
from rcjax.cluster.ray.records import Record, dump, replay
from rcjax.cluster.ray.remote_slice import HeldElsewhere
from rcjax.cluster.ray.token_stream import TokenStream
from rcjax.config import Settings
from rcjax.engine.plan import PlannedBlock
from rcjax.engine.request_id import working_on
from rcjax.engine.worker import SliceWorker
from rcjax.errors import ResourceExhaustedError, UnavailableError
from rcjax.prompt import BlockKind, Owner
from rcjax.request import RecommendResult, TokenCounts
from rcjax.serving.peers import SlicePeers, connect_slices
from rcjax.serving.startup import new_slices

logger = logging.getLogger(__name__)

NEWS_PAUSE_S = 0.5  # news without a message, so that routers hear that the host is there
GATHER_S = 0.002  # that messages wait for others to go with


class HostActor:
    """The slices of one host. Ray runs its methods on one event loop; the slices' threads do the work.

    Those that take `incarnation` answer with an `Answer`, which is that the host is gone where another one is meant.
    A host whose slice is lost ends its process, and Ray starts it anew.
    """

    def __init__(self, settings: Settings, name: str, *, self_test: bool = True):
        """Loads the model and compiles: takes seconds to minutes. It joins the cluster on a thread of its own."""
        self._name = name
        self._incarnation = uuid.uuid4().hex
        self._clock = time.monotonic
        self._outbox = Outbox()
        self._own = own = new_slices(
            settings, None, lambda step: logger.info("%s: %s", name, step), lambda n: ToldResidency(n, self._outbox)
        )
        self._workers: list[SliceWorker] = own.workers
        several = len(own.workers) > 1
        self._peers = [
            RemotePeers(SlicePeers(index, own.workers, own.residency) if several else None)
            for index in range(len(own.workers))
        ]
        self._tiers = connect_slices(settings, own.workers, own.residency, self._peers.__getitem__)
        test = own.self_test(settings) if self_test else None
        for worker in own.workers:
            worker.lost.add_done_callback(_end_if_lost)
            worker.start()
        if test is not None:
            try:
                test.run(own.workers)
            finally:
                test.close()
        self._desk = LoanDesk(int(settings.cluster.transfer_bytes))
        self._library = own.planner.library
        self._floor = 0  # plans of older versions are refused
        self._newest = 0
        self._first_place: int | None = None
        self._joining = Joining(self._hello, self._library)
        self._joining.start()

    # ---- requests

    async def rank(
        self,
        incarnation: str,
        number: int,
        sent: PlanSent,
        elsewhere: HeldElsewhere,
        age_s: float,
        left_s: float | None,
        request_id: str,
    ) -> Answer:
        """The ranking of a request that came `age_s` ago and is waited for `left_s` longer."""

        async def rank() -> RecommendResult:
            self._check(incarnation, sent.version)
            now_s = self._clock()
            plan = sent.planned(self._own.planner)
            self._peers[number].note(plan.wanted, elsewhere)
            with working_on(request_id):
                deadline_s = None if left_s is None else now_s + left_s
                future = self._workers[number].submit(plan, arrival_s=now_s - age_s, deadline_s=deadline_s)
            return await asyncio.wrap_future(future)

        return await answered(rank())

    async def generate(
        self,
        incarnation: str,
        number: int,
        sent: GenerationSent,
        elsewhere: HeldElsewhere,
        left_s: float | None,
        request_id: str,
    ) -> AsyncIterator[Answer]:
        """What the prompt is made of, and each token as it comes; the last may be an error."""
        stream = TokenStream(asyncio.get_running_loop())

        async def begin() -> None:
            self._check(incarnation, sent.source.version)
            source = sent.planned(self._own.planner)
            wanted = getattr(source, "wanted", ())
            self._peers[number].note(wanted, elsewhere)
            deadline_s = None if left_s is None else self._clock() + left_s
            with working_on(request_id):
                stream.follow(self._workers[number].generate(source, sent.sampling, deadline_s, stream))

        begun = await answered(begin())
        if begun.error is not None:
            yield begun
            return
        told: Answer | TokenCounts | int
        async for told in stream.read():
            yield told if isinstance(told, Answer) else Answer(told)

    # ---- writes

    async def fill(
        self, incarnation: str, number: int, blocks: BlocksSent, elsewhere: HeldElsewhere, version: int
    ) -> Answer:
        async def fill() -> int:
            self._check(incarnation)
            planned = self._planned(blocks)
            self._peers[number].note(planned, elsewhere)
            return await asyncio.wrap_future(self._workers[number].fill(planned, self._heard(version)))

        return await answered(fill())

    async def grow(self, incarnation: str, number: int, blocks: BlocksSent, version: int) -> Answer:
        async def grow() -> int:
            self._check(incarnation)
            former, block = self._planned(blocks)
            return await asyncio.wrap_future(self._workers[number].grow(former, block, self._heard(version)))

        return await answered(grow())

    async def drop(
        self, incarnation: str, number: int, names: Sequence[tuple[BlockKind, Owner]], version: int
    ) -> Answer:
        async def drop() -> int:
            self._check(incarnation)
            return await asyncio.wrap_future(self._workers[number].drop(names, self._heard(version)))

        return await answered(drop())

    async def record(self, incarnation: str, records: Sequence[Record]) -> Answer:
        """Keeps what a write makes of items and users."""

        async def record() -> None:
            self._check(incarnation)
            for one in records:
                self._heard(one.version)
            replay(self._library, records)

        return await answered(record())

    async def forget_versions(self, before: int) -> None:
        """No plan or write older than `before` lives; one that comes all the same is refused."""
        self._floor = max(self._floor, before)
        for worker in self._workers:
            worker.forget_versions(before)

    async def choose_orders(self, incarnation: str, number: int, seed: int) -> Answer:
        async def choose() -> int:
            self._check(incarnation)
            return await asyncio.wrap_future(self._workers[number].choose_orders(seed))

        return await answered(choose())

    async def build_semantic_pool(self, incarnation: str, number: int, seed: int) -> Answer:
        async def build() -> int:
            self._check(incarnation)
            return await asyncio.wrap_future(self._workers[number].build_semantic_pool(seed))

        return await answered(build())

    # ---- what others may know

    async def lend(self, incarnation: str, number: int, blocks: BlocksSent) -> Answer:
        """Copies of blocks that a slice holds, for a slice of another host."""

        async def lend() -> Any:
            self._check(incarnation)
            return await self._desk.lend(self._workers[number], self._planned(blocks))

        return await answered(lend())

    async def news(self, incarnation: str, after: int | None) -> Answer:
        """What is new since message `after`, as soon as there is something, or after a pause; None asks for all."""

        async def news() -> News:
            self._check(incarnation)
            messages = None
            if after is not None:
                await self._outbox.feed.wait(after, NEWS_PAUSE_S)
                await asyncio.sleep(GATHER_S)
                messages = self._outbox.since(after)
            is_whole = messages is None
            if messages is None:
                messages = await self._all_keys()
            stats = tuple(worker.stats for worker in self._workers)
            return News(messages, is_whole, stats, self._own.parts.cost.timed())

        return await answered(news())

    async def is_there(self, incarnation: str) -> Answer:
        """Nothing, from the incarnation that is meant."""

        async def check() -> None:
            self._check(incarnation)

        return await answered(check())

    async def hello(self) -> Hello:
        return self._hello()

    async def num_waiting(self) -> int:
        """Calls that its slices have not answered."""
        return sum(worker.num_waiting for worker in self._workers)

    async def open(self, incarnation: str, first_place: int, floor: int) -> Answer:
        """It has its places from now on, and takes plans from version `floor` on."""

        async def open_places() -> None:
            self._check(incarnation)
            self._first_place = first_place
            self._floor = max(self._floor, floor)

        return await answered(open_places())

    async def dump(self) -> AsyncIterator[list[Record]]:
        """All that its library has, in chunks."""
        for chunk in dump(self._library):
            yield chunk

    def _hello(self) -> Hello:
        return Hello(
            name=self._name,
            incarnation=self._incarnation,
            node=ray.util.get_node_ip_address(),
            pid=os.getpid(),
            num_slices=len(self._workers),
            profile=Profile.of(self._own),
            newest=self._newest,
            first_place=self._first_place,
        )

    def _check(self, incarnation: str, version: int | None = None) -> None:
        if incarnation != self._incarnation:
            raise UnavailableError(f"host {self._name} has started anew")
        if version is not None and version < self._floor:
            raise ResourceExhaustedError(
                f"this request was planned by version {version} of the library, and host {self._name} takes "
                f"{self._floor} and later; ask again",
                retry_after_s=0.1,
            )

    def _heard(self, version: int) -> int:
        self._newest = max(self._newest, version)
        return version

    def _planned(self, blocks: BlocksSent) -> list[PlannedBlock]:
        return blocks.planned(len(self._own.builder.instruction_ids), self._own.parts.keys)

    async def _all_keys(self) -> Messages:
        end = self._outbox.feed.end  # before they are read: what comes meanwhile is told once more
        marks, keys = bytearray(), bytearray()
        for number, worker in enumerate(self._workers):
            held = await asyncio.wrap_future(worker.call(_keys_of))
            marks += bytes([2 * number + 1]) * len(held)
            keys += b"".join(held)
        return Messages(end, bytes(marks), bytes(keys))


def _keys_of(worker: SliceWorker) -> list[bytes]:
    return [block.key for block in worker.cache.directory.ready_blocks()]


def _end_if_lost(lost: Any) -> None:
    error = lost.exception()
    if error is not None:
        logger.critical("a slice of this host is lost; the host starts anew", exc_info=error)
        with suppress(Exception):
            logging.shutdown()
        os._exit(1)
