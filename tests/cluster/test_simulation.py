"""Simulated clusters against queueing theory, against caches written out by hand, and against themselves."""

from collections import OrderedDict

import numpy as np
import pytest
from cluster_kit import ARM, COSTS, POLICIES, cluster, policy, uniform, workload

from rcjax.cluster.simulation import Link, Reuse, SimulatedArm, capacity_per_s, simulate
from rcjax.cluster.simulation.outcome import FOUND
from rcjax.engine.origin import Origin
from rcjax.serving.owners import HASH_SEED, Hashed

FAST = {Origin.SLICE: Link(bytes_per_s=1e6, begin_s=0.0)}  # a token takes a millisecond, a tenth of building it


def test_a_slice_without_misses_is_an_m_d_1_queue():
    load, requests = 0.5, uniform(12_000, seed=3)
    one = cluster(1, everywhere=True, max_batch=1)
    (size, *_) = ARM.sizes(requests).as_list()
    service_s = COSTS.pass_s(size)
    outcome = simulate(one, requests, policy("time"), load / service_s)
    waits = outcome.done_s - outcome.arrival_s - service_s
    assert waits.min() >= -1e-6
    # Pollaczek and Khinchine, for a service that always takes as long
    assert waits.mean() == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.06)
    assert outcome.busy_s[0] == pytest.approx(12_000 * service_s)
    assert outcome.figures()["utilisation"] == pytest.approx(load, rel=0.03)


def test_a_slice_is_lindley_s_recursion_to_the_last_request():
    requests = uniform(300, seed=1)
    service_s = COSTS.pass_s(ARM.sizes(requests).as_list()[0])
    outcome = simulate(cluster(1, everywhere=True, max_batch=1), requests, policy("time"), 0.9 / service_s)
    free_s, expected = 0.0, []
    for arrival_s in np.cumsum(requests.gaps) * service_s / 0.9:
        free_s = max(free_s, arrival_s) + service_s
        expected.append(free_s)
    np.testing.assert_allclose(outcome.done_s, expected, rtol=1e-9)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("links", [{}, FAST], ids=["built", "copied"])
def test_every_request_is_answered_once_and_every_item_was_somewhere(name, links):
    requests = workload()
    several = cluster(5, cache_tokens=2000, links=links)
    outcome = simulate(several, requests, policy(name), 0.6 * capacity_per_s(several, requests))
    assert np.isfinite(outcome.done_s).all()
    assert ((outcome.slices >= 0) & (outcome.slices < 5)).all()
    np.testing.assert_array_equal(outcome.found.sum(axis=1), requests.num_candidates)
    assert outcome.num_decisions == requests.num_requests
    # no request takes less than its own pass, and no slice runs longer than there was time
    alone_s = np.array([COSTS.pass_s(size) for size in ARM.sizes(requests).as_list()])
    assert (outcome.done_s - outcome.arrival_s >= alone_s - 1e-6).all()
    assert outcome.busy_s.max() <= outcome.done_s.max()
    origin = "slice" if links else "built"
    assert outcome.found[:, FOUND.index(origin)].sum() > 0
    assert outcome.found[:, FOUND.index("built" if links else "slice")].sum() == 0


def test_busy_time_is_that_of_the_passes():
    requests = workload(num_requests=200)
    several = cluster(3, max_batch=1, cache_tokens=1000)
    outcome = simulate(several, requests, policy("round_robin"), 1.0)
    expected = sum(COSTS.pass_s(size) for size in ARM.sizes(requests).as_list())
    built = _by_hand(requests, 3, 1000)["built_tokens"]
    assert outcome.busy_s.sum() == pytest.approx(expected + built["passes"] * COSTS.begin_s + built["tokens"] * 0.01)


@pytest.mark.parametrize("cache_tokens", [0, 700, 5000])
def test_hits_are_those_of_an_lru_cache_written_out_by_hand(cache_tokens):
    requests = workload(num_items=120, num_requests=300)
    outcome = simulate(cluster(3, cache_tokens=cache_tokens), requests, policy("round_robin"), 2.0)
    np.testing.assert_array_equal(outcome.slices, np.arange(300) % 3)
    np.testing.assert_array_equal(outcome.found[:, : len(FOUND)], _by_hand(requests, 3, cache_tokens)["found"])


def _by_hand(requests, num_slices, cache_tokens):
    """`FOUND` of each request, taken in turn by slices with an LRU cache each; and what is built."""
    rule = Hashed(num_slices)
    caches = [OrderedDict() for _ in range(num_slices)]
    found = np.zeros((requests.num_requests, len(FOUND)), np.int64)
    built = {"passes": 0, "tokens": 0}
    for number in range(requests.num_requests):
        index = number % num_slices
        cache, missing = caches[index], []
        for item in requests.items[requests.starts[number] : requests.starts[number + 1]].tolist():
            if index in rule.slices_of(str(item)):
                found[number, FOUND.index("local")] += 1
            elif item in cache:
                cache.move_to_end(item)
                found[number, FOUND.index("replica")] += 1
            else:
                missing.append(item)
        for item in missing:
            tokens = int(requests.item_tokens[item])
            built["tokens"] += tokens
            if tokens > cache_tokens:
                continue
            while sum(cache.values()) + tokens > cache_tokens:
                cache.popitem(last=False)
            cache[item] = tokens
        built["passes"] += bool(missing)
        found[number, FOUND.index("built")] = len(missing)
    return {"found": found, "built_tokens": built}


