"""Slices without devices or threads that fetch from each other: every message and copy goes on when the test says so.

Pages hold a number each, which stands for one page of one block's KV, so that it shows who wrote where.
"""

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
from slice_kit import ScriptedExecutor, Slice
from tiny_engine import PAGE_TOKENS

from rcjax.cache.tiers import KVTiers
from rcjax.engine.executor import NOWHERE, TRANSFER_PAGES
from rcjax.engine.fetch import Fetch, Lender
from rcjax.engine.fetching import Fetches
from rcjax.engine.lending import lend
from rcjax.engine.plan import PlannedBlock
from rcjax.engine.spilling import Spilling
from rcjax.engine.state import fail, resolve
from rcjax.errors import UnavailableError
from rcjax.kernels.kv import KVPages
from rcjax.prompt import BlockKind

Content = tuple[bytes, int]  # a block's key, and which of its pages

_numbers: dict[Content, int] = {}


def number_of(content: Content) -> int:
    return _numbers.setdefault(content, len(_numbers) + 1)


class MemoryExecutor(ScriptedExecutor):
    """Has memory: what `building` says is written when a build starts. `copies_fail` is how many copies will fail."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.memory: dict[int, int] = {}
        self.building: list[tuple[int, Content]] = []
        self.copies_fail = 0

    def build(self, batch, source, destination, shape):
        started = super().build(batch, source, destination, shape)
        self.memory |= {page: number_of(content) for page, content in self.building}
        return started

    def start_read(self, pages):
        numbers = [self.memory.get(page, 0) for page in pages]
        return self.in_parts([_as_pages(numbers)] if numbers else [])

    def in_parts(self, blocks):
        numbers = [number for pages in blocks for number in pages.k[0, :, 0, 0, 0]]
        padded = np.pad(numbers, (0, -len(numbers) % TRANSFER_PAGES)).reshape(-1, TRANSFER_PAGES)
        return tuple(_as_pages(part) for part in padded)

    def bring(self, parts):
        if self.copies_fail:
            self.copies_fail -= 1
            raise RuntimeError("a link is down")
        return tuple(parts)

    def start_write(self, pages, parts):
        numbers = [number for part in parts for number in part.k[0, :, 0, 0, 0]]
        self.memory |= {page: int(number) for page, number in zip(pages, numbers, strict=False) if page != NOWHERE}

    def num_pages_for(self, num_tokens):
        return -(-num_tokens // PAGE_TOKENS)


def _as_pages(numbers: Sequence[int]) -> KVPages:
    array = np.array(numbers, np.int64).reshape(1, -1, 1, 1, 1)
    return KVPages(array, array.copy())


class Jobs:
    """In place of `Transfers`: jobs wait until the test runs them."""

    def __init__(self) -> None:
        self.waiting: list[Any] = []

    def put(self, job: Any) -> None:
        self.waiting.append(job)


class ConnectedSlice(Slice):
    """A slice with peers and tiers; it is its own `Lender`, whose answers wait in `asked` until the test gives them."""

    def __init__(self, index: int, num_pages: int, residency: Any):
        self.index = index
        self.is_dead = False
        self.asked: list[Any] = []
        self.landed: list[Fetch] = []
        self.inward, self.outward = Jobs(), Jobs()
        super().__init__(
            num_pages,
            executor_type=MemoryExecutor,
            on_commit=lambda key: residency.commit(index, key),
            on_evict=lambda key: residency.evict(index, key),
        )
        arrays = self.cache.passes.arrays

        def noting(group):
            self.executor.building = [
                (page, (build.cached.key, at)) for build in group for at, page in enumerate(build.cached.pages)
            ]
            return arrays(group)

        self.cache.passes.arrays = noting

    def connect(self, peers: Any, tiers: KVTiers | None, max_replica_pages: int) -> None:
        self.cache.fetches = Fetches(
            self.executor,
            self.inward,
            self.landed.append,
            self.clock,
            num_waiting=lambda: 1,
            peers=peers,
            tiers=tiers,
        )
        self.directory.replicas.max_pages = max_replica_pages
        if tiers is not None:
            self.cache.spilling = Spilling(self.executor, tiers, self.outward)
            self.directory.on_last_look(self.cache.spilling.note)

    @property
    def load_s(self) -> float:
        return 0.0

    def lend(self, wanted: Sequence[PlannedBlock]) -> Future:
        future: Future = Future()
        if self.is_dead:
            fail(future, UnavailableError("the slice is lost"))
        else:
            self.asked.append((future, wanted))
        return future

    def answer(self) -> None:
        """Lends to who asked first."""
        future, wanted = self.asked.pop(0)
        if not future.done():
            resolve(future, lend(self.cache, wanted))

    def die(self) -> None:
        self.is_dead = True
        for future, _ in self.asked:
            fail(future, UnavailableError("the slice is lost"))
        self.asked.clear()

    def land_fetch(self) -> None:
        self.loop.land_fetch(self.landed.pop(0))
        self.turn()

    def settle(self) -> bool:
        """Takes every step there is; whether there was one."""
        self.turn()
        for queue, step in (
            (self.asked, self.answer),
            (self.inward.waiting, lambda: self.inward.waiting.pop(0)()),
            (self.outward.waiting, lambda: self.outward.waiting.pop(0)()),
            (self.landed, self.land_fetch),
            (self.flights, self.land),
        ):
            if queue:
                step()
                return True
        return False

    def check_memory(self) -> None:
        """Each block that can be found, and each that a request is about to read, is in its pages."""
        for cached in self.directory.ready_blocks():
            if cached.kind != BlockKind.INSTRUCTION:
                self.check_pages(cached)

    def check_pages(self, cached: Any) -> None:
        found = [self.executor.memory.get(page) for page in cached.pages]
        assert found == [number_of((cached.key, at)) for at in range(len(cached.pages))], cached


class OtherSlices:
    """The `Peers` of one of `slices`."""

    def __init__(self, index: int, slices: Sequence[Lender], residency: Any):
        self._index = index
        self._slices = slices
        self._residency = residency

    def holders(self, keys: Sequence[bytes]) -> list[list[Lender]]:
        held = self._residency.holders(keys)
        return [[one for at, one in enumerate(self._slices) if row[at] and at != self._index] for row in held]
