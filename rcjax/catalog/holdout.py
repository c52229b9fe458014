"""Holding out: users split for training and testing, and requests whose answer is an event that came later."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rcjax.catalog.negatives import Negatives, NegativeSampler
from rcjax.catalog.types import Catalogue, Event, Request, User

DEFAULT_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclass(frozen=True, slots=True)
class NextItem:
    """The task: from a user's first `history_len` events, find an item that came next among `num_candidates`.

    The first `targets_per_user` that came next are asked for, each in a request of its own. The other candidates are
    drawn by `negatives` from the items that the user has no event with.
    """

    history_len: int = 3
    num_candidates: int = 20
    negatives: Negatives = Negatives.POPULARITY
    targets_per_user: int = 1

    def __post_init__(self) -> None:
        if self.history_len < 1 or self.num_candidates < 2:
            raise ValueError(f"{self.history_len=} must be at least 1 and {self.num_candidates=} at least 2")
        if self.targets_per_user < 1:
            raise ValueError(f"{self.targets_per_user=} must be at least 1")

    def targets(self, catalogue: Catalogue, user: User) -> list[str]:
        """The items that are asked for, first ones first: those of the catalogue, none of the history."""
        seen = {event.item_id for event in user.events[: self.history_len]}
        later = dict.fromkeys(event.item_id for event in user.events[self.history_len :])
        found = [item_id for item_id in later if item_id in catalogue.items and item_id not in seen]
        return found[: self.targets_per_user]


def split_users(catalogue: Catalogue, shares: Mapping[str, float], seed: int = 0) -> dict[str, Catalogue]:
    """The catalogue once for each name in `shares`, each with all items and its own users and their requests.

    A user's split depends on the seed and the user's id alone (SHA-256), so it stays when users come and go, and the
    splits have about these shares of the users. ValueError where shares are negative or do not sum to 1.
    """
    bounds = np.cumsum(list(shares.values()))
    if min(shares.values(), default=-1.0) < 0 or not math.isclose(bounds[-1], 1.0):
        raise ValueError(f"{dict(shares)} must be shares of at least 0 that sum to 1")
    names = list(shares)
    last = max(i for i, share in enumerate(shares.values()) if share)
    split_of = {
        user_id: names[min(int(np.searchsorted(bounds, _fraction("split", seed, user_id), side="right")), last)]
        for user_id in catalogue.users
    }
    return {
        name: Catalogue(
            catalogue.items,
            {user_id: user for user_id, user in catalogue.users.items() if split_of[user_id] == name},
            tuple(request for request in catalogue.requests if split_of[request.user_id] == name),
        )
        for name in names
    }


def hold_out(
    catalogue: Catalogue,
    task: NextItem,
    *,
    num_requests: int | None = None,
    seed: int = 0,
    sampler: NegativeSampler | None = None,
) -> Catalogue:
    """A catalogue of requests, one a target, whose users have only their first events left.

    `num_requests=None` asks for every target; fewer are chosen by the seed, user by user, and a larger number asks all
    of the smaller one's requests too. Negatives and order depend on the seed, the user's id and the target's number.
    ValueError where there are too few targets.

    Nothing leaks into the draw of negatives: popularity counts all events of `sampler`'s catalogue (this one, if it
    is not given), later ones too, but as a user's own items are never drawn for that user, how likely an item is to
    stand beside a target rests on the events of other users alone.
    """
    users = sorted(catalogue.users.values(), key=lambda user: _fraction("request", seed, user.user_id))
    able = [(user, number) for user in users for number in range(len(task.targets(catalogue, user)))]
    num_requests = len(able) if num_requests is None else num_requests
    if num_requests > len(able):
        raise ValueError(f"{num_requests=} exceeds the {len(able)} targets after history_len={task.history_len}")
    chosen = able[:num_requests]
    sampler = sampler or NegativeSampler(catalogue, task.negatives)
    return Catalogue(
        catalogue.items,
        {user.user_id: replace(user, events=_history(user, task)) for user, _ in chosen},
        tuple(_request(catalogue, user, number, task, seed, sampler) for user, number in chosen),
    )


def _history(user: User, task: NextItem) -> tuple[Event, ...]:
    return user.events[: task.history_len]


def _request(
    catalogue: Catalogue, user: User, number: int, task: NextItem, seed: int, sampler: NegativeSampler
) -> Request:
    rng = np.random.default_rng(_digest(f"request {number}" if number else "request", seed, user.user_id))
    target = task.targets(catalogue, user)[number]
    negatives = sampler.draw(rng, task.num_candidates - 1, exclude={event.item_id for event in user.events})
    candidates = rng.permutation([target, *negatives])
    return Request(user.user_id, tuple(map(str, candidates)), target)


def _digest(purpose: str, seed: int, user_id: str) -> int:
    """64 bits that look random and are the same everywhere."""
    text = f"{purpose}\0{seed}\0{user_id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _fraction(purpose: str, seed: int, user_id: str) -> float:
    """A number in [0, 1] that looks uniform."""
    return _digest(purpose, seed, user_id) / 2**64
