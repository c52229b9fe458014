"""`hash`: the slice follows from the item's id alone."""

import hashlib
from dataclasses import dataclass, field

import numpy as np

from rcjax.cache.placement.hot_set import HotSet, with_hot_set
from rcjax.cache.placement.method import PlacementInput, ProgressSink
from rcjax.cache.placement.placement import Placement


@dataclass(frozen=True, slots=True)
class HashMethod:
    """SHA-256 of seed and id, modulo the number of slices: needs no requests, knows no similarity.

    It balances memory only as far as chance does.
    """

    hot: HotSet = field(default_factory=HotSet)
    name = "hash"

    def place(self, given: PlacementInput, progress: ProgressSink) -> Placement:
        progress("hashing", 0.0)
        part = np.array([hashed_slice(item_id, given.num_slices, given.seed) for item_id in given.item_ids], np.int64)
        return with_hot_set(given, part, self.hot.rows(given))


def hashed_slice(item_id: str, num_slices: int, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{item_id}".encode()).digest()[:8]) % num_slices
