"""The scheduler's choice, from plans that cost what they say, against brute force over all slices."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcjax.engine.plan import PlannedBlock
from rcjax.errors import UnavailableError
from rcjax.prompt import Block, BlockKind
from rcjax.serving.residency import Residency
from rcjax.serving.scheduler import (
    Affinity,
    HitOnly,
    LeastLoaded,
    MeshScheduler,
    Policy,
    RoundRobin,
    Time,
    Wants,
    wants_of,
)
from rcjax.serving.slice_loads import SliceLoads, SliceState

OPEN, DRAINING, DEAD = SliceState.OPEN, SliceState.DRAINING, SliceState.DEAD
POLICIES: list[Callable[[], Policy]] = [Time, lambda: Affinity(0.6, 0.4), HitOnly, LeastLoaded, RoundRobin]
ROUNDING = 1e-9
few = settings(max_examples=50)


@dataclass
class Case:
    """A request and a mesh: who holds each of the request's blocks, and what waits where.

    Seconds are multiples of 1/8, whose sums and differences floats hold exactly, so that equals are equal.
    """

    is_item: list[bool]
    miss_s: list[float]
    holders: list[set[int]]  # of each block
    queued_s: list[float]
    running_s: list[float]
    states: list[SliceState]
    max_imbalance: float | None = None
    pass_s: float = 0.25

    def choose(self, policy: Policy, wants: Wants | None = None) -> int:
        residency, loads = Residency(len(self.states)), SliceLoads(len(self.states))
        for key, holders in zip(self.keys, self.holders, strict=True):
            for index in holders:
                residency.commit(index, key)
        for index, state in enumerate(self.states):
            loads.report(index, self.queued_s[index], self.running_s[index], 100.0)
            loads.set_state(index, state)
        scheduler = MeshScheduler(policy, residency, loads, max_imbalance=self.max_imbalance)
        return scheduler.choose(wants or self.wants, self.pass_s, 100.0).index

    @property
    def keys(self) -> tuple[bytes, ...]:
        return tuple(bytes([number]) * 32 for number in range(len(self.holders)))

    @property
    def wants(self) -> Wants:
        return Wants(self.keys, np.array(self.is_item, bool), np.array(self.miss_s, np.float64))

    @property
    def open(self) -> list[int]:
        return [index for index, state in enumerate(self.states) if state == OPEN]

    @property
    def may_take(self) -> list[int]:
        """The open slices that are not overloaded."""
        waits_s = [self.wait_s(index) for index in self.open]
        if self.max_imbalance is None:
            return self.open
        limit_s = max(min(waits_s), self.max_imbalance * sum(waits_s) / len(waits_s))
        return [index for index in self.open if self.wait_s(index) <= limit_s]

    def wait_s(self, index: int) -> float:
        return self.queued_s[index] + self.running_s[index]

    def missed_s(self, index: int) -> float:
        return sum(cost_s for cost_s, holders in zip(self.miss_s, self.holders, strict=True) if index not in holders)

    def miss_weight(self) -> float:
        """How often `time` counts misses: 1.5 times for each request that waits for the lower median slice."""
        waits_s = sorted(map(self.wait_s, self.may_take))
        while len(waits_s) > 2:
            waits_s = waits_s[1:-1]
        return max(1.0, 1.5 * waits_s[0] / self.pass_s)

    def num_hits(self, index: int) -> int:
        return sum(is_item and index in holders for is_item, holders in zip(self.is_item, self.holders, strict=True))


eighths = st.integers(0, 40).map(lambda number: number / 8)


@st.composite
def cases(draw: st.DrawFn, bounds: tuple[float | None, ...] = (None, 1.0, 1.25, 2.0)) -> Case:
    num_slices, num_blocks = draw(st.integers(1, 11)), draw(st.integers(0, 8))
    states = st.lists(st.sampled_from(SliceState), min_size=num_slices, max_size=num_slices)

    def of_each(one: st.SearchStrategy, count: int) -> list:
        return draw(st.lists(one, min_size=count, max_size=count))

    return Case(
        is_item=of_each(st.booleans(), num_blocks),
        miss_s=of_each(eighths, num_blocks),
        holders=of_each(st.sets(st.integers(0, num_slices - 1)), num_blocks),
        queued_s=of_each(eighths, num_slices),
        running_s=of_each(eighths, num_slices),
        states=draw(states.filter(lambda drawn: OPEN in drawn)),
        max_imbalance=draw(st.sampled_from(bounds)),
    )


@pytest.mark.parametrize("new_policy", POLICIES)
@few
@given(case=cases())
def test_only_open_slices_that_are_not_overloaded_are_chosen(new_policy: Callable[[], Policy], case: Case) -> None:
    assert case.choose(new_policy()) in case.may_take


@few
@given(case=cases())
def test_time_chooses_the_least_wait_and_misses(case: Case) -> None:
    weight = case.miss_weight()
    chosen = min(case.may_take, key=lambda index: case.wait_s(index) + weight * case.missed_s(index))
    assert case.choose(Time()) == chosen


@few
@given(case=cases((None,)), pass_s=st.floats(1e-3, 1e3))
def test_while_half_of_the_slices_are_idle_time_chooses_the_least_expected_completion(
    case: Case, pass_s: float
) -> None:
    idle = case.open[: (len(case.open) + 1) // 2]
    waits = [[0.0 if index in idle else s for index, s in enumerate(of)] for of in (case.queued_s, case.running_s)]
    case = replace(case, queued_s=waits[0], running_s=waits[1], pass_s=pass_s)
    assert case.choose(Time()) == min(case.open, key=lambda index: case.wait_s(index) + case.missed_s(index))


@few
@given(case=cases())
def test_least_loaded_chooses_the_shortest_queue(case: Case) -> None:
    assert case.choose(LeastLoaded()) == min(case.may_take, key=case.wait_s)


@few
@given(case=cases())
def test_hit_only_chooses_the_most_items_then_the_shortest_queue(case: Case) -> None:
    assert case.choose(HitOnly()) == min(case.may_take, key=lambda index: (-case.num_hits(index), case.wait_s(index)))


@few
@given(case=cases(), alpha=st.floats(0, 4), beta=st.floats(0.25, 4))
def test_affinity_chooses_as_the_paper_says(case: Case, alpha: float, beta: float) -> None:
    num_items = max(1, sum(case.is_item))
    longest_s = max(case.wait_s(index) for index in case.may_take) or 1.0

    def affinity(index: int) -> float:
        return alpha * case.num_hits(index) / num_items + beta * (1 - case.wait_s(index) / longest_s)

    assert affinity(case.choose(Affinity(alpha, beta))) >= max(map(affinity, case.may_take)) - ROUNDING


@pytest.mark.parametrize(("alpha", "chosen"), [(0.9, 0), (1.1, 1)])
def test_affinity_weighs_hits_against_load(alpha: float, chosen: int) -> None:
    # Slice 1 has both items and all of the load: alpha * 1 + beta * 0 against alpha * 0 + beta * 1.
    case = Case([True, True, False], [1.0] * 3, [{1}, {1}, {0}], [0.0, 2.0], [0.0, 0.0], [OPEN, OPEN])
    assert case.choose(Affinity(alpha, 1.0)) == chosen


@pytest.mark.parametrize("new_policy", [*POLICIES[:1], *POLICIES[3:]])
def test_a_request_without_cached_blocks_goes_where_least_waits(new_policy: Callable[[], Policy]) -> None:
    case = Case([], [], [], [0.0, 2.0, 2.0], [0.0] * 3, [OPEN] * 3)
    assert case.choose(new_policy()) == 0


class Linear:
    def __init__(self, build_token_s: float, fetch_token_s: float):
        self.build_token_s, self.fetch_token_s = build_token_s, fetch_token_s

    def build_s(self, num_tokens: int) -> float:
        return num_tokens * self.build_token_s

    def fetch_s(self, num_tokens: int) -> float:
        return num_tokens * self.fetch_token_s


token_s = st.sampled_from([0.0, 0.001, 0.004, 0.02, float("inf")])


@few
@given(
    case=cases((None,)),
    lens=st.lists(st.integers(1, 90), min_size=8, max_size=8),
    build_token_s=token_s.filter(lambda seconds: seconds < 1),
    fetch_token_s=token_s,
)
def test_no_slice_would_be_done_before_the_one_that_time_chooses(
    case: Case, lens: list[int], build_token_s: float, fetch_token_s: float
) -> None:
    lens = lens[: len(case.holders)]
    blocks = [
        PlannedBlock(Block(BlockKind.ITEM, np.zeros(length, np.int32), 0), key)
        for length, key in zip(lens, case.keys, strict=True)
    ]
    wants = wants_of(blocks, Linear(build_token_s, fetch_token_s))
    case = replace(case, pass_s=1e6)  # so that nobody waits behind the request, who would wait for its misses too

    def done_s(index: int) -> float:
        """All of a request's way: the queue, each missing block from another slice or computed, and the pass."""
        total_s = case.wait_s(index) + case.pass_s
        for length, holders in zip(lens, case.holders, strict=True):
            if index not in holders:
                ways_s = [length * build_token_s, *[length * fetch_token_s for _ in holders]]
                total_s += min(ways_s)
        return total_s

    assert done_s(case.choose(Time(), wants)) <= min(map(done_s, case.open)) + ROUNDING


