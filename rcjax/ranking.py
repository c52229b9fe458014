"""How good a ranking is when exactly one candidate is relevant, and what chance would reach."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    """The three metrics that `rcjax` reports, as means over requests."""

    ndcg_at_10: float
    hit_at_10: float
    mrr: float


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


def ranking_quality(ranks: Sequence[Rank]) -> RankingQuality:
    """Means over requests; for chance level, pass `Rank(1, num_candidates)` for each request."""
    if not ranks:
        raise ValueError("no ranks: the quality of no requests is undefined")
    return RankingQuality(
        ndcg_at_10=float(np.mean([ndcg_at(10, rank) for rank in ranks])),
        hit_at_10=float(np.mean([hit_at(10, rank) for rank in ranks])),
        mrr=float(np.mean([mrr(rank) for rank in ranks])),
    )


def expected_quality(probabilities: Float[np.ndarray, "C"]) -> RankingQuality:
    """What ranking by the true target probabilities gets on average: each place's worth times its probability."""
    falling = np.sort(probabilities)[::-1]
    return RankingQuality(
        ndcg_at_10=float(falling @ discounts(10, len(falling))),
        hit_at_10=float(falling[:10].sum()),
        mrr=float((falling / np.arange(1, len(falling) + 1)).sum()),
    )
