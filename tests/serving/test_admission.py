"""Admission by hand and against a model: what is let in, in which order it runs, and that nothing of it is left."""

from types import SimpleNamespace
from typing import Any

import pytest
from fake_slice import Clock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rcjax.errors import DeadlineExceededError, PermissionDeniedError, ResourceExhaustedError
from rcjax.serving.admission import PASSES_AHEAD, Admission, Ticket, Work
from rcjax.serving.admission_limits import AdmissionLimits, CallerLimits
from rcjax.serving.calls import Call
from rcjax.serving.drain_rate import DrainRate


class Desk:
    """An admission whose planner and slices a test plays; a plan's seconds are what its body says."""

    def __init__(self, limits: AdmissionLimits, num_open: int = 1):
        self.clock = Clock()
        self.num_open = num_open
        self.left: list[Ticket] = []
        self.admission = Admission(
            limits, self.clock, num_open=lambda: self.num_open, num_planners=1, left=self.left.append
        )

    def ask(self, caller: str, seconds: float, *, arm: str = "arm", deadline_s: float | None = None) -> Call[Any]:
        self.admission.check(caller, arm, deadline_s)
        call: Call[Any] = Call(seconds, self.clock(), deadline_s)
        self.admission.enter(call, caller, arm)
        return call

    def plan(self) -> Call[Any] | None:
        call = self.admission.next_to_plan()
        if call is not None:
            plan = SimpleNamespace(cost_s=call.body)
            self.admission.planned(call, plan, "arm", Work(call.body, call.body), 0.0)
        return call

    def run(self) -> Call[Any] | None:
        ticket = self.admission.next_to_run()
        return None if ticket is None else ticket.call

    def ask_planned(self, caller: str, seconds: float) -> Call[Any]:
        call = self.ask(caller, seconds)
        assert self.plan() is call
        return call


def test_slices_are_given_two_passes_ahead_and_the_rest_waits() -> None:
    desk = Desk(AdmissionLimits(max_queue_s=100.0), num_open=2)
    calls = [desk.ask_planned("a", 1.0) for _ in range(6)]
    assert [desk.run() for _ in range(5)] == [*calls[:4], None]
    calls[1].future.set_result(None)
    assert [desk.run(), desk.run()] == [calls[4], None]
    assert (len(desk.admission), desk.admission.num_waiting) == (5, 1)


def test_a_request_larger_than_all_there_may_wait_is_let_in_where_nothing_is_before_it() -> None:
    desk = Desk(AdmissionLimits(max_queue_s=1.0))
    large = desk.ask_planned("a", 50.0)
    assert desk.run() is large
    with pytest.raises(ResourceExhaustedError, match="takes 50 s, over the limit of 1 s") as caught:
        desk.ask("b", 0.1)
    assert caught.value.retry_after_s == 49.5
    large.future.set_result(None)
    desk.ask("b", 50.0)


def test_who_floods_is_refused_and_delayed_alone() -> None:
    desk = Desk(AdmissionLimits(max_queue_s=10.0))
    refused = 0
    for _ in range(100):
        try:
            desk.ask_planned("flood", 1.0)
        except ResourceExhaustedError:
            refused += 1
        desk.run()
    assert refused == 89  # eleven seconds are there: the last one found ten before it
    assert desk.admission.wait_s("flood") == 11.0
    assert desk.admission.wait_s("shop") == 2.0  # what slices have ahead
    call = desk.ask_planned("shop", 1.0)
    assert desk.run() is None
    first, second = list(desk.admission._tickets)[:2]
    first.set_result(None)
    assert desk.run() is not call  # one of the flood's: both began at the same tag
    second.set_result(None)
    assert desk.run() is call


def test_a_deadline_that_the_queue_does_not_leave_time_for_is_refused_at_once() -> None:
    desk = Desk(AdmissionLimits(max_queue_s=100.0))
    desk.ask("a", 4.0, deadline_s=desk.clock() + 1.0)  # nothing is before it: let it be tried
    desk.plan()
    desk.run()
    with pytest.raises(ResourceExhaustedError, match="deadline is in 5 s") as caught:
        desk.ask("b", 4.0, deadline_s=desk.clock() + 5.0)  # by what requests of its arm take
    assert caught.value.retry_after_s == pytest.approx(3.0)
    dear = desk.ask("b", 9.0, deadline_s=desk.clock() + 10.0)
    assert desk.admission.next_to_plan() is dear
    with pytest.raises(ResourceExhaustedError, match="request 9 s"):  # by what this one takes
        desk.admission.planned(dear, SimpleNamespace(cost_s=9.0), "arm", Work(9.0, 9.0), 0.0)
    with pytest.raises(DeadlineExceededError):
        desk.ask("b", 1.0, deadline_s=desk.clock())
    assert +desk.admission.rejected == {"deadline": 3}


