"""How good a ranking is when exactly one candidate is relevant, and what chance would reach."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class Rank:
    """The places, from 1, that a target may take: `first` to `last`, each equally likely.

    They differ where other candidates have the target's score. Every metric here is then the expected value
    over all orders of the tied candidates, so a model that scores everything alike gets the chance value.
    """

    first: int
    last: int

    def __post_init__(self) -> None:
        if not 1 <= self.first <= self.last:
            raise ValueError(f"places run from 1 and first <= last, got first={self.first} last={self.last}")


@dataclass(frozen=True, slots=True)
class RankingQuality:
    """The metrics that `rcjax` reports, as means over requests."""

    hit_at_1: float
    hit_at_3: float
    hit_at_5: float
    hit_at_10: float
    mrr: float
    ndcg_at_5: float
    ndcg_at_10: float
    ndcg_at_20: float


METRICS = tuple(field.name for field in fields(RankingQuality))


def rank_of(scores: Float[np.ndarray, "N"], target: int) -> Rank:
    """The places that candidate `target` (an index) takes when a higher score ranks before a lower one."""
    if not 0 <= target < len(scores):
        raise ValueError(f"{target=} is not an index into {len(scores)} scores")
    if np.isnan(scores).any():
        raise ValueError(f"score {int(np.isnan(scores).argmax())} is NaN; a ranking needs numbers")
    num_above = int((scores > scores[target]).sum())
    num_tied = int((scores == scores[target]).sum())
    return Rank(num_above + 1, num_above + num_tied)


def discounts(k: int, num_candidates: int) -> Float[np.ndarray, "N"]:
    """NDCG@k of each place: 1 / log2(1 + place) up to k, then 0. With one relevant item the ideal DCG is 1."""
    places = np.arange(1, num_candidates + 1)
    return np.where(places <= k, 1.0 / np.log2(1.0 + places), 0.0)


def ndcg_at(k: int, rank: Rank) -> float:
    """NDCG@k of one request with one relevant item; ties in expectation (see `Rank`)."""
    return float(discounts(k, rank.last)[rank.first - 1 :].mean())


def hit_at(k: int, rank: Rank) -> float:
    """Whether the relevant item is among the first k; ties make it a probability (see `Rank`)."""
    num_places = rank.last - rank.first + 1
    return min(max(k - rank.first + 1, 0), num_places) / num_places


def mrr(rank: Rank) -> float:
    """The reciprocal of the relevant item's place, whose mean over requests is the MRR; ties in expectation."""
    return float((1.0 / np.arange(rank.first, rank.last + 1)).mean())


def chance_ndcg(k: int, n: int) -> float:
    """Expected NDCG@k of a random order of n candidates, one of them relevant."""
    return ndcg_at(k, Rank(1, n))


def chance_hit(k: int, n: int) -> float:
    """Expected hit rate@k of a random order of n candidates, one of them relevant."""
    return hit_at(k, Rank(1, n))


def chance_mrr(n: int) -> float:
    """Expected reciprocal rank of a random order of n candidates, one of them relevant."""
    return mrr(Rank(1, n))


def place_values(num_candidates: int) -> Float[np.ndarray, "M N"]:
    """What each of `METRICS` gives for a relevant item at each place, in the order of the fields."""
    places = np.arange(1, num_candidates + 1)
    by_name = {"mrr": 1.0 / places}
    by_name |= {f"hit_at_{k}": (places <= k).astype(float) for k in (1, 3, 5, 10)}
    by_name |= {f"ndcg_at_{k}": discounts(k, num_candidates) for k in (5, 10, 20)}
    return np.stack([by_name[name] for name in METRICS])


def metric_values(ranks: Sequence[Rank]) -> Float[np.ndarray, "R M"]:
    """Each of `METRICS` for each request; ties in expectation (see `Rank`)."""
    values = place_values(max((rank.last for rank in ranks), default=1))
    rows = [values[:, rank.first - 1 : rank.last].mean(axis=1) for rank in ranks]
    return np.array(rows).reshape(len(ranks), len(METRICS))


def mean_quality(values: Float[np.ndarray, "R M"]) -> RankingQuality:
    """Means over requests of what `metric_values` gives."""
    if not len(values):
        raise ValueError("no ranks: the quality of no requests is undefined")
    return RankingQuality(*values.mean(axis=0).tolist())


def ranking_quality(ranks: Sequence[Rank]) -> RankingQuality:
    """Means over requests; for chance level, pass `Rank(1, num_candidates)` for each request."""
    return mean_quality(metric_values(ranks))


def expected_quality(probabilities: Float[np.ndarray, "C"]) -> RankingQuality:
    """What ranking by the true target probabilities gets on average: each place's worth times its probability."""
    falling = np.sort(probabilities)[::-1]
    return RankingQuality(*(place_values(len(falling)) @ falling).tolist())
