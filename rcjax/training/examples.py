"""Examples: a history, the candidates that came after it, and the one that was chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from rcjax.catalog.embedded import EmbeddedWorld, Split
from rcjax.catalog.negatives import NegativeSampler
from rcjax.catalog.types import Catalogue, Event, Item, Request, User


@dataclass(frozen=True, slots=True)
class Example:
    """One request whose answer is known; `target` is an index into `candidates`."""

    history: tuple[Event, ...]
    candidates: tuple[Item, ...]
    target: int


@runtime_checkable
class ExampleSource(Protocol):
    """Draws examples; the same generator state gives the same examples."""

    def draw(self, rng: np.random.Generator, num_examples: int) -> list[Example]: ...


@dataclass(frozen=True, slots=True)
class EmbeddedExamples:
    """Requests of the embedded shop's endless users of one split, `requests_per_user` of each user drawn."""

    world: EmbeddedWorld
    split: Split
    num_candidates: int
    requests_per_user: int = 1
    num_users: int = 100_000

    def draw(self, rng: np.random.Generator, num_examples: int) -> list[Example]:
        examples: list[Example] = []
        while len(examples) < num_examples:
            index = int(rng.integers(self.num_users))
            for round_ in range(min(self.requests_per_user, num_examples - len(examples))):
                request = self.world.request(self.split, index, round_, self.num_candidates)
                history = examples[-1].history if round_ else self.world.user(request.user_id).events
                examples.append(example_of(request, history, self.world.items))
        return examples


class PairExamples:
    """A user's events up to a random point, and a random later item among negatives.

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
        pool: int | None = None,
    ):
        self._items = catalogue.items
        self._users = [user for user in users if len(_known(user.events, catalogue.items)) >= 2]
        if not self._users:
            raise ValueError(f"none of the {len(users)} users has two events of known items: no pairs to train on")
        self._sampler = sampler
        self._num_candidates = num_candidates
        self._max_events = max_events
        self._requests_per_user = requests_per_user
        self._pool = pool

    def draw(self, rng: np.random.Generator, num_examples: int) -> list[Example]:
        pool = self._sampler.draw(rng, self._pool, ()) if self._pool else None
        examples: list[Example] = []
        while len(examples) < num_examples:
            events = _known(self._users[int(rng.integers(len(self._users)))].events, self._items)
            cut = int(rng.integers(1, len(events)))
            later = rng.permutation(np.arange(cut, len(events)))[: self._requests_per_user]
            for at in later[: num_examples - len(examples)]:
                history = events[max(0, cut - self._max_events) : cut]
                examples.append(self._example(rng, history, events, events[at].item_id, pool))
        return examples

    def _example(
        self,
        rng: np.random.Generator,
        history: tuple[Event, ...],
        events: tuple[Event, ...],
        target: str,
        pool: Sequence[str] | None,
    ) -> Example:
        own = {event.item_id for event in events}
        num_negatives = self._num_candidates - 1
        if pool is None:
            negatives = self._sampler.draw(rng, num_negatives, own)
        else:
            others = [item_id for item_id in pool if item_id not in own]
            if len(others) < num_negatives:
                raise ValueError(f"negative_pool={len(pool)} leaves {len(others)} of {num_negatives=}: enlarge it")
            negatives = [others[i] for i in rng.permutation(len(others))[:num_negatives]]
        ids = [target, *negatives]
        order = rng.permutation(len(ids))
        return Example(history, tuple(self._items[ids[i]] for i in order), int(np.argmin(order)))


def example_of(request: Request, history: tuple[Event, ...], items: Mapping[str, Item]) -> Example:
    """The example that a request with a known target is."""
    if request.target is None:
        raise ValueError(f"the request of {request.user_id} has no target")
    candidates = tuple(items[item_id] for item_id in request.candidates)
    return Example(history, candidates, request.candidates.index(request.target))


def _known(events: tuple[Event, ...], items: Mapping[str, Item]) -> tuple[Event, ...]:
    """A user's events of items that there are, each item once, at its first event."""
    first = {event.item_id: event for event in reversed(events) if event.item_id in items}
    return tuple(event for event in events if first.get(event.item_id) is event)