def test_wants_are_the_plan_s_blocks() -> None:
    blocks = [
        PlannedBlock(Block(kind, np.zeros(length, np.int32), 0), bytes([length]) * 32)
        for kind, length in [(BlockKind.HISTORY, 30), (BlockKind.ITEM, 10), (BlockKind.ITEM, 20)]
    ]
    wants = wants_of(blocks, Linear(0.5, 0.25))
    assert wants.keys == (b"\x1e" * 32, b"\x0a" * 32, b"\x14" * 32)
    assert wants.is_item.tolist() == [False, True, True]
    assert wants.miss_s.tolist() == pytest.approx([7.5, 2.5, 5.0])
    assert wants_of(blocks, Linear(0.5, float("inf"))).miss_s.tolist() == pytest.approx([15.0, 5.0, 10.0])
    assert wants_of([], Linear(0.5, 0.25)).miss_s.shape == (0,)


@few
@given(
    num_slices=st.integers(1, 6),
    steps=st.lists(st.tuples(st.sampled_from(["choose", *SliceState]), st.integers(0, 5)), max_size=60),
)
def test_round_robin_takes_the_next_open_slice(num_slices: int, steps: list[tuple[str | SliceState, int]]) -> None:
    loads = SliceLoads(num_slices)
    scheduler = MeshScheduler(RoundRobin(), Residency(num_slices), loads)
    states, last = [OPEN] * num_slices, -1
    for step, index in steps:
        if step != "choose":
            loads.set_state(index % num_slices, step)
            states[index % num_slices] = step
        elif OPEN in states:
            after = [(last + turn) % num_slices for turn in range(1, num_slices + 1)]
            last = next(index for index in after if states[index] == OPEN)
            assert scheduler.choose(EMPTY, 1.0, 0.0).index == last


