"""Owners: which slices hold an item's block, so that writes build it there. No JAX."""

import threading
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from rcjax.cache.placement import Placement
from rcjax.cache.placement.hashing import hashed_slice

HASH_SEED = 0


@runtime_checkable
class OwnerRule(Protocol):
    """From an item's full id (`rcjax.prompt.Owner`) to its slices, ascending and at least one; nobody changes it."""

    @property
    def num_slices(self) -> int: ...

    def slices_of(self, item_id: str) -> tuple[int, ...]: ...


class Everywhere:
    """Every slice holds every item."""

    def __init__(self, num_slices: int):
        self.num_slices = num_slices
        self._all = tuple(range(num_slices))

    def slices_of(self, item_id: str) -> tuple[int, ...]:
        return self._all


class Hashed:
    """One slice holds an item, which follows from its id."""

    def __init__(self, num_slices: int):
        self.num_slices = num_slices

    def slices_of(self, item_id: str) -> tuple[int, ...]:
        return (hashed_slice(item_id, self.num_slices, HASH_SEED),)


class Placed:
    """As a placement says; an item that it lacks, a newcomer, is held where its id's hash says."""

    def __init__(self, placement: Placement):
        self.num_slices = placement.num_slices
        self.placement = placement
        self._newcomers = Hashed(placement.num_slices)

    def slices_of(self, item_id: str) -> tuple[int, ...]:
        if item_id not in self.placement.row_of:
            return self._newcomers.slices_of(item_id)
        return tuple(self.placement.slices_of(item_id).tolist())


class Both:
    """What either rule says: while one follows the other, so that what is put meanwhile is found by both."""

    def __init__(self, former: OwnerRule, following: OwnerRule):
        self.num_slices = former.num_slices
        self._rules = (former, following)

    def slices_of(self, item_id: str) -> tuple[int, ...]:
        return tuple(sorted({index for rule in self._rules for index in rule.slices_of(item_id)}))


class ItemOwners:
    """The owners of items: a rule that can be swapped while others read it. Any thread may call it.

    ValueError for a rule of another number of slices.
    """

    def __init__(self, rule: OwnerRule):
        self._rule = rule
        self._lock = threading.Lock()

    @property
    def rule(self) -> OwnerRule:
        return self._rule

    @property
    def num_slices(self) -> int:
        return self._rule.num_slices

    def slices_of(self, item_id: str) -> tuple[int, ...]:
        """The slices that hold the item, ascending."""
        return self._rule.slices_of(item_id)

    def adapted(self, rule: OwnerRule) -> OwnerRule:
        """The rule that follows from one that was asked for: here that one."""
        return rule

    def swap(self, rule: OwnerRule) -> OwnerRule:
        """Makes `rule` the one that holds; returns the former one."""
        if rule.num_slices != self.num_slices:
            raise ValueError(f"owners for {rule.num_slices} slices; the mesh has {self.num_slices}")
        with self._lock:
            former, self._rule = self._rule, rule
        return former


def placement_of(rule: OwnerRule, item_ids: Sequence[str]) -> Placement:
    """The placement of these items by a rule."""
    rows: list[int] = []
    slices: list[int] = []
    for row, item_id in enumerate(item_ids):
        owners = rule.slices_of(item_id)
        rows += [row] * len(owners)
        slices += owners
    return Placement.of_pairs(item_ids, np.array(rows, np.int64), np.array(slices, np.int64), rule.num_slices)
