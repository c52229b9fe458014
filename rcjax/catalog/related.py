"""Which items go together, by what the catalogue alone says of them."""

import re
from collections import Counter, defaultdict

import numpy as np

from rcjax.catalog.negatives import NegativeSampler
from rcjax.catalog.types import Item

_WORD = re.compile(r"\w+")
# Words of more titles than this (of, oz, cream) say little, and a word of one title leads nowhere.
_MAX_TITLES_OF_A_WORD = 200


class RelatedItems:
    """Draws items that share a brand, the last category or a title's word with an item, popular ones more often."""

    def __init__(self, items: dict[str, Item], sampler: NegativeSampler):
        num_titles = Counter(word for item in items.values() for word in _words(item))
        groups: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._keys: dict[str, list[tuple[str, str]]] = {}
        for item in items.values():
            words = [("word", w) for w in sorted(_words(item)) if 1 < num_titles[w] <= _MAX_TITLES_OF_A_WORD]
            shared = [("brand", item.brand)] if item.brand else []
            shared += [("category", item.categories[-1])] if item.categories else []
            self._keys[item.item_id] = shared + words
            for key in self._keys[item.item_id]:
                groups[key].append(item.item_id)
        self._groups = {key: (ids, sampler.weights(ids)) for key, ids in groups.items() if len(ids) > 1}
        for item_id, keys in self._keys.items():
            self._keys[item_id] = [key for key in keys if key in self._groups]

    def draw(self, rng: np.random.Generator, item_id: str) -> str | None:
        """An item related to this one; None if the catalogue has none.

        First what they share is drawn (brand, category and words a third each, all words alike), then the item, in
        proportion to its popularity.
        """
        keys = self._keys[item_id]
        if not keys:
            return None
        kinds = Counter(kind for kind, _ in keys)
        shares = np.array([1 / kinds[kind] for kind, _ in keys])
        ids, weights = self._groups[keys[rng.choice(len(keys), p=shares / shares.sum())]]
        others = np.where([other == item_id for other in ids], 0.0, weights)
        return ids[rng.choice(len(ids), p=others / others.sum())]


def _words(item: Item) -> frozenset[str]:
    return frozenset(_WORD.findall(item.title.lower()))
