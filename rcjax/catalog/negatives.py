"""Candidates that a user did not choose, drawn for training and for evaluation."""

from collections import Counter
from collections.abc import Collection, Iterable
from enum import StrEnum

import numpy as np

from rcjax.catalog.types import Catalogue


class Negatives(StrEnum):
    """How likely an item is to be drawn: in proportion to its events in all histories, or alike."""

    POPULARITY = "popularity"
    UNIFORM = "uniform"


class NegativeSampler:
    """Draws distinct items that are not excluded; an item without an event counts as having one."""

    def __init__(self, catalogue: Catalogue, negatives: Negatives):
        self.item_ids = tuple(catalogue.items)
        self._index = {item_id: n for n, item_id in enumerate(self.item_ids)}
        events = (event.item_id for user in catalogue.users.values() for event in user.events)
        weights = _weights(self.item_ids, events if negatives is Negatives.POPULARITY else ())
        self._log_weights = np.log(weights)

    def draw(self, rng: np.random.Generator, num_items: int, exclude: Collection[str]) -> list[str]:
        """`num_items` ids in random order; ValueError where the catalogue has too few."""
        excluded = [self._index[item_id] for item_id in exclude if item_id in self._index]
        if num_items > len(self.item_ids) - len(excluded):
            limit = len(self.item_ids) - len(excluded)
            raise ValueError(f"{num_items=} exceeds the {limit} items of the catalogue that are not excluded")
        # The largest of log w + Gumbel noise: draws one after another, without replacement, in proportion to w.
        keys = self._log_weights + rng.gumbel(size=len(self.item_ids))
        keys[excluded] = -np.inf
        return [self.item_ids[i] for i in np.argsort(-keys)[:num_items]]


def _weights(item_ids: tuple[str, ...], events: Iterable[str]) -> np.ndarray:
    counts = Counter(events)
    return np.array([max(counts[item_id], 1) for item_id in item_ids], float)
