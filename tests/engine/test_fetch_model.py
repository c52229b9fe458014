"""Two slices that fetch from each other and from a tier, in any order of requests, writes, deletions, evictions, copies
that fail or come too late, and a slice that dies: nobody reads what another wrote, nothing hangs, nothing leaks, and
what was deleted is not found again.
"""

from exchange_kit import ConnectedSlice, OtherSlices
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rcjax.cache.tiers import KVTiers
from rcjax.engine.origin import Origin
from rcjax.engine.state import Stage
from rcjax.errors import RcjaxError
from rcjax.prompt import Owner
from rcjax.serving.residency import Residency

NUM_PAGES = 24  # the null page, those of the instruction, and few enough for blocks to be evicted
numbers = st.integers(0, 4)
slices = st.integers(0, 1)


def make_builds_dear(one):
    """So that whatever can be fetched is."""
    cost = one.executor.cost
    cost.build_s = cost.build_alone_s = lambda num_tokens: 1e6


class FetchMachine(RuleBasedStateMachine):
    @initialize(host_blocks=st.integers(0, 6), max_replica_pages=st.integers(0, 8))
    def start(self, host_blocks, max_replica_pages):
        self.residency = Residency(2)
        self.slices = [ConnectedSlice(index, NUM_PAGES, self.residency) for index in (0, 1)]
        self.tiers = KVTiers(200 * host_blocks) if host_blocks else None
        for index, one in enumerate(self.slices):
            make_builds_dear(one)
            one.connect(OtherSlices(index, self.slices, self.residency), self.tiers, max_replica_pages)
        self.states = []
        self.version = 0
        self.late = set()  # items of which residency may say too much
        self.filled, self.dropped = {}, {}  # the last version that wrote an item; that dropped it, by slice

    def pick(self, index):
        return self.slices[1 - index if self.slices[index].is_dead else index]

    @rule(index=slices, items=st.lists(numbers, min_size=1, max_size=3, unique=True), event=numbers)
    def request(self, index, items, event):
        one = self.pick(index)
        self.states.append((one, one.request(items, events=[event])))
        one.turn()

    @rule(index=slices, items=st.lists(numbers, min_size=1, max_size=5, unique=True))
    def fill(self, index, items):
        self.version += 1
        one = self.pick(index)
        one.fill(items, self.version)
        self.filled |= dict.fromkeys(items, self.version)
        one.turn()

    @rule(number=numbers)
    def drop(self, number):
        self.version += 1
        for one in self.slices:
            one.directory.drop("item", Owner("", f"i{number}"), self.version)
        if self.tiers is not None:
            self.tiers.drop([("item", Owner("", f"i{number}"))])
        self.dropped[number] = self.version

    @precondition(lambda self: any(state for _, state in self.states))
    @rule(data=st.data())
    def cancel(self, data):
        data.draw(st.sampled_from(self.states[-6:]))[1].future.cancel()

    @rule(
        index=slices, items=st.lists(numbers, min_size=1, max_size=3, unique=True), event=numbers, fills=st.booleans()
    )
    def usual_course(self, index, items, event, fills):
        """From a request or a write to its end, without which little would ever be there to be fetched."""
        if fills:
            self.fill(index, items)
        else:
            self.request(index, items, event)
        while any(one.settle() for one in self.slices):
            pass

    @rule(
        index=slices,
        items=st.lists(numbers, min_size=1, max_size=3, unique=True),
        event=numbers,
        fills=st.booleans(),
        steps=st.integers(0, 3),
        disturbances=st.lists(st.sampled_from(["drop", "evict", "cancel", "copy_fails", "wait", "refill"]), max_size=3),
    )
    def race(self, index, items, event, fills, steps, disturbances):
        """What one slice has just computed is fetched by the other, while other things happen."""
        self.usual_course(index, items, event, fills)
        self.evict(1 - index)
        if fills:
            self.fill(1 - index, items)
        else:
            self.request(1 - index, items, event)
        for disturbance in disturbances:
            self.settle_some(index, steps)
            self.settle_some(1 - index, steps)
            if disturbance == "drop":
                self.drop(items[0])
            elif disturbance == "evict":
                self.evict(index)
            elif disturbance == "cancel":
                self.slices[1 - index].futures[-1].cancel()
            elif disturbance == "copy_fails":
                self.copy_fails(1 - index)
            elif disturbance == "wait":
                self.wait(1 - index, 5.0)
            else:
                self.fill(1 - index, items)

    @rule(index=slices, number=numbers)
    def message_comes_late(self, index, number):
        """Residency says that a slice has what it has evicted."""
        self.residency.commit(index, self.slices[0].planned(number).key)
        self.late.add(number)

    @rule(index=slices, num=st.integers(1, 6))
    def settle_some(self, index, num):
        """Steps in the usual order."""
        for _ in range(num):
            self.slices[index].settle()

    @rule(index=slices)
    def answer(self, index):
        if self.slices[index].asked:
            self.slices[index].answer()

    @rule(index=slices, data=st.data())
    def copy(self, index, data):
        for jobs in (self.slices[index].inward, self.slices[index].outward):
            if jobs.waiting:
                jobs.waiting.pop(data.draw(st.integers(0, len(jobs.waiting) - 1)))()

    @rule(index=slices)
    def copy_fails(self, index):
        self.slices[index].executor.copies_fail = 1

    @rule(index=slices, data=st.data())
    def land_fetch(self, index, data):
        landed = self.slices[index].landed
        if landed:
            landed.insert(0, landed.pop(data.draw(st.integers(0, len(landed) - 1))))
            self.slices[index].land_fetch()

    @rule(index=slices)
    def end_pass(self, index):
        if self.slices[index].flights:
            self.slices[index].land()

    @rule(index=slices, seconds=st.sampled_from([0.5, 5.0]))
    def wait(self, index, seconds):
        self.slices[index].clock.now_s += seconds
        self.slices[index].cache.give_up_late_fetches()
        self.slices[index].turn()

    @rule(index=slices)
    def evict(self, index):
        """As much as nobody reads."""
        one = self.slices[index]
        if one.directory.num_available_pages:
            scratch = one.directory.reserve_scratch(one.directory.num_available_pages)
            if one.cache.spilling is not None:
                one.cache.spilling.flush()
            for page in scratch.pages:
                one.executor.memory[page] = -1
            one.directory.release(scratch)

    @precondition(lambda self: not any(one.is_dead for one in self.slices))
    @rule(index=slices, is_time=st.integers(0, 19))
    def die(self, index, is_time):
        if not is_time:
            self.slices[index].die()

    @invariant()
    def books_and_pages_agree(self):
        for one in self.slices:
            one.directory.check_integrity()
            one.check_memory()
        for one, state in self.states:
            if state.stage in (Stage.READY, Stage.RUNNING):
                for cached in state.claim.pins:
                    if cached.kind != "instruction":
                        one.check_pages(cached)
            if state.stage is Stage.DONE:
                assert not state.claim.pins

    @invariant()
    def what_is_deleted_is_not_found(self):
        for number, version in self.dropped.items():
            if self.filled.get(number, 0) < version:
                key = self.slices[0].planned(number).key
                assert all(one.directory.current("item", Owner("", f"i{number}")) is None for one in self.slices)
                assert self.tiers is None or self.tiers.find(key) is None
                assert number in self.late or not self.residency.holders([key]).any()

    @invariant()
    def idle_replicas_are_few(self):
        for one in self.slices:
            assert one.directory.replicas.num_idle_pages <= one.directory.replicas.max_pages

    def teardown(self):
        if not hasattr(self, "states"):
            return
        for one in self.slices:
            one.executor.copies_fail = 0
        while any(one.settle() for one in self.slices):
            self.books_and_pages_agree()
        for one in self.slices:
            one.assert_idle()
            for future in one.futures:
                assert future.cancelled() or future.exception() is None or isinstance(future.exception(), RcjaxError)
        for _, state in self.states:
            if not state.future.cancelled() and state.future.exception() is None:
                assert {ranked.item_id for ranked in state.future.result().ranking} == set(state.plan.item_ids)


