"""The gate: what a deployment checks before it serves a model from cached blocks."""

from collections.abc import Mapping
from dataclasses import dataclass

from rcjax.evaluation.summary import ArmSummary, Estimate

METRIC = "ndcg_at_10"


@dataclass(frozen=True, slots=True)
class Violation:
    """An arm whose difference to its reference may be larger than the tolerance."""

    arm: str
    reference: str
    difference: Estimate
    excess: float


def gate_violations(summaries: Mapping[str, ArmSummary], tolerance: float) -> list[Violation]:
    """Every arm whose 95% interval of the NDCG@10 difference leaves ±`tolerance`, below or above.

    An interval that is wide because there are few requests fails too: then nothing has been shown.
    """
    found = []
    for arm, summary in summaries.items():
        if summary.reference is None or summary.differences is None:
            continue
        difference = summary.differences[METRIC]
        if (excess := difference.excess(tolerance)) > 0:
            found.append(Violation(arm, summary.reference, difference, excess))
    return found