def test_callers_have_the_arms_and_the_rates_that_they_are_given() -> None:
    ours = {"shop": CallerLimits(arms=("fast",)), "batch": CallerLimits(requests_per_s=2.0, burst=1)}
    desk = Desk(AdmissionLimits(default_caller=CallerLimits(arms=()), callers=ours))
    desk.ask("shop", 1.0, arm="fast")
    with pytest.raises(PermissionDeniedError, match="'shop' may not use arm 'full'; it may use: fast") as caught:
        desk.ask("shop", 1.0, arm="full")
    assert caught.value.field == "arm"
    with pytest.raises(PermissionDeniedError, match="it may use: none"):
        desk.ask("stranger", 1.0, arm="fast")
    desk.ask("batch", 1.0, arm="full")
    with pytest.raises(ResourceExhaustedError, match="2 requests a second, and 1 at once"):
        desk.ask("batch", 1.0)
    desk.clock.now_s += 0.5
    desk.ask("batch", 1.0)
    assert +desk.admission.rejected == {"arm": 2, "rate": 1}


def test_estimates_that_are_wrong_are_put_right_by_what_is_measured() -> None:
    desk = Desk(AdmissionLimits(max_queue_s=1000.0))
    running: list[Call[Any]] = []
    for _ in range(100):  # each takes a quarter of what it is estimated at
        desk.ask_planned("a", 1.0)
    for _ in range(80):
        while (call := desk.run()) is not None:
            running.append(call)
        desk.clock.now_s += 0.25
        running.pop(0).future.set_result(None)
    left_s = len(desk.admission) * 1.0
    assert desk.admission.wait_s("a") == pytest.approx(left_s / 4, rel=0.25)
    desk.clock.now_s += 1000.0
    assert desk.admission.wait_s("a") == pytest.approx(left_s)


def test_a_drain_rate_nobody_measured_is_one() -> None:
    rate = DrainRate()
    assert rate.value(5.0) == 1.0
    for second in range(100):
        rate.note(float(second), 3.0, was_busy=False)
    assert rate.value(100.0) == 1.0


class AdmissionMachine(RuleBasedStateMachine):
    """Calls come, are planned, run, end and are given up in any order; the model keeps them in plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(AdmissionLimits(max_queue_s=12.0), num_open=2)
        self.unplanned: list[tuple[str, Call[Any]]] = []
        self.planned: list[tuple[str, Call[Any]]] = []
        self.running: list[Call[Any]] = []

    @property
    def rate(self) -> float:
        """How fast the slices are taken to be; its own tests hold it against what was done."""
        return self.desk.admission._rate.value(self.desk.clock())

    @rule(caller=st.sampled_from("abc"), seconds=st.integers(1, 6))
    def ask(self, caller: str, seconds: int) -> None:
        wait_s = self.desk.admission.wait_s(caller)
        own_s = sum(call.body for name, call in self.planned if name == caller)
        running_s = sum(call.body for call in self.running)
        total_s = running_s + sum(call.body for _, call in self.planned) + 12 * len(self.unplanned)
        assert (own_s + running_s) / 2 - 1e-9 <= wait_s * self.rate <= total_s / 2 + 1e-9
        if wait_s > 12.0:
            with pytest.raises(ResourceExhaustedError) as caught:
                self.desk.ask(caller, float(seconds))
            assert caught.value.retry_after_s == wait_s - 6.0
        else:
            self.unplanned.append((caller, self.desk.ask(caller, float(seconds))))

    @rule()
    def plan(self) -> None:
        call = self.desk.plan()
        assert (call is None) == (not self.unplanned)
        if call is not None:
            (entry,) = [entry for entry in self.unplanned if entry[1] is call]
            assert entry == next(other for other in self.unplanned if other[0] == entry[0])  # a caller's in their order
            self.unplanned.remove(entry)
            self.planned.append(entry)

    @rule()
    def run(self) -> None:
        call = self.desk.run()
        running_s = sum(one.body for one in self.running)
        if call is None:
            # Whoever's turn it is, its caller's oldest would not fit.
            oldest = [next(c for name, c in self.planned if name == caller) for caller, _ in self.planned]
            assert not oldest or len(self.running) >= 2
            assert not oldest or any(running_s >= PASSES_AHEAD * one.body * 2 for one in oldest)
            return
        (entry,) = [entry for entry in self.planned if entry[1] is call]
        assert entry == next(other for other in self.planned if other[0] == entry[0])
        assert len(self.running) < 2 or running_s < PASSES_AHEAD * call.body * 2
        self.planned.remove(entry)
        self.running.append(call)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), is_good=st.booleans())
    def end(self, data: st.DataObject, is_good: bool) -> None:
        call = data.draw(st.sampled_from(self.running))
        self.running.remove(call)
        self.desk.clock.now_s += call.body / 2
        if is_good:
            call.future.set_result(None)
        else:
            call.future.set_exception(RuntimeError())

    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        calls = [call for _, call in (*self.unplanned, *self.planned)] + self.running
        if not calls:
            return
        call = data.draw(st.sampled_from(calls))
        assert call.future.cancel()
        self.unplanned = [entry for entry in self.unplanned if entry[1] is not call]
        self.planned = [entry for entry in self.planned if entry[1] is not call]
        self.running = [other for other in self.running if other is not call]

    @invariant()
    def counts_what_is_there(self) -> None:
        waiting = len(self.unplanned) + len(self.planned)
        assert self.desk.admission.num_waiting == waiting
        assert len(self.desk.admission) == waiting + len(self.running)
        if not waiting and not self.running:
            assert self.desk.admission.wait_s("a") == 0.0


TestAdmissionMachine = AdmissionMachine.TestCase
TestAdmissionMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
