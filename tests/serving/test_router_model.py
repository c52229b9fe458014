"""Any interleaving of writes, requests, evictions, drains, dying slices and rebalances, against a dict.

What a request may see of an item: what the last write says that was answered before it, or any later one. A user's
writes take effect in their order. Deleted content is on no slice once that was answered, whatever plans still run.
"""

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from manual_slice import ManualMesh, put, user

from rcjax.cache.placement import Placement
from rcjax.errors import NotFoundError, ResourceExhaustedError
from rcjax.prompt import BlockKind
from rcjax.request import AppendEvents, DeleteItems, DeleteUser, PutUser, RecommendResult, Write
from rcjax.serving.owners import Hashed, ItemOwners, placement_of

# By full id: the second tenant has an item and a user under ids that the default one has too.
ITEMS, USERS, NUM_SLICES = ("a", "b", "t\0a", "c"), ("u", "t\0u"), 3
item_ids, user_ids, indices = st.sampled_from(ITEMS), st.sampled_from(USERS), st.integers(0, NUM_SLICES - 1)


def tenant_of(full_id: str) -> str:
    return full_id.rpartition("\0")[0]


def own_id(full_id: str) -> str:
    return full_id.rpartition("\0")[2]


@dataclass(eq=False)
class Op:
    """A write of one name, and what it makes of it: None where it deletes it."""

    future: Future[Any]
    content: Any

    @property
    def is_answered(self) -> bool:
        return self.future.done() and self.future.exception() is None

    @property
    def has_failed(self) -> bool:
        return self.future.done() and self.future.exception() is not None


@dataclass(eq=False)
class Asked:
    future: Future[RecommendResult]
    user_contents: list[Any]  # what may be seen
    item_contents: dict[str, list[Any]]


class RouterMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.mesh = ManualMesh(NUM_SLICES, owners=ItemOwners(Hashed(NUM_SLICES)))
        answered: Future[Any] = Future()
        answered.set_result(None)
        self.ops = {name: [Op(answered, None)] for name in (*ITEMS, *USERS)}
        self.users: dict[str, tuple[int, ...] | None] = dict.fromkeys(USERS)  # after all writes so far
        self.asked: list[Asked] = []
        self.rebalances: list[Future[Any]] = []
        self.evicted: set[tuple[int, str]] = set()  # items that their owners need not hold until they are put again
        self.drained: set[int] = set()
        self.number = 0

    @initialize()
    def fill(self) -> None:
        for item_id in ITEMS:
            self.put_item(item_id)
        for user_id in USERS:
            self.put_user(user_id)
        self.mesh.run()

    # ---- writes

    def new(self) -> int:
        self.number += 1
        return self.number

    def write(self, name: str, write: Write, content: Any) -> None:
        self.ops[name].append(Op(self.mesh.write(write), content))

    @rule(item_id=item_ids)
    def put_item(self, item_id: str) -> None:
        number = self.new()
        self.evicted -= {(index, item_id) for index in range(NUM_SLICES)}
        self.write(item_id, put(own_id(item_id), number, tenant_of(item_id)), number)

    @rule(item_id=item_ids)
    def delete_item(self, item_id: str) -> None:
        self.write(item_id, DeleteItems((own_id(item_id),), tenant_of(item_id)), None)

    @rule(user_id=user_ids)
    def put_user(self, user_id: str) -> None:
        self.users[user_id] = (self.new(),)
        write = PutUser(user(own_id(user_id), *self.users[user_id]), tenant_of(user_id))
        self.write(user_id, write, self.users[user_id])

    @rule(user_id=user_ids)
    def append(self, user_id: str) -> None:
        number, former = self.new(), self.users[user_id]
        if former is not None:
            self.users[user_id] = (*former, number)
        write = AppendEvents(own_id(user_id), user("", number).events, tenant_of(user_id))
        self.write(user_id, write, self.users[user_id])

    @rule(user_id=user_ids)
    def delete_user(self, user_id: str) -> None:
        self.users[user_id] = None
        self.write(user_id, DeleteUser(own_id(user_id), tenant_of(user_id)), None)

    # ---- requests

    def visible(self, name: str) -> list[Any]:
        """From the last write on that is answered."""
        ops = self.ops[name]
        last = max(at for at, op in enumerate(ops) if op.is_answered)
        return [op.content for op in ops[last:] if not op.has_failed]

    @rule(user_id=user_ids, asked=st.lists(item_ids, min_size=1, max_size=3, unique=True))
    def ask(self, user_id: str, asked: list[str]) -> None:
        tenant = tenant_of(user_id)
        asked = [item_id for item_id in asked if tenant_of(item_id) == tenant]
        contents = {own_id(item_id): self.visible(item_id) for item_id in asked}
        user_contents = self.visible(user_id)
        future = self.mesh.ask(own_id(user_id), *map(own_id, asked), tenant=tenant)
        self.asked.append(Asked(future, user_contents, contents))

    @precondition(lambda self: self.asked)
    @rule()
    def give_up(self) -> None:
        self.asked.pop().future.cancel()

    # ---- slices

    @rule(index=indices, places=st.lists(st.integers(0, 9), min_size=1, max_size=4))
    def step(self, index: int, places: list[int]) -> None:
        for place in places:
            if work := self.mesh.slices[index].work:
                self.mesh.slices[index].step(place % len(work))
                self.mesh.settle()

    @rule(index=indices, at=st.integers(0, 9))
    def evict(self, index: int, at: int) -> None:
        one = self.mesh.slices[index]
        if one.held:
            name = list(one.held)[at % len(one.held)]
            one.evict(name)
            self.evicted.add((index, name[1]))

    @property
    def open(self) -> set[int]:
        return {one.index for one in self.mesh.living} - self.drained

    @rule(index=indices)
    def die(self, index: int) -> None:
        if not self.mesh.slices[index].is_dead and self.open - {index}:
            self.mesh.slices[index].die()
            self.mesh.settle()

    @rule(index=indices)
    def drain(self, index: int) -> None:
        if not self.mesh.slices[index].is_dead and self.open - {index}:
            self.mesh.router.drain(index)
            self.drained.add(index)

    @rule(index=indices)
    def undrain(self, index: int) -> None:
        if not self.mesh.slices[index].is_dead:
            self.mesh.router.undrain(index)
            self.drained.discard(index)

    @rule(
        part=st.lists(indices, min_size=3, max_size=3),
        before=st.lists(item_ids, max_size=2),
        after=st.lists(item_ids, max_size=2),
    )
    def rebalance(self, part: list[int], before: list[str], after: list[str]) -> None:
        """Places three of the items, the fourth is a newcomer; some are written just before, some just after."""
        for item_id in before:
            self.put_item(item_id)
        placement = Placement.of_part(ITEMS[:3], np.array(part), NUM_SLICES)
        self.rebalances.append(self.mesh.router.rebalance(placement))
        self.mesh.settle()
        for item_id in after:
            self.put_item(item_id)

    # ---- what has to hold

    @invariant()
    def every_answer_is_of_its_time(self) -> None:
        for one in [one for one in self.asked if one.future.done()]:
            self.asked.remove(one)
            if isinstance(one.future.exception(), NotFoundError):
                assert None in one.user_contents or any(None in seen for seen in one.item_contents.values())
                continue
            result = one.future.result()
            assert result.arm in [str(content) for content in one.user_contents]
            for ranked in result.ranking:
                assert ranked.score in one.item_contents[ranked.item_id], ranked

    @invariant()
    def deleted_content_is_nowhere(self) -> None:
        for name, ops in self.ops.items():
            if ops[-1].is_answered and ops[-1].content is None:
                kind = BlockKind.ITEM if name in ITEMS else BlockKind.HISTORY
                assert all((kind, name) not in one.held for one in self.mesh.living), name

    def teardown(self) -> None:
        self.mesh.run()
        assert all(op.future.done() for ops in self.ops.values() for op in ops)
        assert all(one.future.done() for one in self.asked)
        self.every_answer_is_of_its_time()
        self.deleted_content_is_nowhere()
        refusals = [error for one in self.rebalances if (error := one.exception(0)) is not None]
        assert all(isinstance(error, ResourceExhaustedError) for error in refusals), refusals
        assert len(refusals) < max(len(self.rebalances), 1)
        self.owners_hold_what_is_there()
        work = self.mesh.router._dispatcher.work()
        assert [(one.num_under_way, one.queue_s) for one in work] == [(0, 0.0)] * NUM_SLICES
        versions = self.mesh.library.versions
        assert (versions._reads, versions._writes) == ({}, {})
        self.mesh.router.stop(0.0)

    def owners_hold_what_is_there(self) -> None:
        """Save for what was evicted: of items the owners, of histories every slice."""
        held = {name: self.ops[name][-1].content for name in ITEMS}
        owners = placement_of(self.mesh.router.owners.rule, ITEMS)
        for one in self.mesh.living:
            for item_id, content in held.items():
                if content is not None and one.index in owners.slices_of(item_id):
                    assert one.holds(BlockKind.ITEM, item_id, content) or (one.index, item_id) in self.evicted
            for user_id in USERS:
                numbers = self.users[user_id]
                if numbers is not None:
                    assert one.holds(BlockKind.HISTORY, user_id, *numbers) or (one.index, user_id) in self.evicted


TestRouter = RouterMachine.TestCase
TestRouter.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