EMPTY = Wants((), np.zeros(0, bool), np.zeros(0))


def test_round_robin_gives_every_slice_its_share() -> None:
    scheduler = MeshScheduler(RoundRobin(), Residency(7), SliceLoads(7))
    assert np.bincount([scheduler.choose(EMPTY, 1.0, 0.0).index for _ in range(70)]).tolist() == [10] * 7


@pytest.mark.parametrize("new_policy", POLICIES)
@few
@given(case=cases(), order=st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_blocks(
    new_policy: Callable[[], Policy], case: Case, order: Random
) -> None:
    places = list(range(len(case.holders)))
    order.shuffle(places)
    is_item, miss_s, holders = ([part[at] for at in places] for part in (case.is_item, case.miss_s, case.holders))
    again = replace(case, is_item=is_item, miss_s=miss_s, holders=holders)
    assert case.choose(new_policy()) == again.choose(new_policy()) == case.choose(new_policy())


@pytest.mark.parametrize("new_policy", POLICIES)
def test_that_no_slice_is_open_is_said_by_name(new_policy: Callable[[], Policy]) -> None:
    case = Case([], [], [], [0.0] * 3, [0.0] * 3, [DRAINING, DEAD, DRAINING])
    with pytest.raises(UnavailableError, match="no slice takes requests: draining: 0, 2; dead: 1"):
        case.choose(new_policy())


def test_what_runs_is_done_as_the_clock_goes_on() -> None:
    loads = SliceLoads(2)
    loads.report(0, queued_s=2.0, running_s=1.5, now_s=10.0)
    assert loads.waiting_s(10.0).tolist() == [3.5, 0.0]
    assert loads.waiting_s(11.0).tolist() == [2.5, 0.0]
    assert loads.waiting_s(20.0).tolist() == [2.0, 0.0]  # the queue stands until the slice says otherwise
    loads.report(0, queued_s=0.0, running_s=0.0, now_s=20.0)
    assert loads.waiting_s(20.0).tolist() == [0.0, 0.0]


def test_a_drained_slice_comes_back() -> None:
    loads = SliceLoads(2)
    loads.set_state(0, DRAINING)
    assert loads.open_slices().tolist() == [False, True]
    loads.set_state(0, OPEN)
    assert loads.open_slices().tolist() == [True, True]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Affinity(0.0, 0.0), "not both 0"),
        (lambda: Affinity(-1.0, 1.0), "not negative"),
        (lambda: Affinity(float("nan"), 1.0), "finite"),
        (lambda: SliceLoads(0), "num_slices=0"),
        (lambda: SliceLoads(2).report(2, 0.0, 0.0, 0.0), "slice 2 of a mesh of 2"),
        (lambda: SliceLoads(2).set_state(-1, DEAD), "slice -1 of a mesh of 2"),
        (lambda: SliceLoads(2).report(1, float("nan"), 0.0, 0.0), "queued_s=nan"),
        (lambda: SliceLoads(2).report(1, 0.0, -0.1, 0.0), "running_s=-0.1"),
        (lambda: MeshScheduler(Time(), Residency(2), SliceLoads(3)), "2 slices, loads of 3"),
        (lambda: MeshScheduler(Time(), Residency(2), SliceLoads(2), max_imbalance=0.9), "max_imbalance=0.9"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


# ---- a stream of requests, four in five of which want the same ten items, all on slice 0, which no other slice keeps

NUM_SLICES, PER_S = 8, 35.0
PASS_S, MISS_S = 0.05, 0.01  # slice 0 answers 20 hot requests a second, of 28; another slice 7, all of them 49


def longest_wait_s(policy: Policy, max_imbalance: float | None, seed: int) -> float:
    """The longest of any request, where slices work off one after the other what they are given."""
    rng = np.random.default_rng(seed)
    residency, loads = Residency(NUM_SLICES), SliceLoads(NUM_SLICES)
    sets = [tuple(bytes([index, number]) * 16 for number in range(10)) for index in range(NUM_SLICES)]
    for index, keys in enumerate(sets):
        for key in keys:
            residency.commit(index, key)
    scheduler = MeshScheduler(policy, residency, loads, max_imbalance=max_imbalance)
    free_at_s, now_s, longest_s = np.zeros(NUM_SLICES), 0.0, 0.0
    for _ in range(1000):
        now_s += rng.exponential(1 / PER_S)
        home = 0 if rng.random() < 0.8 else int(rng.integers(NUM_SLICES))
        index = scheduler.choose(Wants(sets[home], np.ones(10, bool), np.full(10, MISS_S)), PASS_S, now_s).index
        wait_s = max(0.0, free_at_s[index] - now_s)
        longest_s = max(longest_s, wait_s)
        free_at_s[index] = now_s + wait_s + PASS_S + (0 if index == home else 10 * MISS_S)
        loads.report(index, 0.0, free_at_s[index] - now_s, now_s)
    return longest_s


@pytest.mark.parametrize(
    ("new_policy", "max_imbalance"),
    [(Time, None), (HitOnly, 1.25), (lambda: Affinity(1.0, 0.0), 2.0)],
)
def test_a_hot_shard_starves_nobody(new_policy: Callable[[], Policy], max_imbalance: float | None) -> None:
    assert longest_wait_s(new_policy(), max_imbalance, seed=0) < 1.0


def test_without_a_bound_a_hot_shard_piles_up() -> None:
    assert longest_wait_s(HitOnly(), None, seed=0) > 5.0


@few
@given(case=cases((None,)))
def test_no_queue_that_time_chooses_is_longer_than_its_hits_are_worth(case: Case) -> None:
    chosen = case.choose(Time())
    shortest_s = min(case.wait_s(index) for index in case.open)
    assert case.wait_s(chosen) - shortest_s <= case.miss_weight() * sum(case.miss_s)
