"""A slice that advances a clock where a real one would run passes."""

from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy
from jaxtyping import UInt16

from rcjax.cluster.simulation.blocks import BoundedBlocks
from rcjax.cluster.simulation.costs import CostTable, PassSize
from rcjax.cluster.simulation.sources import Sources

LOCAL, REPLICA = "local", "replica"  # hits: on a block that is placed here, and on one that was brought here before


@dataclass(slots=True, eq=False)
class Work:
    """A request as a slice has it; `keys` are those of its items."""

    number: int
    size: PassSize
    items: Sequence[int]
    keys: Sequence[bytes]
    dispatch: Any = None  # the dispatcher's
    ready_s: float = 0.0  # when all that it waits for has been copied here
    built_tokens: int = 0
    brought: list[int] = field(default_factory=list)  # places in `items` of those that missed
    found: Counter[str] = field(default_factory=Counter)  # items by where they were


@dataclass(frozen=True, slots=True)
class SliceParts:
    """What a slice is given: what is placed there, where the rest comes from, and who hears of what."""

    item_tokens: UInt16[np.ndarray, "N"]
    is_placed: Callable[[int, int], bool]  # an item, a slice
    on_commit: Callable[[int, bytes], None]
    on_evict: Callable[[int, bytes], None]
    on_done: Callable[["SimulatedSlice", Work], None]


class SimulatedSlice:
    """One pass at a time, over the oldest requests that are ready, up to `max_batch`.

    What a request lacks is looked for when it comes. Copies come over links while passes run; what has to be built is
    built right before the pass. Blocks that were brought stay, in `cache_tokens`, and those placed here stay anyway.
    """

    def __init__(
        self,
        environment: simpy.Environment,
        index: int,
        costs: CostTable,
        sources: Sources,
        cache_tokens: int,
        max_batch: int,
        parts: SliceParts,
    ):
        self.index = index
        self.busy_s = 0.0
        self.num_passes = 0
        self._environment = environment
        self._costs = costs
        self._sources = sources
        self._max_batch = max_batch
        self._parts = parts
        self._blocks = BoundedBlocks(cache_tokens, self._evicted)
        self._keys: dict[int, bytes] = {}  # of the blocks that others were told of
        self._ready_s: dict[int, float] = {}  # when the blocks come that are on their way
        self._queue: deque[Work] = deque()
        self._came = environment.event()
        environment.process(self._run())

    def submit(self, work: Work) -> None:
        self._claim(work)
        self._queue.append(work)
        if not self._came.triggered:
            self._came.succeed()

    def _claim(self, work: Work) -> None:
        """Looks for the blocks, and begins to bring what is not here."""
        now_s = self._environment.now
        for place, item in enumerate(work.items):
            if self._parts.is_placed(item, self.index):
                work.found[LOCAL] += 1
            elif self._blocks.use(item):
                work.found[REPLICA] += 1
                work.ready_s = max(work.ready_s, self._ready_s.get(item, 0.0))
            else:
                work.brought.append(place)
        if not work.brought:
            return
        items = [work.items[place] for place in work.brought]
        tokens = [int(self._parts.item_tokens[item]) for item in items]
        brought = self._sources.bring(items, tokens, now_s)
        work.found.update(map(str, brought.origins))
        work.ready_s = max(work.ready_s, brought.ready_s)
        work.built_tokens = brought.built_tokens
        for item, num_tokens in zip(items, tokens, strict=True):
            if self._blocks.put(item, num_tokens, self._sources.token_cost):
                self._ready_s[item] = brought.ready_s

    def _run(self) -> Generator[simpy.Event, Any, None]:
        environment = self._environment
        while True:
            batch = self._batch()
            if batch:
                yield from self._pass(batch)
                continue
            self._came = environment.event()
            if self._queue:
                next_s = min(work.ready_s for work in self._queue)
                yield environment.timeout(next_s - environment.now) | self._came
            else:
                yield self._came

    def _batch(self) -> list[Work]:
        now_s, batch = self._environment.now, []
        for work in self._queue:
            if work.ready_s <= now_s:
                batch.append(work)
                if len(batch) == self._max_batch:
                    break
        for work in batch:
            self._queue.remove(work)
        return batch

    def _pass(self, batch: list[Work]) -> Generator[simpy.Event, Any, None]:
        size = batch[0].size
        for work in batch[1:]:
            size = size + work.size
        seconds = self._costs.pass_s(size)
        built_tokens = sum(work.built_tokens for work in batch)
        if built_tokens:
            seconds += self._costs.begin_s + self._costs.build_s(built_tokens)
        self.busy_s += seconds
        self.num_passes += 1
        yield self._environment.timeout(seconds)
        for work in batch:
            self._commit(work)
            self._parts.on_done(self, work)

    def _commit(self, work: Work) -> None:
        for place in work.brought:
            item, key = work.items[place], work.keys[place]
            self._ready_s.pop(item, None)
            if item in self._blocks and item not in self._keys:
                self._keys[item] = key
                self._parts.on_commit(self.index, key)

    def _evicted(self, item: int, num_tokens: int) -> None:
        self._ready_s.pop(item, None)
        self._sources.keep(item, num_tokens)
        key = self._keys.pop(item, None)
        if key is not None:
            self._parts.on_evict(self.index, key)
