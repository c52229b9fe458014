"""What every placement method takes and gives."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float32, Float64

from rcjax.cache.placement.placement import Placement

# Takes what is being done and the share of the whole that is done, from 0 to 1.
ProgressSink = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class PlacementInput:
    """Items and the requests that asked for them.

    `item_bytes` are what a block of each item takes, in any unit; `requests` is the matrix of `request_matrix`;
    `similarity`, where given, is that of `similar_items`: row n has the items whose text is most like item n's.
    The same input, seed included, gives the same placement.
    """

    item_ids: tuple[str, ...]
    item_bytes: Float64[np.ndarray, "N"]
    requests: sp.csr_array  # [R, N] float32
    num_slices: int
    similarity: sp.csr_array | None = None  # [N, N] float32
    seed: int = 0

    def __post_init__(self) -> None:
        num_items = len(self.item_ids)
        if not 1 <= self.num_slices <= num_items:
            raise ValueError(f"{self.num_slices=} must be from 1 to the number of items, {num_items}")
        if self.item_bytes.shape != (num_items,) or not (self.item_bytes > 0).all():
            raise ValueError(f"item_bytes must be {num_items} numbers above 0, one an item")
        if self.requests.shape[1] != num_items:
            raise ValueError(f"requests name {self.requests.shape[1]} items, the catalogue has {num_items}")

    @property
    def total_bytes(self) -> float:
        return float(self.item_bytes.sum())

    @cached_property
    def popularity(self) -> Float64[np.ndarray, "N"]:
        """How many requests name each item."""
        return np.bincount(self.requests.indices, minlength=len(self.item_ids)).astype(np.float64)

    @cached_property
    def shares(self) -> sp.csr_array:
        """The requests with 1 / (its number of items) for each item, so that every request weighs the same."""
        lens = np.diff(self.requests.indptr)
        data = np.repeat(1.0 / np.maximum(lens, 1), lens).astype(np.float32)
        return sp.csr_array((data, self.requests.indices, self.requests.indptr), self.requests.shape)

    def with_requests(self, requests: sp.csr_array) -> "PlacementInput":
        return replace(self, requests=requests)


class PlacementMethod(Protocol):
    """Computes a placement; `name` is what a user calls it by."""

    @property
    def name(self) -> str: ...

    def place(self, given: PlacementInput, progress: ProgressSink) -> Placement: ...


def silent(step: str, share: float) -> None:
    """A `ProgressSink` that tells nobody."""


def best_shares(requests: sp.csr_array, placement: Placement) -> Float32[np.ndarray, "R"]:
    """Of each request the share of its items that its best slice has."""
    hits = np.asarray((requests @ placement.matrix).max(axis=1).toarray()).reshape(-1)
    return (hits / np.diff(requests.indptr)).astype(np.float32)
