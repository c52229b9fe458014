"""Every metric against brute force over all orders of the candidates."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.evaluation import ranking
from rcjax.evaluation.ranking import Rank

NUM_CANDIDATES = 6
scores_with_ties = st.lists(st.integers(0, 3).map(float), min_size=NUM_CANDIDATES, max_size=NUM_CANDIDATES)


def places_by_brute_force(scores: list[float], target: int) -> list[int]:
    """The target's place in each order of the candidates whose scores do not rise."""
    orders = itertools.permutations(range(len(scores)))
    sorted_orders = [o for o in orders if all(scores[a] >= scores[b] for a, b in itertools.pairwise(o))]
    return [order.index(target) + 1 for order in sorted_orders]


@given(scores_with_ties, st.integers(0, NUM_CANDIDATES - 1), st.integers(1, NUM_CANDIDATES + 1))
def test_metrics_are_means_over_all_tie_breaks(scores: list[float], target: int, k: int) -> None:
    places = places_by_brute_force(scores, target)
    rank = ranking.rank_of(np.array(scores), target)
    assert (rank.first, rank.last) == (min(places), max(places))
    ndcgs = [1 / math.log2(1 + place) if place <= k else 0.0 for place in places]
    assert ranking.ndcg_at(k, rank) == pytest.approx(np.mean(ndcgs))
    assert ranking.hit_at(k, rank) == pytest.approx(np.mean([place <= k for place in places]))
    assert ranking.mrr(rank) == pytest.approx(np.mean([1 / place for place in places]))


def test_known_values() -> None:
    assert ranking.ndcg_at(10, Rank(1, 1)) == 1.0
    assert ranking.ndcg_at(10, Rank(3, 3)) == pytest.approx(0.5)
    assert ranking.ndcg_at(10, Rank(11, 11)) == 0.0
    assert ranking.hit_at(10, Rank(10, 10)) == 1.0
    assert ranking.hit_at(10, Rank(10, 11)) == 0.5
    assert ranking.mrr(Rank(4, 4)) == 0.25


def test_chance_is_the_mean_over_every_place() -> None:
    assert ranking.chance_ndcg(10, 20) == pytest.approx(sum(1 / math.log2(1 + p) for p in range(1, 11)) / 20)
    assert ranking.chance_ndcg(10, 20) == pytest.approx(0.227, abs=5e-4)
    assert ranking.chance_hit(10, 20) == 0.5
    assert ranking.chance_hit(10, 4) == 1.0
    assert ranking.chance_mrr(3) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_quality_is_the_mean_over_requests() -> None:
    quality = ranking.ranking_quality([Rank(1, 1), Rank(3, 3), Rank(11, 11)])
    assert quality.ndcg_at_10 == pytest.approx(1.5 / 3)
    assert quality.hit_at_10 == pytest.approx(2 / 3)
    assert quality.mrr == pytest.approx((1 + 1 / 3 + 1 / 11) / 3)


@given(scores_with_ties, st.integers(0, NUM_CANDIDATES - 1))
def test_every_metric_has_its_value_in_its_place(scores: list[float], target: int) -> None:
    ranks = [ranking.rank_of(np.array(scores), target), Rank(25, 25)]
    values = ranking.metric_values(ranks)
    assert values.shape == (2, len(ranking.METRICS))
    for rank, row in zip(ranks, values, strict=True):
        found = dict(zip(ranking.METRICS, row, strict=True))
        expected = {f"hit_at_{k}": ranking.hit_at(k, rank) for k in (1, 3, 5, 10)}
        expected |= {f"ndcg_at_{k}": ranking.ndcg_at(k, rank) for k in (5, 10, 20)} | {"mrr": ranking.mrr(rank)}
        assert found == pytest.approx(expected)


@given(st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4))
def test_no_order_expects_more_than_the_order_of_the_probabilities(weights: list[float]) -> None:
    probabilities = np.array(weights) / sum(weights)
    best = ranking.expected_quality(probabilities)
    for order in itertools.permutations(range(4)):
        ndcg = sum(probabilities[c] / math.log2(2 + place) for place, c in enumerate(order))
        mrr = sum(probabilities[c] / (1 + place) for place, c in enumerate(order))
        assert best.ndcg_at_10 >= ndcg - 1e-12
        assert best.mrr >= mrr - 1e-12
    assert best.hit_at_10 == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ranking.rank_of(np.array([1.0, np.nan]), 0), "score 1 is NaN"),
        (lambda: ranking.rank_of(np.array([1.0, 2.0]), 2), "target=2"),
        (lambda: Rank(3, 2), "first=3 last=2"),
        (lambda: ranking.ranking_quality([]), "no ranks"),
    ],
)
def test_what_has_no_rank_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
