"""The members of a cluster: its hosts, the places that their slices have, and who owns an item among them."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from rcjax.serving.owners import ItemOwners, OwnerRule


class MemberState(StrEnum):
    JOINING = "joining"  # is filled; takes writes, and no requests yet
    OPEN = "open"
    LEAVING = "leaving"  # finishes what it has, and lends what it holds


@dataclass(frozen=True, slots=True)
class Member:
    """A host in a cluster. `incarnation` tells it from one of the same name that was there before it.

    Its slices have the places from `first_place` on. It answers no plan of a version before `floor`: what was deleted
    before it came could be brought back by one.
    """

    name: str
    incarnation: str
    node: str  # the address that Ray knows its node by
    pid: int
    first_place: int
    num_slices: int
    state: MemberState
    floor: int = 0

    @property
    def places(self) -> range:
        return range(self.first_place, self.first_place + self.num_slices)


class Among:
    """A rule's slices as far as members have them; an item that is left without any goes to one of the members.

    Which one follows from the item's id and the members (rendezvous hashing), so that another member that comes or goes
    moves its own share only, and one that comes back has what it had.
    """

    def __init__(self, rule: OwnerRule, places: Collection[int]):
        self.num_slices = rule.num_slices
        self.rule = rule
        self.places = frozenset(places)

    def slices_of(self, item_id: str) -> tuple[int, ...]:
        owners = self.rule.slices_of(item_id)
        there = tuple(index for index in owners if index in self.places)
        if there or not self.places:
            return there or owners
        return (max(self.places, key=lambda place: _weight(item_id, place)),)


class MemberOwners(ItemOwners):
    """The owners of items among the places that members have."""

    def __init__(self, rule: OwnerRule):
        super().__init__(Among(rule, ()))
        self.places: frozenset[int] = frozenset()  # of the members by the last word, which the rule may not follow yet

    def adapted(self, rule: OwnerRule) -> OwnerRule:
        return Among(rule, self.places)

    def following(self) -> Among | None:
        """The rule for the places that members have now; None where it holds already."""
        rule = self.rule
        if not isinstance(rule, Among) or rule.places == self.places:
            return None
        return Among(rule.rule, self.places)


def _weight(item_id: str, place: int) -> bytes:
    return hashlib.sha256(f"{place}\0{item_id}".encode()).digest()
