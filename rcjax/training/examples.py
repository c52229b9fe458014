"""Examples: a history, the candidates that came after it, and which of them is to be ranked first."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from rcjax.catalog.embedded import MAX_EVENTS, EmbeddedWorld, Split, embedded_user_id
from rcjax.catalog.negatives import NegativeSampler
from rcjax.catalog.types import Catalogue, Event, Item, Request, User


@dataclass(frozen=True, slots=True)
class Example:
    """One request, and what is known of its answer.

    `choices` are indices of the candidates chosen, one for each time it was asked. `soft_targets` is a
    teacher's distribution over the candidates, where there is one.
    """

    history: tuple[Event, ...]
    candidates: tuple[Item, ...]
    choices: tuple[int, ...] = ()
    soft_targets: tuple[float, ...] = ()

    @property
    def choice_shares(self) -> Float[np.ndarray, "C"]:
        """How often each candidate was chosen; ValueError where no choice is known."""
        if not self.choices:
            raise ValueError(f"nothing is known of what was chosen of {len(self.candidates)} candidates")
        return np.bincount(self.choices, minlength=len(self.candidates)) / len(self.choices)

    @property
    def target_shares(self) -> Float[np.ndarray, "C"]:
        """What training draws the scores' distribution to: the teacher's, or else what was chosen."""
        return np.array(self.soft_targets) if self.soft_targets else self.choice_shares

    def in_order(self, order: Sequence[int]) -> "Example":
        """The same with the candidates in another order, a permutation of their indices."""
        place = {index: n for n, index in enumerate(order)}
        return Example(
            self.history,
            tuple(self.candidates[i] for i in order),
            tuple(place[choice] for choice in self.choices),
            tuple(self.soft_targets[i] for i in order) if self.soft_targets else (),
        )


@runtime_checkable
class ExampleSource(Protocol):
    """Draws examples; the same generator state gives the same examples."""

    def draw(self, rng: np.random.Generator, num_examples: int) -> list[Example]: ...


@runtime_checkable
class Buckets(Protocol):
    """The examples of a run, so many at a time."""

    def bucket(self, number: int, num_examples: int, rng: np.random.Generator) -> list[Example]:
        """The examples of the number-th bucket, from 0; `rng` is the bucket's own (`bucket_rng`)."""
        ...


@dataclass(frozen=True, slots=True)
class DrawnBuckets:
    """Examples that are drawn anew for each bucket."""

    source: ExampleSource

    def bucket(self, number: int, num_examples: int, rng: np.random.Generator) -> list[Example]:
        return self.source.draw(rng, num_examples)


def bucket_rng(seed: int, number: int) -> np.random.Generator:
    """What a run of this seed draws the number-th bucket with."""
    return np.random.default_rng((seed, number))


@dataclass(frozen=True, slots=True)
class EmbeddedExamples:
    """Requests of the embedded shop's endless users of one split, `requests_per_user` of each user drawn.

    Every request is answered `choices_per_request` times. With `pool`, so many items are drawn by popularity, from
    which all requests of one `draw` take their candidates, instead of the candidates of the shop's own requests.
    Histories are the last `max_events` events. In a `recall_share` of the examples one of the history's items takes a
    candidate's place and is what was chosen.
    """

    world: EmbeddedWorld
    split: Split
    num_candidates: int
    requests_per_user: int = 1
    choices_per_request: int = 1
    max_events: int = MAX_EVENTS
    recall_share: float = 0.0
    pool: int | None = None
    num_users: int = 100_000

    def draw(self, rng: np.random.Generator, num_examples: int) -> list[Example]:
        pool = self._drawn_pool(rng)
        examples: list[Example] = []
        while len(examples) < num_examples:
            index = int(rng.integers(self.num_users))
            user = self.world.user(embedded_user_id(self.split, index))
            for round_ in range(min(self.requests_per_user, num_examples - len(examples))):
                if pool is None:
                    candidates = self.world.request(self.split, index, round_, self.num_candidates).candidates
                else:
                    own = {event.item_id for event in user.events}
                    candidates = _from_pool(rng, pool, own, self.num_candidates)
                history = user.events[-self.max_events :]
                # Without recall nothing is drawn for it: the runs of before there was any go on as they were.
                if self.recall_share and rng.random() < self.recall_share:
                    candidates, choices = _recalled(rng, history, candidates)
                else:
                    drawn = self.world.choices(user.user_id, candidates, self.choices_per_request, rng)
                    choices = tuple(int(i) for i in drawn)
                items = tuple(self.world.items[item_id] for item_id in candidates)
                examples.append(Example(history, items, choices))
        return examples

    def _drawn_pool(self, rng: np.random.Generator) -> list[str] | None:
        if self.pool is None:
            return None
        ids = list(self.world.items)
        if self.pool > len(ids):
            raise ValueError(f"negative_pool={self.pool} exceeds the shop's {len(ids)} items; lower it")
        return [ids[i] for i in rng.choice(len(ids), self.pool, replace=False, p=self.world.tastes.popularity)]