def test_any_order_of_events():
    run_state_machine_as_test(
        FetchMachine,
        settings=hypothesis_settings(
            max_examples=50, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_a_fetch_that_is_given_up_in_part_writes_the_rest():
    """The pages of what nobody waits for any more are another block's by the time the copy comes."""
    residency = Residency(2)
    lender, borrower = two = [ConnectedSlice(index, 26, residency) for index in (0, 1)]
    for index, one in enumerate(two):
        make_builds_dear(one)
        one.connect(OtherSlices(index, two, residency), None, 8)
    lender.request([1, 2])
    while lender.settle():
        pass
    both, rest, _ = borrower.request([1, 2]), borrower.request([2]), borrower.request([5], events=[3])
    borrower.turn()
    both.future.cancel()
    borrower.land()  # the build of what the lender does not have; the first request is let go of now
    assert not both.claim.pins
    other = borrower.request([6], events=[4])
    borrower.turn()
    lender.answer()
    while borrower.settle():
        borrower.check_memory()
    assert [ranked.item_id for ranked in rest.future.result().ranking] == ["i2"]
    assert borrower.cache.fetches.num_blocks[Origin.SLICE] == 2, "the history and the item of the other request"
    assert other.future.result().tokens.built > 0
    assert borrower.directory.find(both.plan.wanted[-2].key, both.plan.wanted[-2].block.token_ids) is None
    borrower.assert_idle()
