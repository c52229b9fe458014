from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.cache import GreedyDual
from rcjax.cache.eviction import class_cost, cost_class

SLOTS = range(6)
COSTS = [0.0, 1.0, 2.5, 7.0, 1e-6, 1.0001]
calls = st.lists(
    st.tuples(st.sampled_from(["use", "remove", "pop"]), st.sampled_from(SLOTS), st.sampled_from(COSTS)), max_size=200
)


def rounded(cost):
    return class_cost(cost_class(cost))


@given(calls, st.sampled_from([0.0, 0.1, 3.0]))
def test_with_equal_costs_it_is_lru(calls, cost):
    policy = GreedyDual()
    lru: OrderedDict[int, None] = OrderedDict()
    for call, slot, _ in calls:
        if call == "use" and slot in lru:
            policy.remove(slot)
            policy.add(slot, cost)
            lru.move_to_end(slot)
        elif call == "use":
            policy.add(slot, cost)
            lru[slot] = None
        elif call == "remove" and slot in lru:
            policy.remove(slot)
            del lru[slot]
        elif call == "pop" and lru:
            assert policy.pop() == lru.popitem(last=False)[0]
        assert len(policy) == len(lru)
        assert [slot in policy for slot in SLOTS] == [slot in lru for slot in SLOTS]


@given(calls)
def test_it_is_greedy_dual_with_rounded_costs(calls):
    """By looking through all blocks: the least H goes, the one used longest ago where several have it."""
    policy = GreedyDual()
    inflation = 0.0
    priority: OrderedDict[int, tuple[float, float]] = OrderedDict()  # in order of use: (H, cost)
    for call, slot, cost in calls:
        if call == "use" and slot in priority:
            policy.remove(slot)
            policy.add(slot, priority[slot][1])
            priority[slot] = (inflation + priority[slot][1], priority[slot][1])
            priority.move_to_end(slot)
        elif call == "use":
            policy.add(slot, cost)
            priority[slot] = (inflation + rounded(cost), rounded(cost))
        elif call == "remove" and slot in priority:
            policy.remove(slot)
            del priority[slot]
        elif call == "pop" and priority:
            victim = min(priority, key=lambda slot: priority[slot][0])  # the first of equals
            inflation, _ = priority.pop(victim)
            assert policy.pop() == victim
        for slot in priority:
            policy.check_slot(slot)


@given(st.floats(0, allow_infinity=False))
def test_costs_are_rounded_by_a_few_per_cent_at_most(cost):
    if 1e-300 < cost < 1e300:  # below, doubles themselves are coarser
        assert rounded(cost) == pytest.approx(cost, rel=0.022)
    assert rounded(rounded(cost)) == rounded(cost)


def test_a_costly_block_outlives_cheap_ones_but_not_for_ever():
    policy = GreedyDual()
    policy.add(0, 8.0)
    evicted = []
    for slot in range(1, 9):
        policy.add(slot, 1.0)
        evicted.append(policy.pop())
    # L rises by 1 with each cheap block evicted; at L = 7 the eighth has H = 8 too, and the costly one was used before.
    assert evicted == [*range(1, 8), 0]


def test_many_uses_leave_no_heap_behind():
    policy = GreedyDual()
    for slot in SLOTS:
        policy.add(slot, 1.0 + slot % 2)
    for n in range(10_000):
        slot = SLOTS[n % 5]
        policy.remove(slot)
        policy.add(slot, 1.0 + slot % 2)
    assert len(policy._heap) == 2
    policy.remove(4)
    assert [policy.pop() for _ in range(5)] == [0, 2, 5, 1, 3]


def test_misuse_is_refused():
    policy = GreedyDual()
    policy.add(0, 1.0)
    with pytest.raises(ValueError, match="already evictable"):
        policy.add(0, 1.0)
    for slot in (1, 99):
        with pytest.raises(KeyError):
            policy.remove(slot)
    for bad in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match="cost"):
            policy.add(2, bad)
    policy.pop()
    with pytest.raises(LookupError):
        policy.pop()