class PairExamples:
    """A user's events up to a random point, and up to `choices_per_request` random later items among negatives.

    A `recall_share` of the examples asks for one of the history's own items instead, which is easier to learn.
    `pool` draws so many negatives at once, from which all examples of one `draw` take theirs.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        users: Sequence[User],
        sampler: NegativeSampler,
        *,
        num_candidates: int,
        max_events: int,
        requests_per_user: int = 1,
        choices_per_request: int = 1,
        recall_share: float = 0.0,
        pool: int | None = None,
    ):
        if choices_per_request >= num_candidates:
            raise ValueError(f"{choices_per_request=} leaves no negative among {num_candidates=}; lower it")
        self._items = catalogue.items
        self._users = [user for user in users if len(_known(user.events, catalogue.items)) >= 2]
        if not self._users:
            raise ValueError(f"none of the {len(users)} users has two events of known items: no pairs to train on")
        self._sampler = sampler
        self._num_candidates = num_candidates
        self._max_events = max_events
        self._requests_per_user = requests_per_user
        self._choices_per_request = choices_per_request
        self._recall_share = recall_share
        self._pool = pool

    def draw(self, rng: np.random.Generator, num_examples: int) -> list[Example]:
        pool = self._sampler.draw(rng, self._pool, ()) if self._pool else None
        examples: list[Example] = []
        while len(examples) < num_examples:
            events = _known(self._users[int(rng.integers(len(self._users)))].events, self._items)
            cut = int(rng.integers(1, len(events)))
            history = events[max(0, cut - self._max_events) : cut]
            later = [events[i].item_id for i in rng.permutation(np.arange(cut, len(events)))]
            chosen = [later[i : i + self._choices_per_request] for i in range(0, len(later), self._choices_per_request)]
            for targets in chosen[: min(self._requests_per_user, num_examples - len(examples))]:
                if rng.random() < self._recall_share:
                    targets = [history[int(rng.integers(len(history)))].item_id]
                examples.append(self._example(rng, history, events, targets, pool))
        return examples

    def _example(
        self,
        rng: np.random.Generator,
        history: tuple[Event, ...],
        events: tuple[Event, ...],
        targets: Sequence[str],
        pool: Sequence[str] | None,
    ) -> Example:
        own = {event.item_id for event in events}
        num_negatives = self._num_candidates - len(targets)
        if pool is None:
            negatives = tuple(self._sampler.draw(rng, num_negatives, own))
        else:
            negatives = _from_pool(rng, pool, own, num_negatives)
        ids = [*targets, *negatives]
        order = rng.permutation(len(ids))
        places = np.argsort(order)[: len(targets)]
        return Example(history, tuple(self._items[ids[i]] for i in order), tuple(int(i) for i in places))


def example_of(request: Request, history: tuple[Event, ...], items: Mapping[str, Item]) -> Example:
    """The example that a request is, chosen or not."""
    candidates = tuple(items[item_id] for item_id in request.candidates)
    choices = () if request.target is None else (request.candidates.index(request.target),)
    return Example(history, candidates, choices)


def _recalled(
    rng: np.random.Generator, history: Sequence[Event], candidates: Sequence[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The candidates with one of the history's items among them, and where it is."""
    place = int(rng.integers(len(candidates)))
    own = history[int(rng.integers(len(history)))].item_id
    return (*candidates[:place], own, *candidates[place + 1 :]), (place,)


def _from_pool(rng: np.random.Generator, pool: Sequence[str], own: Collection[str], num_items: int) -> tuple[str, ...]:
    others = [item_id for item_id in pool if item_id not in own]
    if len(others) < num_items:
        raise ValueError(f"negative_pool={len(pool)} leaves {len(others)} of {num_items=}: enlarge it")
    return tuple(others[i] for i in rng.permutation(len(others))[:num_items])


def _known(events: tuple[Event, ...], items: Mapping[str, Item]) -> tuple[Event, ...]:
    """A user's events of items that there are, each item once, at its first event."""
    first = {event.item_id: event for event in reversed(events) if event.item_id in items}
    return tuple(event for event in events if first.get(event.item_id) is event)
