"""The scheduler: from what a request wants, residency and loads to a slice. No threads, no JAX; the time is given."""

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from rcjax.prompt import Block, BlockKind
from rcjax.serving.residency import Residency
from rcjax.serving.slice_loads import SliceLoads

MISS_WEIGHT = 1.5  # more than 1, as others come while these wait; of 1, 1.5 and 2 simulations found it the best

Weights: TypeAlias = Float64[np.ndarray, "blocks"] | Bool[np.ndarray, "blocks"]


@runtime_checkable
class WantedBlock(Protocol):
    """A block that a request takes from the cache, and its key (`rcjax.engine.plan.PlannedBlock`)."""

    @property
    def block(self) -> Block: ...

    @property
    def key(self) -> bytes: ...


@runtime_checkable
class MissCosts(Protocol):
    """What a slice pays for blocks that it does not hold (`rcjax.engine.cost.CostModel`)."""

    def build_s(self, num_tokens: int) -> float:
        """Seconds to compute the KV of blocks of so many tokens."""
        ...

    def fetch_s(self, num_tokens: int) -> float:
        """Seconds to copy the KV of so many tokens from another slice; infinite where slices have no link."""
        ...


class FreeMisses:
    """The `MissCosts` of which nothing is known: what a slice holds makes no difference."""

    def build_s(self, num_tokens: int) -> float:
        return 0.0

    def fetch_s(self, num_tokens: int) -> float:
        return 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Wants:
    """The blocks that a request takes from the cache, and what each costs a slice that does not hold it.

    `miss_s` supposes that another slice holds the block, so that it is fetched where that is cheaper than to build it.
    Where none does, every slice has to build it, and the choice between them is the same.
    """

    keys: tuple[bytes, ...]
    is_item: Bool[np.ndarray, "blocks"]
    miss_s: Float64[np.ndarray, "blocks"]


def wants_of(wanted: Sequence[WantedBlock], costs: MissCosts) -> Wants:
    """Of a plan's `wanted`. A token's share of a cost is taken from all of them, which would be built in one go."""
    lens = np.array([len(one.block) for one in wanted], np.float64)
    num_tokens = int(lens.sum())
    cheapest_s = min(costs.build_s(num_tokens), costs.fetch_s(num_tokens)) if num_tokens else 0.0
    return Wants(
        keys=tuple([one.key for one in wanted]),
        is_item=np.array([one.block.kind is BlockKind.ITEM for one in wanted], bool),
        miss_s=lens * (cheapest_s / max(num_tokens, 1)),
    )


@dataclass(slots=True, eq=False)
class Sight:
    """What a policy sees of a request and of the slices. Nobody changes it; a frozen one takes longer to make."""

    wants: Wants
    pass_s: float  # of the request itself
    waiting_s: Float64[np.ndarray, "slices"]
    may_take: Bool[np.ndarray, "slices"]  # at least one
    holders: UInt8[np.ndarray, "blocks slices"]  # 1 where the slice holds the block

    def held(self, weights: Weights) -> Float32[np.ndarray, "slices"]:
        """For each slice the sum of the weights of the blocks that it holds."""
        # Not `@`: BLAS would wake its threads for a product of this size, and need not add all columns in one order,
        # so that equals were no longer equal. `einsum` casts slower than `astype`.
        return np.einsum("b,bs->s", weights.astype(np.float32), self.holders.astype(np.float32))

    def least(self, score: Float64[np.ndarray, "slices"]) -> int:
        """The slice of the smallest score among those that may take the request; the lowest index among equals."""
        return int(np.where(self.may_take, score, math.inf).argmin())


@runtime_checkable
class Policy(Protocol):
    """A way to choose; `name` is what the settings and the statistics call it."""

    @property
    def name(self) -> str: ...

    def choose(self, sight: Sight) -> int:
        """The index of one of the slices that may take the request."""
        ...


