"""`overlap` and its selection against every choice there is, and against what greedy methods reach."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_kit import hit_share, lists, overlapping_topics, problem, sets

from rcjax.cache.placement import HotSet, MetisMethod, OverlapMethod, PlacementInput, evaluate
from rcjax.cache.placement.method import silent
from rcjax.cache.placement.selection import select


def best_of_all(given_: PlacementInput, per_slice: int) -> float:
    """The largest hit share where every item stands somewhere and a slice has room for `per_slice` items of size 1."""
    num_items, requests = len(given_.item_ids), lists(given_)
    contents = [set(rows) for rows in itertools.combinations(range(num_items), per_slice)]
    every = set(range(num_items))
    return max(
        hit_share(requests, chosen)
        for chosen in itertools.combinations_with_replacement(contents, given_.num_slices)
        if set().union(*chosen) == every
    )


@pytest.mark.parametrize("seed", range(5))
def test_it_comes_close_to_the_best_placement_of_all(seed):
    rng = np.random.default_rng(seed)
    requests = [rng.choice(6, rng.integers(2, 4), replace=False).tolist() for _ in range(10)]
    given_ = problem(requests, 6, 2, seed=seed)
    best = best_of_all(given_, per_slice=4)
    reached = hit_share(lists(given_), sets(OverlapMethod(4 / 3).place(given_, silent)))
    assert 0.85 * best <= reached <= best


@pytest.mark.parametrize("seed", range(3))
def test_items_that_two_kinds_of_requests_need_stand_on_both(seed):
    """Held-out hits of at least a hot set with METIS at the same bytes, which can only replicate everywhere."""
    everything = overlapping_topics(seed, 500)
    given_, held = everything.with_requests(everything.requests[:400]), everything.requests[400:]
    ours = evaluate(OverlapMethod(2.0).place(given_, silent), held, given_.item_bytes)
    theirs = evaluate(MetisMethod(HotSet(budget_factor=2.0)).place(given_, silent), held, given_.item_bytes)
    assert ours.hit_share >= theirs.hit_share + 0.1
    assert ours.hit_share >= 0.9  # 16 items fit on a slice: a topic each
    assert ours.budget_factor <= 2.0
    assert ours.memory_imbalance <= 1.03


def test_with_room_for_everything_everything_stands_everywhere():
    given_ = overlapping_topics(0, 50)
    assert all(len(there) == 64 for there in sets(OverlapMethod(8.0).place(given_, silent)))


def test_without_requests_items_are_spread_evenly():
    given_ = problem([], 12, 3)
    assert [len(there) for there in sets(OverlapMethod(1.0).place(given_, silent))] == [4, 4, 4]


@pytest.mark.parametrize("factor", [0.5, 0.999])
def test_less_than_the_catalogue_is_refused(factor):
    with pytest.raises(ValueError, match="must be at least 1: every item stands somewhere"):
        OverlapMethod(factor).place(problem([], 4, 2), silent)


def test_items_that_cannot_fit_are_refused_with_what_would_do():
    given_ = problem([[0, 1]], 3, 2, sizes=[10, 1, 1])
    with pytest.raises(
        ValueError, match=r"9 bytes a slice is too small .* up to 10 bytes on 2 slices; a factor of 2.67"
    ):
        OverlapMethod(1.5).place(given_, silent)
    OverlapMethod(2.67).place(given_, silent)


def test_progress_goes_from_nothing_to_nearly_all():
    told: list[tuple[str, float]] = []
    OverlapMethod(2.0).place(overlapping_topics(0, 50), lambda step, share: told.append((step, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert 0.9 < shares[-1] <= 1.0


def test_selection_comes_close_to_the_best_of_all():
    """The worth of what stands, on instances where every choice can be tried: room for three of five items each."""
    contents = list(itertools.combinations(range(5), 3))
    ratios = []
    for seed in range(20):
        worth = np.random.default_rng(seed).random((5, 2), np.float32)
        stands, _ = select(worth, np.ones(5), 3.0)
        assert stands.any(axis=1).all()
        assert stands.sum(axis=0).tolist() == [3, 3]
        choices = [
            pair for pair in itertools.product(contents, contents) if set(pair[0]) | set(pair[1]) == set(range(5))
        ]
        best = max(worth[list(first), 0].sum() + worth[list(second), 1].sum() for first, second in choices)
        ratios.append(float(worth[stands].sum() / best))
    assert max(ratios) <= 1 + 1e-6
    assert min(ratios) >= 0.8
    assert np.mean(ratios) >= 0.9


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 20), st.sampled_from([1.0, 1.5, 3.0]))
def test_every_item_stands_and_no_budget_is_exceeded(num_items, num_slices, seed, factor):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, num_items).astype(np.float64)
    budget = factor * sizes.sum() / num_slices + sizes.max()
    stands, full_at = select(rng.random((num_items, num_slices), np.float32), sizes, budget)
    assert stands.any(axis=1).all()
    assert (stands.T @ sizes <= budget + 1e-9).all()
    assert full_at.shape == (num_slices,)
