"""The dispatcher: its books against plain lists of what each slice has, and what becomes of a dead one's requests."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcjax.errors import UnavailableError
from rcjax.serving.dispatch import MAX_RETRIES, Dispatch, Dispatcher
from rcjax.serving.residency import Residency
from rcjax.serving.scheduler import LeastLoaded, RoundRobin, Time, Wants

NOTHING = Wants((), np.zeros(0, bool), np.zeros(0))
KEY = b"k" * 32
WANTS_KEY = Wants((KEY,), np.ones(1, bool), np.array([4.0]))


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def new(num_slices: int, policy: object = None) -> tuple[Dispatcher, Clock, Residency]:
    clock, residency = Clock(), Residency(num_slices)
    return Dispatcher(residency, policy or LeastLoaded(), clock), clock, residency


def queues(dispatcher: Dispatcher) -> list[float]:
    return [one.queue_s for one in dispatcher.work()]


steps = st.lists(
    st.tuples(st.sampled_from(["dispatch", "dispatch", "end", "wait"]), st.integers(0, 99), st.integers(1, 32)),
    max_size=60,
)


@settings(max_examples=60)
@given(num_slices=st.integers(1, 4), steps=steps)
def test_a_queue_is_what_waits_and_what_is_left_of_what_came_first(
    num_slices: int, steps: list[tuple[str, int, int]]
) -> None:
    dispatcher, clock, _ = new(num_slices)
    have: list[list[Dispatch]] = [[] for _ in range(num_slices)]
    began_s = [0.0] * num_slices  # when the first of each slice became the first
    for step, at, eighths in steps:
        if step == "wait":
            clock.now_s += eighths / 8
        elif step == "dispatch":
            expected = queues(dispatcher)
            dispatch = dispatcher.dispatch(NOTHING, eighths / 8)
            assert expected[dispatch.index] == min(expected)
            if not have[dispatch.index]:
                began_s[dispatch.index] = clock.now_s
            have[dispatch.index].append(dispatch)
        elif busy := [index for index in range(num_slices) if have[index]]:
            index = busy[at % len(busy)]
            place = at % len(have[index])
            dispatch = have[index].pop(place)
            if place == 0:
                began_s[index] = clock.now_s
            assert dispatcher.end(dispatch, index)
            assert not dispatcher.end(dispatch, index)
        for index, of_slice in enumerate(have):
            first, rest = of_slice[:1], of_slice[1:]
            left_s = max(0.0, began_s[index] + first[0].pass_s - clock.now_s) if first else 0.0
            assert queues(dispatcher)[index] == left_s + sum(one.pass_s for one in rest)
            assert dispatcher.work()[index].num_under_way == len(of_slice)


def test_a_slice_s_load_counts_what_it_has_to_build() -> None:
    dispatcher, _, residency = new(2, Time())
    residency.commit(1, KEY)
    assert dispatcher.dispatch(WANTS_KEY, 1.0).index == 1  # which has it: 1 s there, 5 s elsewhere
    assert queues(dispatcher) == [0.0, 1.0]
    assert [dispatcher.dispatch(WANTS_KEY, 1.0).index for _ in range(5)] == [1, 1, 1, 0, 1]  # once 4 s wait, as good
    assert queues(dispatcher) == [5.0, 5.0]


def test_a_dead_slice_s_requests_go_to_others_and_its_late_answers_count_for_nothing() -> None:
    dispatcher, _, residency = new(3, RoundRobin())
    residency.commit(1, KEY)
    here, there = dispatcher.dispatch(NOTHING, 1.0, "here"), dispatcher.dispatch(NOTHING, 1.0, "there")
    assert (here.index, there.index) == (0, 1)
    assert dispatcher.lose(1) == (there,)
    assert dispatcher.lose(1) == ()
    assert dispatcher.alive() == (0, 2)
    assert len(residency) == 0
    assert queues(dispatcher) == [1.0, 0.0, 0.0]
    dispatcher.retry(there)
    assert (there.index, there.body) == (2, "there")
    assert not dispatcher.end(there, 1)
    assert dispatcher.end(there, 2)
    assert (dispatcher.num_decisions, dispatcher.num_retries) == (3, 1)
    assert {dispatcher.dispatch(NOTHING, 1.0).index for _ in range(9)} == {0, 2}


def test_a_request_is_retried_so_many_times() -> None:
    dispatcher, _, _ = new(MAX_RETRIES + 2)
    dispatch = dispatcher.dispatch(NOTHING, 1.0)
    for _ in range(MAX_RETRIES):
        assert dispatcher.lose(dispatch.index) == (dispatch,)
        dispatcher.retry(dispatch)
    assert dispatcher.lose(dispatch.index) == (dispatch,)
    with pytest.raises(UnavailableError, match="3 slices died or stalled"):
        dispatcher.retry(dispatch)


def test_a_draining_slice_keeps_what_it_has_and_gets_no_more() -> None:
    dispatcher, _, _ = new(2)
    first = dispatcher.dispatch(NOTHING, 1.0)
    dispatcher.drain(0)
    assert [dispatcher.dispatch(NOTHING, 1.0).index for _ in range(3)] == [1, 1, 1]
    assert [(str(one.state), one.num_under_way) for one in dispatcher.work()] == [("draining", 1), ("open", 3)]
    assert dispatcher.alive() == (0, 1)
    assert dispatcher.end(first, 0)
    dispatcher.undrain(0)
    assert dispatcher.dispatch(NOTHING, 1.0).index == 0
    dispatcher.drain(0)
    dispatcher.lose(1)
    with pytest.raises(UnavailableError, match="draining: 0; dead: 1"):
        dispatcher.dispatch(NOTHING, 1.0)


@pytest.mark.parametrize("change", [Dispatcher.drain, Dispatcher.undrain])
def test_a_dead_slice_neither_drains_nor_comes_back(change) -> None:
    dispatcher, _, _ = new(2)
    dispatcher.lose(1)
    with pytest.raises(ValueError, match="slice 1 is dead"):
        change(dispatcher, 1)
    with pytest.raises(ValueError, match="slice 2 of a mesh of 2"):
        change(dispatcher, 2)
