"""Residency in any order of messages, against a dict of sets."""

import sys
import threading
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rcjax.serving.residency import Residency

# Enough of them for the table to grow; the first one's is what a free place has.
KEYS = [bytes(32), *(sha256(bytes([number])).digest() for number in range(59))]
slices = st.integers(0, 19)


class ResidencyMachine(RuleBasedStateMachine):
    @initialize(num_slices=st.sampled_from([1, 7, 8, 9, 16, 20]))
    def start(self, num_slices):
        self.num_slices = num_slices
        self.residency = Residency(num_slices)
        self.holders = {key: set() for key in KEYS}

    @rule(index=slices, key=st.sampled_from(KEYS))
    def commit(self, index, key):
        self.residency.commit(index % self.num_slices, key)
        self.holders[key].add(index % self.num_slices)

    @rule(index=slices, key=st.sampled_from(KEYS))
    def evict(self, index, key):
        self.residency.evict(index % self.num_slices, key)
        self.holders[key].discard(index % self.num_slices)

    @rule(index=slices, keys=st.sets(st.sampled_from(KEYS), max_size=50))
    def commit_many(self, index, keys):
        for key in keys:
            self.commit(index, key)

    @rule(key=st.sampled_from(KEYS))
    def commit_everywhere(self, key):
        for index in range(self.num_slices):
            self.commit(index, key)

    @rule(index=slices)
    def lose(self, index):
        self.residency.forget(index % self.num_slices)
        for holders in self.holders.values():
            holders.discard(index % self.num_slices)

    @rule(asked=st.lists(st.sampled_from(KEYS)))
    def ask_for_some(self, asked):
        self.ask(asked)

    def ask(self, asked):
        held = self.residency.holders(asked)
        assert held.shape == (len(asked), self.num_slices)
        assert [set(np.flatnonzero(row)) for row in held] == [self.holders[key] for key in asked]

    @rule()
    def ask_for_all(self):
        self.ask(KEYS)

    @invariant()
    def counts_the_keys_that_are_held(self):
        assert len(self.residency) == sum(bool(holders) for holders in self.holders.values())


TestResidency = ResidencyMachine.TestCase
TestResidency.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_workers_that_report_at_once_lose_no_message() -> None:
    residency = Residency(4)
    keys = [sha256(number.to_bytes(2, "little")).digest() for number in range(2000)]
    go = threading.Barrier(4)

    def report(index: int) -> None:
        go.wait()
        for key in keys:
            residency.commit(index, key)

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=report, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval_s)
    assert residency.holders(keys).all()


def test_a_table_that_grows_keeps_what_it_has() -> None:
    residency = Residency(12)
    keys = [sha256(number.to_bytes(2, "little")).digest() for number in range(5000)]
    for number, key in enumerate(keys):
        residency.commit(number % 12, key)
    assert np.array_equal(residency.holders(keys), np.eye(12)[np.arange(5000) % 12])
    for number, key in enumerate(keys[:4000]):
        residency.evict(number % 12, key)
    assert len(residency) == 1000
    assert np.array_equal(residency.holders(keys[4000:]), np.eye(12)[np.arange(4000, 5000) % 12])
    assert not residency.holders(keys[:4000]).any()


def test_a_key_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot reshape"):
        Residency(3).holders([bytes(16)])


@pytest.mark.parametrize("index", [-1, 3])
@pytest.mark.parametrize("call", ["commit", "evict", "forget"])
def test_a_slice_that_there_is_not_is_refused(call: str, index: int) -> None:
    arguments = (index,) if call == "forget" else (index, KEYS[0])
    with pytest.raises(ValueError, match=f"slice {index} of a mesh of 3"):
        getattr(Residency(3), call)(*arguments)


def test_a_mesh_has_slices() -> None:
    with pytest.raises(ValueError, match="num_slices=0"):
        Residency(0)
