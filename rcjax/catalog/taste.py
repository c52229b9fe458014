"""Who likes what in the embedded shop, as a model whose posterior is exact.

A user has one of P profiles. Given it, events, ratings, remarks and choices follow the distributions below, so
that the profile's posterior given a history is a sum over P terms, and nothing has to be approximated.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

RATINGS = (1, 2, 3, 4, 5)
HISTORY_SHARPNESS = 0.5
_RATING_SPREAD = 0.8
_MENTION_SHARPNESS = 0.8


@dataclass(frozen=True, slots=True)
class Trace:
    """What a user's history says: for each event the item, the rating, and the aspect that the review mentions."""

    items: tuple[int, ...]
    ratings: tuple[int, ...]
    mentions: tuple[int, ...]


@dataclass(frozen=True)
class TasteModel:
    """P profiles over I items with A aspects each (department, brand, ...).

    A profile's utility for an item is the sum over the item's aspects.

    - event k of a history is item i with probability proportional to popularity_i * exp(`history_sharpness` utility_i),
      among the items that did not come before;
    - its rating r has probability proportional to exp(-(r - m)^2 / (2 * 0.8^2)), m = 3 + 2 tanh(utility / 4);
    - its review mentions aspect a with probability proportional to exp(0.8 s aspects_a), s = 1 for ratings from
      3 up and -1 below: praise for what the user likes, blame for what they do not;
    - one of the candidates C is chosen: P(i | C) = exp(utility_i) / sum over C.
    """

    prior: Float[np.ndarray, "P"]
    aspects: Float[np.ndarray, "P I A"]
    popularity: Float[np.ndarray, "I"]
    history_sharpness: float = HISTORY_SHARPNESS

    @cached_property
    def utility(self) -> Float[np.ndarray, "P I"]:
        return np.asarray(self.aspects.sum(axis=2))

    @cached_property
    def event_weights(self) -> Float[np.ndarray, "P I"]:
        return np.asarray(self.popularity * np.exp(self.history_sharpness * self.utility))

    @cached_property
    def rating_probabilities(self) -> tuple[Float[np.ndarray, "P R"], ...]:
        """Of each item."""
        middles = 3.0 + 2.0 * np.tanh(self.utility / 4.0)
        misfits = [(np.array(RATINGS) - middle[:, None]) / _RATING_SPREAD for middle in middles.T]
        return tuple(_softmax(-0.5 * misfit**2) for misfit in misfits)

    @cached_property
    def praise_probabilities(self) -> tuple[Float[np.ndarray, "P A"], ...]:
        """What reviews of each item mention that rate it with 3 or more."""
        return tuple(_softmax(_MENTION_SHARPNESS * aspects) for aspects in self.aspects.transpose(1, 0, 2))

    @cached_property
    def blame_probabilities(self) -> tuple[Float[np.ndarray, "P A"], ...]:
        """What reviews of each item mention that rate it with less."""
        return tuple(_softmax(-_MENTION_SHARPNESS * aspects) for aspects in self.aspects.transpose(1, 0, 2))

    def mention_probabilities(self, item: int, rating: int) -> Float[np.ndarray, "P A"]:
        return (self.praise_probabilities if rating >= 3 else self.blame_probabilities)[item]

    def choice_probabilities(self, candidates: Int[np.ndarray, "C"]) -> Float[np.ndarray, "P C"]:
        return _softmax(self.utility[:, candidates])

    def posterior(self, trace: Trace) -> Float[np.ndarray, "P"]:
        """P(profile | history), exactly."""
        weights = self.event_weights
        left = weights.sum(axis=1)
        log_posterior = np.log(self.prior)
        for item, rating, mention in zip(trace.items, trace.ratings, trace.mentions, strict=True):
            log_posterior = log_posterior + np.log(weights[:, item] / left)
            log_posterior += np.log(self.rating_probabilities[item][:, rating - 1])
            log_posterior += np.log(self.mention_probabilities(item, rating)[:, mention])
            left = left - weights[:, item]
        return np.asarray(_softmax(log_posterior[None, :])[0])

    def target_probabilities(self, trace: Trace, candidates: Int[np.ndarray, "C"]) -> Float[np.ndarray, "C"]:
        """P(target = i | history, candidates): the posterior-expected choice probability.

        The candidates themselves say nothing more about the profile: the shop draws them from the history
        and the popularity alone.
        """
        return np.asarray(self.posterior(trace) @ self.choice_probabilities(candidates))


def _softmax(logits: Float[np.ndarray, "P N"]) -> Float[np.ndarray, "P N"]:
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exp / exp.sum(axis=1, keepdims=True))
