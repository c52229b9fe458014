"""How well a model in training ranks requests that it does not learn from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from rcjax.evaluation.fidelity import kl_divergence, same_top1
from rcjax.evaluation.ranking import ndcg_at, rank_of
from rcjax.training.examples import Example

_TINY = 1e-30  # a share below it has no logarithm to speak of


@dataclass(frozen=True, slots=True)
class Validation:
    """Means over the validation requests; None where none of them can tell. The fields are those of a `CurvePoint`."""

    ndcg_at_10: float | None = None
    kl_nats: float | None = None
    top1_agreement: float | None = None

    def __str__(self) -> str:
        known = {"NDCG@10": self.ndcg_at_10, "KL": self.kl_nats, "same top 1": self.top1_agreement}
        return ", ".join(f"{name} {value:.3f}" for name, value in known.items() if value is not None)


def validation_of(examples: Sequence[Example], scores: Sequence[Float[np.ndarray, "..."]]) -> Validation:
    """What the scores of each example's candidates are worth: against what was chosen first, and the teacher."""
    chosen = [
        ndcg_at(10, rank_of(own.astype(float), example.choices[0]))
        for example, own in zip(examples, scores, strict=True)
        if example.choices
    ]
    of_teacher = [
        (np.log(np.maximum(example.soft_targets, _TINY)), own)
        for example, own in zip(examples, scores, strict=True)
        if example.soft_targets
    ]
    return Validation(
        _mean(chosen),
        _mean([kl_divergence(teacher, own) for teacher, own in of_teacher]),
        _mean([float(same_top1(teacher, own)) for teacher, own in of_teacher]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
