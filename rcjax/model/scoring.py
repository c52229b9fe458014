"""From the logits that one pass reads out to a score for each candidate."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from rcjax.prompt import PromptBuilder, Scoring


@dataclass(frozen=True, slots=True)
class Scorer:
    """Which vocabulary entries are read out, and what their logits say.

    `vocab_ids` [W] are the labels in order, then yes, then no.
    """

    vocab_ids: np.ndarray

    @classmethod
    def of(cls, builder: PromptBuilder) -> "Scorer":
        return cls(np.concatenate([builder.label_ids, [builder.yes_id, builder.no_id]]).astype(np.int32))

    def scores(
        self, logits: Float[np.ndarray, "R W"], scoring: Scoring, num_candidates: int
    ) -> Float[np.ndarray, "candidates"]:
        """Scores in the candidates' order.

        `label`: log-probability of the candidate's label among the candidates' labels, at the first token of
        the answer (Reddy et al., "FIRST", arXiv 2406.15657). `anchor`: the logit of yes minus that of no after
        the candidate's own closing token; it does not depend on the other candidates' logits.
        """
        if scoring is Scoring.ANCHOR:
            return logits[:num_candidates, -2] - logits[:num_candidates, -1]
        below_top = logits[0, :num_candidates] - logits[0, :num_candidates].max()
        return below_top - np.log(np.exp(below_top).sum())
