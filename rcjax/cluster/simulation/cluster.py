"""A simulated cluster: the dispatcher, policies, residency and owners that serve, over slices that advance a clock."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from rcjax.cache.keys import KEY_BYTES
from rcjax.cluster.simulation.arm import Arm
from rcjax.cluster.simulation.costs import CostTable
from rcjax.cluster.simulation.outcome import FOUND, Outcome
from rcjax.cluster.simulation.placed import PlacedItems
from rcjax.cluster.simulation.slice import SimulatedSlice, SliceParts, Work
from rcjax.cluster.simulation.sources import Link, Sources
from rcjax.cluster.simulation.workload import Workload
from rcjax.engine.origin import Origin
from rcjax.serving.dispatch import Dispatcher
from rcjax.serving.owners import ItemOwners
from rcjax.serving.residency import Residency
from rcjax.serving.scheduler import Policy, Wants


@dataclass(frozen=True, slots=True)
class Cluster:
    """Slices that are alike.

    `cache_tokens` is a slice's room for blocks that are not placed there; `links` say over what blocks come from other
    slices, host and disk, where they do; `tier_tokens` how much those two hold for each slice.
    """

    owners: ItemOwners
    costs: CostTable
    arm: Arm
    cache_tokens: int = 0
    max_batch: int = 8
    links: Mapping[Origin, Link] = field(default_factory=dict)
    tier_tokens: Mapping[Origin, int] = field(default_factory=dict)
    max_imbalance: float | None = None

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError(f"max_batch={self.max_batch} must be at least 1")

    @property
    def num_slices(self) -> int:
        return self.owners.num_slices


def simulate(cluster: Cluster, workload: Workload, policy: Policy, rate_per_s: float) -> Outcome:
    """Sends the requests at so many a second on average; ends when all are answered."""
    if not rate_per_s > 0:
        raise ValueError(f"{rate_per_s=} must be above 0")
    run = _Run(cluster, workload, policy)
    run.environment.process(run.arrivals(1 / rate_per_s))
    return run.outcome()


class _Run:
    def __init__(self, cluster: Cluster, workload: Workload, policy: Policy):
        self.environment = simpy.Environment()
        self._workload = workload
        self._residency = Residency(cluster.num_slices)
        self._dispatcher = Dispatcher(
            self._residency, policy, lambda: self.environment.now, max_imbalance=cluster.max_imbalance
        )
        self._placed = PlacedItems(cluster.owners, workload, self._residency)
        self._wants_items = cluster.arm.wants_items
        self._sizes = cluster.arm.sizes(workload).as_list()
        self._pass_s = [cluster.costs.pass_s(size) for size in self._sizes]
        self._expected_miss_s = _MissSeconds(cluster)
        self._slices = [self._new_slice(cluster, index) for index in range(cluster.num_slices)]
        num_requests = workload.num_requests
        self._arrival_s, self._done_s = np.full(num_requests, np.nan), np.full(num_requests, np.nan)
        self._index = np.full(num_requests, -1)
        self._found = np.zeros((num_requests, len(FOUND)), np.int64)
        self._num_arrived = 0

    def _new_slice(self, cluster: Cluster, index: int) -> SimulatedSlice:
        parts = SliceParts(
            self._workload.item_tokens,
            self._placed.is_placed,
            self._residency.commit,
            self._residency.evict,
            self._done,
        )
        sources = Sources(cluster.costs, cluster.links, cluster.tier_tokens, cluster.num_slices > 1)
        return SimulatedSlice(
            self.environment, index, cluster.costs, sources, cluster.cache_tokens, cluster.max_batch, parts
        )

    def arrivals(self, mean_gap_s: float) -> Generator[simpy.Event, Any, None]:
        for gap in self._workload.gaps.tolist():
            yield self.environment.timeout(gap * mean_gap_s)
            self._arrive()

    def outcome(self) -> Outcome:
        self.environment.run()
        return Outcome(
            arrival_s=self._arrival_s,
            done_s=self._done_s,
            slices=self._index,
            found=self._found,
            busy_s=np.array([one.busy_s for one in self._slices]),
            num_passes=sum(one.num_passes for one in self._slices),
            num_decisions=self._dispatcher.num_decisions,
        )

    def _arrive(self) -> None:
        number = self._num_arrived
        self._num_arrived += 1
        self._arrival_s[number] = self.environment.now
        items, keys = self._wanted(number)
        work = Work(number, self._sizes[number], items.tolist(), keys)
        for item, key in zip(work.items, keys, strict=True):
            self._placed.want(item, key)
        wants = Wants(keys, np.ones(len(keys), bool), self._expected_miss_s.of(self._workload.item_tokens[items]))
        work.dispatch = self._dispatcher.dispatch(wants, self._pass_s[number], work)
        self._slices[work.dispatch.index].submit(work)

    def _wanted(self, number: int) -> tuple[np.ndarray, tuple[bytes, ...]]:
        """A request's items and their keys."""
        first, last = self._workload.starts[number : number + 2].tolist() if self._wants_items else (0, 0)
        keys = self._workload.keys
        return self._workload.items[first:last], tuple(
            [keys[at : at + KEY_BYTES] for at in range(first * KEY_BYTES, last * KEY_BYTES, KEY_BYTES)]
        )

    def _done(self, of: SimulatedSlice, work: Work) -> None:
        self._dispatcher.end(work.dispatch, of.index)
        self._done_s[work.number] = self.environment.now
        self._index[work.number] = of.index
        self._found[work.number] = [work.found[name] for name in FOUND]


class _MissSeconds:
    """What the scheduler expects a miss to cost, as `rcjax.serving.scheduler.wants_of` works it out."""

    def __init__(self, cluster: Cluster):
        self._costs = cluster.costs
        self._link = cluster.links.get(Origin.SLICE)

    def of(self, tokens: np.ndarray) -> np.ndarray:
        num_tokens = int(tokens.sum())
        if not num_tokens:
            return np.zeros(len(tokens))
        seconds = self._costs.build_s(num_tokens)
        if self._link is not None:
            seconds = min(seconds, self._link.seconds(num_tokens * self._costs.token_bytes))
        return tokens * (seconds / num_tokens)
