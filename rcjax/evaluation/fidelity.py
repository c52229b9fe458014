"""How closely an arm's scores follow those of its reference."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import kendalltau

ScorePair = tuple[np.ndarray, np.ndarray]  # of one request's candidates, by the reference and by the arm


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Means over requests, but for the maximum; NaN where there is nothing to compare.

    `kl_nats`: Kullback-Leibler divergence of the reference's distribution over the candidates (softmax of the scores)
    from the arm's. `top1_agreement`: share of requests with the same best candidate. `kendall_tau`: tau-b over the
    candidates; requests whose scores are all tied have none and are left out. `max_score_difference`: the largest
    difference of any candidate's scores.
    """

    num_requests: int
    kl_nats: float
    top1_agreement: float
    kendall_tau: float
    max_score_difference: float


def kl_divergence(reference: Float[np.ndarray, "C"], scores: Float[np.ndarray, "C"]) -> float:
    """KL(p || q) in nats, p and q the softmax of the reference's scores and of the arm's."""
    log_p, log_q = _log_softmax(reference), _log_softmax(scores)
    return float((np.exp(log_p) * (log_p - log_q)).sum())


def same_top1(reference: Float[np.ndarray, "C"], scores: Float[np.ndarray, "C"]) -> bool:
    """Whether both put the same candidate first; the earlier candidate wins a tie, as in the engine."""
    return bool(reference.argmax() == scores.argmax())


def fidelity(pairs: Sequence[ScorePair]) -> Fidelity:
    """Compares the two scores of each request, which are in the same order of candidates."""
    taus = np.array([kendalltau(reference, scores).statistic for reference, scores in pairs])
    taus = taus[~np.isnan(taus)]
    if not pairs:
        return Fidelity(0, *[float("nan")] * 4)
    return Fidelity(
        num_requests=len(pairs),
        kl_nats=float(np.mean([kl_divergence(reference, scores) for reference, scores in pairs])),
        top1_agreement=float(np.mean([same_top1(reference, scores) for reference, scores in pairs])),
        kendall_tau=float(taus.mean()) if len(taus) else float("nan"),
        max_score_difference=max(float(np.abs(reference - scores).max()) for reference, scores in pairs),
    )


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    below_top = scores.astype(np.float64) - scores.max()
    return below_top - np.log(np.exp(below_top).sum())
