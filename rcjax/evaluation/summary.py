"""From what the arms gave to figures: quality, differences with intervals, fidelity, tokens, times, position bias."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from rcjax.catalog.types import Request
from rcjax.errors import RcjaxError
from rcjax.evaluation.arms import References
from rcjax.evaluation.bootstrap import NUM_RESAMPLES, interval, resampled_means
from rcjax.evaluation.fidelity import Fidelity, ScorePair, fidelity
from rcjax.evaluation.percentiles import percentiles
from rcjax.evaluation.ranking import METRICS, Rank, mean_quality, metric_values, rank_of
from rcjax.evaluation.runner import ArmRun, Outcome


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over requests and its 95% bootstrap interval."""

    value: float
    low: float
    high: float

    def excess(self, tolerance: float) -> float:
        """How far the interval reaches beyond -tolerance or +tolerance; 0 or less where it stays within."""
        return max(self.high, -self.low) - tolerance


@dataclass(frozen=True, slots=True)
class TokenShares:
    """Means over requests.

    `fresh`: tokens that the pass computed, selected ones too, over the prompt's. `probed`: tokens that the selection's
    probes computed through a few layers, over the prompt's. `selected` and `built`: tokens that were selected, and
    those of blocks that missed and were built first, over those of all blocks from the cache. `semantic`: tokens whose
    KV is that of other histories' tokens, over the same.
    """

    fresh: float
    probed: float
    selected: float
    built: float
    semantic: float


@dataclass(frozen=True, slots=True)
class PositionBias:
    """What the order of the candidates changes, over all random orders.

    Of an arm's scores in a random order against its scores in the request's own: `kendall_tau` and `top1_agreement`
    (1: the order changes nothing). `ndcg_at_10`: the mean over requests in each order, their own first.
    """

    kendall_tau: float
    top1_agreement: float
    ndcg_at_10: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ArmSummary:
    """An arm on all requests. `reference` is the arm that `differences` and `fidelity` are against, if there is one.

    A request that the engine refused counts as invalid, and its target as ranked last.
    """

    reference: str | None
    num_invalid: int
    metrics: dict[str, Estimate]
    differences: dict[str, Estimate] | None
    fidelity: Fidelity | None
    tokens: TokenShares
    ttft_ms: dict[str, float]
    position_bias: PositionBias | None
    ranks: tuple[Rank, ...]


@dataclass(frozen=True, slots=True)
class BaselineSummary:
    """A ranker without a model."""

    metrics: dict[str, Estimate]
    ranks: tuple[Rank, ...]


def summarise(
    runs: Mapping[str, ArmRun],
    references: References,
    requests: Sequence[Request],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, ArmSummary]:
    """Every arm's figures; the requests of one user are resampled together, and alike for all arms."""
    ranks = {arm: _ranks(run.outcomes, requests) for arm, run in runs.items()}
    values = {arm: metric_values(of_arm) for arm, of_arm in ranks.items()}
    users = [request.user_id for request in requests]
    together = resampled_means(np.hstack(list(values.values())), users, num_resamples=num_resamples, seed=seed)
    resampled = dict(zip(runs, np.split(together, len(runs), axis=1), strict=True))
    summaries = {}
    for arm, run in runs.items():
        reference = references[arm]
        against = None if reference is None else (values[reference], resampled[reference])
        summaries[arm] = ArmSummary(
            reference=reference,
            num_invalid=len(run.outcomes) - len(run.answers),
            metrics=_estimates(values[arm], resampled[arm]),
            differences=_estimates(values[arm] - against[0], resampled[arm] - against[1]) if against else None,
            fidelity=fidelity(_pairs(runs[reference].outcomes, run.outcomes)) if reference else None,
            tokens=_token_shares(run.answers),
            ttft_ms=percentiles([answer.ttft_ms for answer in run.answers]),
            position_bias=_position_bias(run, requests),
            ranks=tuple(ranks[arm]),
        )
    return summaries


def baseline_summary(
    scores: Sequence[Float[np.ndarray, "..."]],
    requests: Sequence[Request],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> BaselineSummary:
    """A baseline's figures from its scores of each request's candidates."""
    ranks = [rank_of(of_one, _target(request)) for of_one, request in zip(scores, requests, strict=True)]
    values = metric_values(ranks)
    users = [request.user_id for request in requests]
    return BaselineSummary(
        _estimates(values, resampled_means(values, users, num_resamples=num_resamples, seed=seed)), tuple(ranks)
    )


def means(metrics: Mapping[str, Estimate]) -> dict[str, float]:
    return {name: estimate.value for name, estimate in metrics.items()}


def _estimates(values: Float[np.ndarray, "R M"], resampled: Float[np.ndarray, "B M"]) -> dict[str, Estimate]:
    low, high = interval(resampled)
    rows = zip(values.mean(axis=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return {name: Estimate(*row) for name, row in zip(METRICS, rows, strict=True)}


def _ranks(outcomes: Sequence[Outcome | RcjaxError], requests: Sequence[Request]) -> list[Rank]:
    return [_rank(outcome, request) for outcome, request in zip(outcomes, requests, strict=True)]


def _rank(outcome: Outcome | RcjaxError, request: Request) -> Rank:
    last = len(request.candidates)
    return rank_of(outcome.scores, _target(request)) if isinstance(outcome, Outcome) else Rank(last, last)


def _target(request: Request) -> int:
    if request.target is None:
        raise ValueError(f"the request of {request.user_id} has no target")
    return request.candidates.index(request.target)


def _pairs(one: Sequence[Outcome | RcjaxError], other: Sequence[Outcome | RcjaxError]) -> list[ScorePair]:
    """The scores of the requests that both answered."""
    both = zip(one, other, strict=True)
    return [(a.scores, b.scores) for a, b in both if isinstance(a, Outcome) and isinstance(b, Outcome)]


def _token_shares(answers: Sequence[Outcome]) -> TokenShares:
    tokens = [answer.tokens for answer in answers]
    return TokenShares(
        fresh=float(np.mean([(t.fresh + t.selected) / t.prompt_len for t in tokens])),
        probed=float(np.mean([t.probed / t.prompt_len for t in tokens])),
        selected=float(np.mean([t.selected / max(t.cached + t.selected, 1) for t in tokens])),
        built=float(np.mean([t.built / max(t.cached + t.selected, 1) for t in tokens])),
        semantic=float(np.mean([t.semantic / max(t.cached + t.selected, 1) for t in tokens])),
    )


def _position_bias(run: ArmRun, requests: Sequence[Request]) -> PositionBias | None:
    if len(run.orders) == 1:
        return None
    between = fidelity([pair for order in run.orders[1:] for pair in _pairs(run.outcomes, order)])
    ndcg = [mean_quality(metric_values(_ranks(order, requests))).ndcg_at_10 for order in run.orders]
    return PositionBias(between.kendall_tau, between.top1_agreement, tuple(ndcg))