@pytest.mark.parametrize("name", POLICIES)
def test_the_seed_decides(name):
    runs = [
        simulate(cluster(4, cache_tokens=500, links=FAST), workload(seed=seed), policy(name), 2.0).done_s
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_what_a_slice_evicts_comes_back_from_its_tiers():
    requests = workload(num_items=120, num_requests=300)
    links = {Origin.HOST: Link(1e7, 0.0), Origin.DISK: Link(1e6, 0.0)}
    several = cluster(3, cache_tokens=700, links=links, tier_tokens={Origin.HOST: 700, Origin.DISK: 10**9})
    found = simulate(several, requests, policy("round_robin"), 2.0).found
    plain = _by_hand(requests, 3, 700)["found"]
    for name in ("local", "replica"):
        np.testing.assert_array_equal(found[:, FOUND.index(name)], plain[:, FOUND.index(name)])
    # A disk that holds all of them: each slice builds each item that is not its own once.
    first_seen = {(number % 3, item) for number in range(300) for item in _items(requests, number)}
    foreign = sum(index not in Hashed(3).slices_of(str(item)) for index, item in first_seen)
    assert found[:, FOUND.index("built")].sum() == foreign
    assert found[:, FOUND.index("host")].sum() > 0
    assert found[:, FOUND.index("disk")].sum() > 0


def _items(requests, number):
    return requests.items[requests.starts[number] : requests.starts[number + 1]].tolist()


def test_copies_wait_for_each_other_and_not_for_passes():
    requests = workload(num_items=120, num_requests=60)
    links = {Origin.SLICE: Link(bytes_per_s=1e6, begin_s=0.25)}
    outcome = simulate(cluster(2, links=links, max_batch=1), requests, policy("round_robin"), 1000.0)
    arrival_s, sizes = np.cumsum(requests.gaps) / 1000.0, ARM.sizes(requests).as_list()
    for index in (0, 1):
        link_free_s, ready_s = 0.0, {}
        for number in range(index, 60, 2):
            ready_s[number] = arrival_s[number]
            missing = [item for item in _items(requests, number) if index not in Hashed(2).slices_of(str(item))]
            if missing:
                tokens = int(requests.item_tokens[missing].sum())
                link_free_s = max(link_free_s, ready_s[number]) + 0.25 + tokens * 1e-3
                ready_s[number] = link_free_s
        now_s = 0.0
        while ready_s:
            now_s = max(now_s, min(ready_s.values()))
            first = next(number for number, at_s in ready_s.items() if at_s <= now_s)
            del ready_s[first]
            now_s += COSTS.pass_s(sizes[first])
            assert outcome.done_s[first] == pytest.approx(now_s)


def test_a_batch_takes_what_is_ready_and_no_more_than_it_holds():
    requests = uniform(50, seed=0)
    outcome = simulate(cluster(1, everywhere=True, max_batch=4), requests, policy("time"), 1e9)
    # The first comes to an idle slice; the 49 that wait then go four at a time.
    assert outcome.num_passes == 1 + 13
    assert sorted(np.unique(outcome.done_s, return_counts=True)[1].tolist()) == [1, 1, *[4] * 12]


def test_items_that_are_placed_everywhere_never_miss():
    outcome = simulate(cluster(4, everywhere=True), workload(), policy("hit_only"), 1.0)
    assert outcome.figures()["hits"]["local"] == 1.0


@pytest.mark.parametrize("reuse", [Reuse.NOTHING, Reuse.PREFIX])
def test_arms_without_item_blocks_ask_for_none(reuse):
    several = cluster(3, arm=SimulatedArm(reuse))
    requests = workload()
    outcome = simulate(several, requests, policy("time"), 0.5 * capacity_per_s(several, requests))
    assert outcome.found.sum() == 0
    assert np.isfinite(outcome.ttft_s).all()


def test_arms_compute_what_they_say():
    requests = workload(num_requests=20)
    length = {
        reuse: [size.fresh_tokens + size.read_tokens for size in SimulatedArm(reuse).sizes(requests).as_list()]
        for reuse in (Reuse.NOTHING, Reuse.PREFIX, Reuse.BLOCKS)
    }
    np.testing.assert_allclose(length[Reuse.NOTHING], length[Reuse.PREFIX])
    np.testing.assert_allclose(length[Reuse.NOTHING], length[Reuse.BLOCKS])
    full = SimulatedArm(Reuse.NOTHING).sizes(requests)
    assert not full.read_tokens.any()
    everything = SimulatedArm(Reuse.BLOCKS, recomputed=1.0).sizes(requests)
    np.testing.assert_allclose(everything.fresh_tokens, SimulatedArm(Reuse.PREFIX).sizes(requests).fresh_tokens)
    assert (SimulatedArm(Reuse.BLOCKS, recomputed=0.1).sizes(requests).fresh_tokens < everything.fresh_tokens).all()
    np.testing.assert_array_equal(ARM.sizes(requests).fresh_tokens, requests.num_candidates)


def test_capacity_is_what_slices_that_never_wait_answer():
    requests = uniform(1000, seed=0)
    one = cluster(2, everywhere=True, max_batch=5)
    outcome = simulate(one, requests, policy("time"), 1e9)
    assert outcome.throughput_per_s == pytest.approx(capacity_per_s(one, requests), rel=0.02)


def test_owners_by_hash_are_those_that_write():
    """The simulator asks the router's own owners; their seed is part of what places an item."""
    requests = workload(num_requests=100)
    outcome = simulate(cluster(6), requests, policy("hit_only"), 0.01)
    best = [
        np.bincount([Hashed(6).slices_of(str(item))[0] for item in _items(requests, n)], minlength=6).max()
        for n in range(100)
    ]
    assert HASH_SEED == 0
    np.testing.assert_array_equal(outcome.found[:, FOUND.index("local")], best)
