"""The loop in any order of requests, writes, cancellations, deadlines and failures: it never hangs, nothing leaks."""

import random

import numpy as np
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
from slice_kit import PROBING_ARM, Slice

from rcjax.engine import tasks
from rcjax.engine.state import Stage
from rcjax.errors import RcjaxError
from rcjax.prompt import Owner

NUM_PAGES = 30  # the null page, those of the instruction, and few enough for requests to wait for each other's
ARMS = ("parallel_anchor_blocks", "parallel_label_prefix", "sequential_label_none", PROBING_ARM)
numbers = st.integers(0, 6)
sometimes = st.one_of(st.none(), st.none(), st.floats(0, 6))


class LoopMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.slice = Slice(num_pages=NUM_PAGES)
        self.states, self.version = [], 0

    def deadline(self, after_s):
        return None if after_s is None else self.slice.clock() + after_s

    @rule(
        items=st.lists(numbers, min_size=1, max_size=4, unique=True),
        events=numbers,
        arm=st.sampled_from(ARMS),
        after_s=sometimes,
    )
    def request(self, items, events, arm, after_s):
        self.states.append(self.slice.request(items, events=[events], arm=arm, deadline_s=self.deadline(after_s)))

    @rule(items=st.lists(numbers, min_size=1, max_size=12, unique=True))
    def fill(self, items):
        self.version += 1
        self.slice.fill(items, self.version)

    @rule(number=numbers)
    def grow(self, number):
        self.version += 1
        former, longer = self.slice.planned(number), self.slice.planned(number, text="and more")
        self.slice.task(tasks.grow(self.slice.cache, former, longer, self.version))

    @rule(number=numbers)
    def drop(self, number):
        self.version += 1
        self.slice.directory.drop("item", Owner("", f"i{number}"), self.version)

    @rule(
        items=st.one_of(st.just("oak"), st.lists(numbers, min_size=1, max_size=3, unique=True)),
        num=st.integers(1, 4),
        after_s=sometimes,
    )
    def generate(self, items, num, after_s):
        self.slice.generate(items, num, deadline_s=self.deadline(after_s))

    @precondition(lambda self: self.slice.futures)
    @rule(data=st.data())
    def cancel(self, data):
        data.draw(st.sampled_from(self.slice.futures[-8:])).cancel()

    @rule(seconds=st.floats(0, 3))
    def wait(self, seconds):
        self.slice.clock.now_s += seconds

    @rule()
    def turn(self):
        self.slice.turn()

    @precondition(lambda self: self.slice.flights)
    @rule()
    def end_pass(self):
        self.slice.land()

    @precondition(lambda self: self.slice.flights)
    @rule()
    def fail_pass(self):
        self.slice.land(RuntimeError("out of memory"))

    @precondition(lambda self: self.slice.running[:1] == ["rank"])
    @rule()
    def rank_by_no_number(self):
        self.slice.land(np.full_like(self.slice.flights[0].pending.default, np.nan))

    @rule()
    def refuse_next_pass(self):
        self.slice.executor.refusing[:] = [RuntimeError("cannot start")]

    @rule(before=st.integers(0, 3))
    def forget_versions(self, before):
        self.slice.directory.forget_versions(min([self.version - before, *self.slice.loop.live_versions]))

    @invariant()
    def books_add_up(self):
        self.slice.directory.check_integrity()

    @invariant()
    def few_passes_at_a_time(self):
        assert len(self.slice.flights) <= 2, "one, or a ranking pass behind the next one's probe"

    @invariant()
    def whoever_is_done_holds_nothing(self):
        for state in self.states:
            if state.stage is Stage.DONE:
                assert not state.claim.pins
                assert state.claim.scratch is None

    def teardown(self):
        self.slice.executor.refusing.clear()
        self.slice.land_all()
        self.slice.assert_idle()
        for future in self.slice.futures:
            if not future.cancelled():
                assert future.exception() is None or isinstance(future.exception(), RcjaxError)
        for state in self.states:
            if not state.future.cancelled() and state.future.exception() is None:
                ranked = {one.item_id for one in state.future.result().ranking}
                assert ranked == set(state.plan.item_ids)


def test_any_order_of_events():
    run_state_machine_as_test(
        LoopMachine,
        settings=hypothesis_settings(
            max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_hundreds_of_cancellations_leak_nothing():
    slice_, rng = Slice(num_pages=NUM_PAGES), random.Random(0)
    for _ in range(110):
        states = [
            slice_.request(rng.sample(range(8), rng.randint(1, 3)), events=[rng.randrange(4)], arm=rng.choice(ARMS))
            for _ in range(5)
        ]
        futures = [state.future for state in states] + [slice_.fill(rng.sample(range(8), 2)), slice_.generate([1], 3)]
        slice_.turn()
        for future in futures:
            if slice_.flights and rng.random() < 0.5:
                slice_.land(RuntimeError("broken") if rng.random() < 0.1 else None)
            if rng.random() < 0.7:
                future.cancel()
    slice_.land_all()
    slice_.assert_idle()
    assert sum(future.cancelled() for future in slice_.futures) > 400
