"""The best possible quality on requests of the embedded shop: the ceiling that models are measured against."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from rcjax.catalog.embedded import EmbeddedWorld
from rcjax.catalog.types import Request
from rcjax.evaluation import ranking
from rcjax.evaluation.ranking import RankingQuality


@dataclass(frozen=True, slots=True)
class BayesReport:
    """The ceilings of a set of requests, and the floor.

    `bayes` is the expected quality of the best ranking that can be made from what the prompt shows, and
    `realised` what that ranking gets on the targets that were drawn (it scatters around `bayes`). `oracle` is the
    expected quality of ranking by the user's true tastes, which no ranker can see. `chance` is a random order's.
    """

    num_requests: int
    bayes: RankingQuality
    realised: RankingQuality
    oracle: RankingQuality
    chance: RankingQuality


def bayes_optimal(world: EmbeddedWorld, requests: Sequence[Request]) -> BayesReport:
    """The best possible quality on `requests`, which must come from `world`."""
    bayes, realised, oracle, chance = [], [], [], []
    for request in requests:
        if request.target is None:
            raise ValueError(f"the request of {request.user_id} has no target")
        scores = world.optimal_scores(request)
        bayes.append(ranking.expected_quality(scores))
        realised.append(ranking.rank_of(scores, request.candidates.index(request.target)))
        oracle.append(ranking.expected_quality(world.oracle_scores(request)))
        chance.append(ranking.Rank(1, len(request.candidates)))
    return BayesReport(
        num_requests=len(requests),
        bayes=_mean(bayes),
        realised=ranking.ranking_quality(realised),
        oracle=_mean(oracle),
        chance=ranking.ranking_quality(chance),
    )


def _mean(qualities: Sequence[RankingQuality]) -> RankingQuality:
    return ranking.mean_quality(np.array([astuple(quality) for quality in qualities]))
