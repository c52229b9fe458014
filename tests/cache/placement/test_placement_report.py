"""The figures of a placement, against loops over sets; and requests that are spread over slices."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_kit import hit_share, lists, problem, problem_sizes, sets

from rcjax.cache.placement import HashMethod, HotSet, Placement, evaluate
from rcjax.cache.placement.bounded_load import assign, max_requests
from rcjax.cache.placement.method import silent


def greedily_touched(request: set[int], slices: list[set[int]]) -> int:
    left, count = set(request), 0
    while left:
        left -= max(slices, key=lambda there: len(left & there))  # the first of several, as argmax
        count += 1
    return count


@settings(max_examples=40, deadline=None)
@given(problem_sizes(), st.integers(0, 3))
def test_figures_are_those_of_the_definitions(sizes, num_hot):
    given_ = problem(**sizes)
    requests = lists(given_)
    if not given_.requests.shape[0]:
        return
    placement = HashMethod(HotSet(count=num_hot)).place(given_, silent)
    slices = sets(placement)
    report = evaluate(placement, given_.requests, given_.item_bytes)
    assert report.num_requests == len(requests)
    assert report.hit_share == pytest.approx(hit_share(requests, slices), abs=1e-6)
    assert report.slices_touched == pytest.approx(np.mean([greedily_touched(r, slices) for r in requests]))
    used = [sum(given_.item_bytes[row] for row in there) for there in slices]
    assert report.budget_factor == pytest.approx(sum(used) / given_.total_bytes)
    assert report.memory_imbalance == pytest.approx(max(used) / np.mean(used))
    assert report.max_slice_bytes == max(used)
    assert report.bounded_hit_share <= report.hit_share + 1e-6


def test_loads_by_hand():
    # items 0, 1 on slice 0, item 2 on slice 1: three requests want slice 0, one slice 1
    given_ = problem([[0, 1], [0], [1], [2]], 3, 2)
    placement = Placement.of_part(given_.item_ids, np.array([0, 0, 1]), 2)
    report = evaluate(placement, given_.requests, given_.item_bytes)
    assert report.load_imbalance == 1.5
    assert report.hit_share == 1.0
    # after one request a slice may have ceil(1.2 / 2) = 1, after two 2, after three 2: the third goes elsewhere
    assert report.bounded_hit_share == 0.75


def test_no_request_is_refused():
    given_ = problem([], 3, 2)
    with pytest.raises(ValueError, match="no request to evaluate"):
        evaluate(HashMethod().place(given_, silent), given_.requests, given_.item_bytes)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 6), st.sampled_from([1.0, 1.2, 2.0]), st.integers(0, 9))
def test_no_slice_gets_more_requests_than_the_most(num_requests, num_slices, imbalance, seed):
    worth = np.random.default_rng(seed).random((num_requests, num_slices), np.float32) ** 4
    chosen = assign(worth, imbalance)
    limit = max(math.ceil(num_requests / num_slices), math.floor(num_requests / num_slices * imbalance))
    assert max_requests(num_requests, num_slices, imbalance) == limit
    assert np.bincount(chosen).max() <= limit
    assert chosen.shape == (num_requests,)


def test_requests_go_to_their_best_slices_where_there_is_room():
    worth = np.eye(3, dtype=np.float32)[[0, 1, 2, 2, 1, 0]]
    np.testing.assert_array_equal(assign(worth, 1.0), [0, 1, 2, 2, 1, 0])


def test_what_is_too_much_goes_where_least_is_lost():
    worth = np.array([[9, 1], [9, 8], [9, 2], [9, 7]], np.float32)
    np.testing.assert_array_equal(assign(worth, 1.0), [0, 1, 0, 1])