class Time:
    """`time`: where the answer is expected first, what its misses cost others included.

    The pass and the cost of all blocks are the same everywhere, so that what decides is the wait less what hits save.
    Whoever waits behind a request waits for its misses too: they count `MISS_WEIGHT` times as often as requests wait
    for a slice, but at least once. That is for the median slice (the lower one), so that misses cost nothing extra
    while half of the slices are idle: a hot shard is left before it piles up. Were misses to count once under any load,
    slices would fill with work that hits spare, and fall behind at 70% of what they can do (docs/simulation.md).
    """

    name: ClassVar[str] = "time"

    def choose(self, sight: Sight) -> int:
        return sight.least(sight.waiting_s - self.weight(sight) * sight.held(sight.wants.miss_s))

    @staticmethod
    def weight(sight: Sight) -> float:
        """How often misses count."""
        waiting_s = sight.waiting_s[sight.may_take]
        waiting_s.sort()
        median_s = waiting_s.item((len(waiting_s) - 1) // 2)
        return max(1.0, MISS_WEIGHT * median_s / sight.pass_s) if sight.pass_s > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Affinity:
    """`affinity`: the most alpha * hit share + beta * (1 - load), eq. 2 of RcLLM (arXiv 2605.07443).

    The paper does not say by what it divides the load; here by the longest queue of those that may take the request.
    """

    name: ClassVar[str] = "affinity"

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        if not (0 <= self.alpha < math.inf and 0 <= self.beta < math.inf and self.alpha + self.beta > 0):
            raise ValueError(f"{self.alpha=} and {self.beta=} must be finite, not negative, and not both 0")

    def choose(self, sight: Sight) -> int:
        longest_s = sight.waiting_s.max(initial=0.0, where=sight.may_take)
        load = sight.waiting_s / longest_s if longest_s > 0 else sight.waiting_s
        num_items = max(int(np.count_nonzero(sight.wants.is_item)), 1)
        return sight.least(self.beta * load - self.alpha / num_items * sight.held(sight.wants.is_item))


class HitOnly:
    """`hit_only`: the most of the request's items; among equals the shortest queue."""

    name: ClassVar[str] = "hit_only"

    def choose(self, sight: Sight) -> int:
        num_hits = sight.held(sight.wants.is_item)
        most = num_hits.max(initial=0.0, where=sight.may_take)
        return sight.least(np.where(num_hits == most, sight.waiting_s, math.inf))


class LeastLoaded:
    """`least_loaded`: the shortest queue."""

    name: ClassVar[str] = "least_loaded"

    def choose(self, sight: Sight) -> int:
        return sight.least(sight.waiting_s)


class RoundRobin:
    """`round_robin`: one slice after the other, without those that may not take the request."""

    name: ClassVar[str] = "round_robin"

    def __init__(self) -> None:
        self._last = -1

    def choose(self, sight: Sight) -> int:
        num_slices = len(sight.may_take)
        turns = (np.arange(num_slices) - self._last - 1) % num_slices
        self._last = sight.least(turns.astype(np.float64))
        return self._last


@dataclass(slots=True, eq=False)
class Choice:
    """A slice, and what the blocks that it lacks are expected to cost it."""

    index: int
    miss_s: float


class MeshScheduler:
    """Chooses a slice for each request by a policy, among those that take requests and are not overloaded.

    A slice is overloaded where more than `max_imbalance` times the mean of all open slices waits for it: consistent
    hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, arXiv 1608.01350) with seconds for requests, so that
    a hot shard's requests go elsewhere before they pile up. The shortest queue is never overloaded. None sets no bound:
    `time` weighs queues itself. Called from one thread at a time, which tells `loads` of its choice before the next.
    """

    def __init__(self, policy: Policy, residency: Residency, loads: SliceLoads, *, max_imbalance: float | None = None):
        if residency.num_slices != loads.num_slices:
            raise ValueError(f"residency of {residency.num_slices} slices, loads of {loads.num_slices}")
        if max_imbalance is not None and not max_imbalance >= 1:
            raise ValueError(f"{max_imbalance=} must be at least 1: some slice has the mean or more")
        self._policy = policy
        self._residency = residency
        self._loads = loads
        self._max_imbalance = max_imbalance

    def choose(self, wants: Wants, pass_s: float, now_s: float) -> Choice:
        """The slice to serve a request whose pass takes `pass_s`; UnavailableError where all drain or are dead."""
        may_take = self._loads.open_slices()
        waiting_s = self._loads.waiting_s(now_s)
        if self._max_imbalance is not None:
            open_s = waiting_s[may_take]
            may_take &= waiting_s <= max(self._max_imbalance * open_s.sum() / len(open_s), open_s.min())
        holders = self._residency.holders(wants.keys)
        index = self._policy.choose(Sight(wants, pass_s, waiting_s, may_take, holders))
        return Choice(index, float(wants.miss_s[holders[:, index] == 0].sum()))

    def preview(self, wants: Wants, pass_s: float, now_s: float) -> Choice:
        """What `choose` would say now; the next choice is as if nobody had asked."""
        policy = self._policy
        self._policy = copy(policy)  # one that takes slices in turn remembers the last
        try:
            return self.choose(wants, pass_s, now_s)
        finally:
            self._policy = policy
