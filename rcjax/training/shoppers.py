"""Made-up shoppers: examples from a catalogue alone, to learn what goes with what before any user is seen."""

from dataclasses import dataclass

import numpy as np

from rcjax.catalog.negatives import NegativeSampler
from rcjax.catalog.related import RelatedItems
from rcjax.catalog.types import Event, Item
from rcjax.training.examples import Example

_MAX_INTERESTS, _MAX_EVENTS = 3, 6
_RATING = 5.0


@dataclass(frozen=True, slots=True)
class ShopperExamples:
    """Shoppers who bought some popular items and some related to them, and then `choices_per_request` more such.

    The other candidates are popular items, of `pool` that are drawn at once for all examples of a draw.
    """

    items: dict[str, Item]
    related: RelatedItems
    sampler: NegativeSampler
    num_candidates: int
    choices_per_request: int
    pool: int

    def draw(self, rng: np.random.Generator, num_examples: int) -> list[Example]:
        pool = self.sampler.draw(rng, self.pool, ())
        return [self._example(rng, pool) for _ in range(num_examples)]

    def _example(self, rng: np.random.Generator, pool: list[str]) -> Example:
        bought = self.sampler.draw(rng, int(rng.integers(1, _MAX_INTERESTS + 1)), ())
        bought = self._more(rng, bought, int(rng.integers(len(bought), _MAX_EVENTS + 1)))
        own = self._more(rng, bought, len(bought) + self.choices_per_request)
        chosen = own[len(bought) :]
        others = [item_id for item_id in pool if item_id not in own]
        negatives = [others[i] for i in rng.permutation(len(others))[: self.num_candidates - len(chosen)]]
        candidates = [*chosen, *negatives]
        order = rng.permutation(len(candidates))
        places = np.argsort(order)
        history = tuple(
            Event(item_id, self.items[item_id].title, rating=_RATING) for item_id in rng.permutation(bought)
        )
        items = tuple(self.items[candidates[i]] for i in order)
        return Example(history, items, tuple(int(places[i]) for i in range(len(chosen))))

    def _more(self, rng: np.random.Generator, item_ids: list[str], num_items: int) -> list[str]:
        """The items and others, each related to one of them, `num_items` in all."""
        found = list(item_ids)
        while len(found) < num_items:
            item_id = self.related.draw(rng, item_ids[int(rng.integers(len(item_ids)))])
            if item_id is None or item_id in found:
                # a lone item, or one whose few neighbours are all there: any other will do
                item_id = self.sampler.draw(rng, 1, found)[0]
            found.append(item_id)
        return found
