from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.cache import GreedyDual

KEYS = [bytes([n]) for n in range(6)]
calls = st.lists(
    st.tuples(st.sampled_from(["use", "remove", "pop"]), st.sampled_from(KEYS), st.sampled_from([0.0, 1.0, 2.5, 7.0])),
    max_size=200,
)


@given(calls, st.sampled_from([0.0, 0.1, 3.0]))
def test_with_equal_costs_it_is_lru(calls, cost):
    policy = GreedyDual()
    lru: OrderedDict[bytes, None] = OrderedDict()
    for call, key, _ in calls:
        if call == "use" and key in lru:
            policy.touch(key)
            lru.move_to_end(key)
        elif call == "use":
            policy.add(key, cost)
            lru[key] = None
        elif call == "remove" and key in lru:
            policy.remove(key)
            del lru[key]
        elif call == "pop" and lru:
            assert policy.pop() == lru.popitem(last=False)[0]
        assert len(policy) == len(lru)
        assert [key in policy for key in KEYS] == [key in lru for key in KEYS]


@given(calls)
def test_it_is_greedy_dual_as_published(calls):
    """Young's formulation: evict the block with the least credit, and take that credit off all the others."""
    policy = GreedyDual()
    credit: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # in order of use: (credit, cost)
    for call, key, cost in calls:
        if call == "use" and key in credit:
            policy.touch(key)
            credit[key] = (credit[key][1], credit[key][1])
            credit.move_to_end(key)
        elif call == "use":
            policy.add(key, cost)
            credit[key] = (cost, cost)
        elif call == "remove" and key in credit:
            policy.remove(key)
            del credit[key]
        elif call == "pop" and credit:
            victim = min(credit, key=lambda key: credit[key][0])  # the first of equals
            least, _ = credit.pop(victim)
            for key, (left, cost) in credit.items():
                credit[key] = (left - least, cost)
            assert policy.pop() == victim


def test_a_costly_block_outlives_cheap_ones_but_not_for_ever():
    policy = GreedyDual()
    policy.add(b"costly", 10.0)
    evicted = []
    for n in range(10):
        policy.add(b"cheap%d" % n, 1.0)
        evicted.append(policy.pop())
    # L rises by 1 with each cheap block evicted; at L = 9 the tenth has H = 10 too, and "costly" was used before it.
    assert evicted == [b"cheap%d" % n for n in range(9)] + [b"costly"]


def test_many_touches_leave_no_heap_behind():
    policy = GreedyDual()
    for key in KEYS:
        policy.add(key, 1.0)
    for n in range(10_000):
        policy.touch(KEYS[n % 5])
    assert len(policy._heap) < 100
    assert policy.pop() == KEYS[5]


def test_misuse_is_refused():
    policy = GreedyDual()
    policy.add(b"a", 1.0)
    with pytest.raises(ValueError, match="already evictable"):
        policy.add(b"a", 1.0)
    with pytest.raises(KeyError):
        policy.touch(b"b")
    with pytest.raises(KeyError):
        policy.remove(b"b")
    for bad in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match="cost_per_page"):
            policy.add(b"c", bad)
    policy.pop()
    with pytest.raises(LookupError):
        policy.pop()
