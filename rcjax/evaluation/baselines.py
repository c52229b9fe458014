"""What a model has to beat: rankers without a model, and bounds."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from rcjax.catalog.types import Catalogue, Event, Request
from rcjax.evaluation.bayes import bayes_optimal
from rcjax.evaluation.dataset import Dataset
from rcjax.evaluation.ranking import Rank, ranking_quality


@runtime_checkable
class Baseline(Protocol):
    def scores(self, request: Request) -> Float[np.ndarray, "C"]:
        """A score for each candidate; those that are tied share their places."""
        ...


class WordOverlap:
    """Scores a candidate by how many words of its title occur in the titles of the user's history."""

    def __init__(self, catalogue: Catalogue):
        self._catalogue = catalogue

    def scores(self, request: Request) -> Float[np.ndarray, "C"]:
        events = self._catalogue.users[request.user_id].events
        seen = frozenset[str]().union(*(_words(event.title) for event in events))
        items = self._catalogue.items
        return np.array([float(len(_words(items[item_id].title) & seen)) for item_id in request.candidates])


class Popularity:
    """Scores a candidate by how many events other users have with it.

    The user's own events do not count: the held-out one is the answer. So an item that nobody else has an event with
    scores 0 even where it is the target.
    """

    def __init__(self, catalogue: Catalogue):
        """`catalogue` has all users with all their events, later ones too."""
        self._users = catalogue.users
        self._counts = _counts(event for user in catalogue.users.values() for event in user.events)

    def scores(self, request: Request) -> Float[np.ndarray, "C"]:
        user = self._users.get(request.user_id)
        own = _counts(user.events if user else ())
        return np.array([float(self._counts[item_id] - own[item_id]) for item_id in request.candidates])


def bounds(dataset: Dataset) -> dict[str, dict[str, float]]:
    """Metrics by name that no ranker was run for: a random order's, and the best possible where that is known.

    Both are expectations: over random orders, and over the targets that might have been drawn.
    """
    requests = dataset.asked.requests
    found = {"chance": asdict(ranking_quality([Rank(1, len(request.candidates)) for request in requests]))}
    if dataset.world:
        found["best possible"] = asdict(bayes_optimal(dataset.world, requests).bayes)
    return found


def _counts(events: Iterable[Event]) -> Counter[str]:
    return Counter(event.item_id for event in events)


@lru_cache(maxsize=100_000)
def _words(title: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", title.lower()))
