"""What leaves the loop early: callers that give up and passes that fail; and that they let go of what they held."""

import numpy as np
import pytest
from slice_kit import PROBING_ARM, Slice, warm

from rcjax.cache import IntegrityError
from rcjax.engine.executor import ExecutorLostError
from rcjax.engine.state import Stage
from rcjax.errors import DeadlineExceededError, InvalidRequestError, RcjaxError


@pytest.fixture
def slice_():
    return Slice()


def reach(slice_, stage):
    """A request at a stage; the pass that runs then is another's, unless it builds or ranks it."""
    if stage is Stage.PLANNED:
        free = slice_.directory.reserve_scratch(slice_.directory.num_available_pages - 3)
        slice_.request([9], events=[])
        holder = slice_.generate("x", 1)  # keeps a claim, so that others wait for pages rather than give up
        slice_.turn()
        state = slice_.request([1, 2, 3])
        slice_.turn()
        slice_.directory.release(free)
        assert holder is not None
    elif stage is Stage.BUILDING:
        state = slice_.request([1, 2, 3])
        slice_.turn()
    elif stage is Stage.READY:
        warm(slice_, 1)
        slice_.request([1])
        slice_.turn()
        state = slice_.request([1])
        slice_.turn()
    else:
        warm(slice_, 1)
        state = slice_.request([1])
        slice_.turn()
    assert state.stage is stage
    return state


STAGES = [Stage.PLANNED, Stage.BUILDING, Stage.READY, Stage.RUNNING]


class TestGivingUp:
    @pytest.mark.parametrize("stage", STAGES)
    def test_a_cancelled_request_lets_go_of_everything(self, slice_, stage):
        state = reach(slice_, stage)
        assert state.future.cancel()
        slice_.land()
        assert state.stage is (Stage.DONE if stage is not Stage.PLANNED else state.stage)
        assert not state.claim.pins
        num_ranked = [one.program.purpose for one in slice_.executor.started].count("rank")
        slice_.land_all()
        if stage in (Stage.BUILDING, Stage.READY):
            assert num_ranked == [one.program.purpose for one in slice_.executor.started].count("rank")
        slice_.assert_idle()

    @pytest.mark.parametrize("stage", STAGES[:-1])
    def test_one_whose_deadline_passed_is_told_so(self, slice_, stage):
        state = reach(slice_, stage)
        state.deadline_s = slice_.clock() + 0.5
        slice_.land()
        assert isinstance(state.future.exception(), DeadlineExceededError)
        assert not state.claim.pins
        slice_.land_all()
        slice_.assert_idle()

    def test_a_deadline_that_passes_while_it_is_ranked_does_no_harm(self, slice_):
        warm(slice_, 1)
        state = slice_.request([1], deadline_s=slice_.clock() + 0.5)
        slice_.land_all()
        assert state.future.result().ranking
        slice_.assert_idle()

    def test_a_dead_request_is_not_even_granted(self, slice_):
        state = slice_.request([1])
        state.future.cancel()
        assert slice_.land_all() == []
        assert slice_.cache.num_misses == 0
        slice_.assert_idle()

    def test_what_a_cancelled_request_alone_waited_for_is_not_built(self, slice_):
        slice_.request([9])
        slice_.turn()
        slice_.land()
        kept, given_up = slice_.request([1], events=[1]), slice_.request([2], events=[1])
        slice_.turn()
        given_up.future.cancel()
        slice_.land_all()
        assert kept.future.result().tokens.built > 0
        assert {block.owner.id for block in slice_.directory.ready_blocks() if block.kind == "item"} == {
            "i1",
            "i9",
        }
        slice_.assert_idle()

    @pytest.mark.parametrize("num_landed", range(6))
    def test_a_generation_can_be_cancelled_after_any_step(self, slice_, num_landed):
        future = slice_.generate([1, 2], num_tokens=5)
        slice_.turn()
        for _ in range(num_landed):
            slice_.land()
        assert future.cancel()
        num_started = len(slice_.executor.started)
        slice_.land_all()
        assert len(slice_.executor.started) == num_started
        slice_.assert_idle()

    def test_a_generation_can_be_cancelled_while_it_waits_for_its_claim(self, slice_):
        taken = slice_.directory.reserve_scratch(slice_.directory.num_available_pages - 5)
        slice_.generate("x", 3)
        slice_.turn()
        future = slice_.generate([1, 2, 3])
        slice_.turn()
        slice_.land()
        future.cancel()
        slice_.land_all()
        slice_.directory.release(taken)
        slice_.assert_idle()

    def test_a_generation_past_its_deadline_is_told_so(self, slice_):
        future = slice_.generate([1, 2], num_tokens=8, deadline_s=5.5)
        slice_.land_all()
        assert isinstance(future.exception(), DeadlineExceededError)
        slice_.assert_idle()


def is_batch(flight):
    return flight.pending.program.purpose == "rank" and flight.pending.program.shape.batch > 1


class TestFailing:
    def test_only_the_culprit_of_a_batch_gets_its_error(self, slice_):
        warm(slice_, 1)
        states = [slice_.request([1]) for _ in range(4)]

        def outcome(flight):
            is_culprits = is_batch(flight) or states[2].stage is Stage.RUNNING
            return RuntimeError("out of memory") if is_culprits else None

        assert slice_.land_all(outcome) == ["rank"] * 5
        assert [state.future.exception() is not None for state in states] == [False, False, True, False]
        assert type(states[2].future.exception()) is RcjaxError
        assert "memory" not in states[2].future.exception().message, "what went wrong is for the log"
        slice_.assert_idle()

    def test_requests_that_come_meanwhile_are_served_after_those_that_failed(self, slice_):
        warm(slice_, 1)
        states = [slice_.request([1]) for _ in range(2)]
        slice_.turn()
        late = slice_.request([1])
        slice_.land(RuntimeError("out of memory"))
        slice_.land_all()
        assert all(state.future.result() for state in (*states, late))
        slice_.assert_idle()

    def test_a_pass_that_cannot_be_started_fails_its_request_alone(self, slice_):
        warm(slice_, 1)
        first = slice_.request([1])
        slice_.executor.refusing.append(RuntimeError("no such program"))
        slice_.turn()
        assert type(first.future.exception()) is RcjaxError
        second = slice_.request([1])
        slice_.land_all()
        assert second.future.result()
        slice_.assert_idle()

    def test_scores_that_are_no_numbers_are_an_error_and_leave_no_block(self, slice_):
        warm(slice_, 1, 2)
        states = [slice_.request([1]), slice_.request([2])]
        slice_.turn()
        logits = slice_.flights[0].pending.default.copy()
        logits[0, 0] = np.nan
        slice_.land(logits)
        assert type(states[0].future.exception()) is RcjaxError
        assert states[1].future.result()
        left = {block.owner.id for block in slice_.directory.ready_blocks() if block.kind == "item"}
        assert left == {"i2"}
        again = slice_.request([1])
        slice_.land_all()
        assert again.future.result().tokens.built > 0
        slice_.assert_idle()

    def test_a_build_that_fails_fails_those_who_wait_for_it(self, slice_):
        warm(slice_, 9)
        broken = [slice_.request([1]), slice_.request([1, 2])]
        fine = slice_.request([9])
        slice_.turn()
        purposes = []
        while slice_.flights:
            is_build = slice_.running == ["build"]
            purposes.append(slice_.land(RuntimeError("out of memory") if is_build else None))
        assert purposes.count("build") == 1
        assert [type(state.future.exception()) for state in broken] == [RcjaxError] * 2
        assert fine.future.result()
        slice_.assert_idle()
        again = slice_.request([1, 2])
        slice_.land_all()
        assert again.future.result()

    def test_a_build_that_fails_fails_its_fill_and_not_the_next(self, slice_):
        first, second = slice_.fill([1, 2]), slice_.fill(range(20, 40))
        slice_.turn()
        slice_.land(RuntimeError("out of memory"))
        slice_.land_all()
        assert type(first.exception()) is RcjaxError
        assert second.done()
        slice_.assert_idle()

    def test_a_probe_that_fails_fails_its_request(self, slice_):
        state = slice_.request([1, 2], arm=PROBING_ARM)
        slice_.land_all(lambda flight: RuntimeError("no") if flight.pending.program.purpose == "probe" else None)
        assert type(state.future.exception()) is RcjaxError
        slice_.assert_idle()

    def test_a_generation_that_fails_gives_its_pages_back(self, slice_):
        future = slice_.generate([1, 2])
        slice_.turn()
        slice_.land()
        slice_.land()
        slice_.land(RuntimeError("no"))
        assert type(future.exception()) is RcjaxError
        slice_.assert_idle()

    def test_a_row_that_no_shape_holds_is_refused_by_itself(self, slice_):
        warm(slice_, 1)
        states = [slice_.request([1]) for _ in range(2)]
        states[0].extra_fresh, states[0].row = 5000, None
        slice_.land_all()
        assert isinstance(states[0].future.exception(), InvalidRequestError)
        assert states[1].future.result()
        slice_.assert_idle()

    @pytest.mark.parametrize("error", [IntegrityError("books"), ExecutorLostError("gone")])
    def test_what_no_request_caused_ends_the_loop(self, slice_, monkeypatch, error):
        monkeypatch.setattr(slice_.directory, "lookup", lambda *args: (_ for _ in ()).throw(error))
        slice_.request([1])
        with pytest.raises(type(error)):
            slice_.turn()

    @pytest.mark.parametrize("kind", ["request", "fill", "generation"])
    def test_pages_that_are_gone_end_the_loop_when_a_pass_failed(self, slice_, kind):
        start = {"request": slice_.request, "fill": slice_.fill, "generation": slice_.generate}[kind]
        start([1])
        slice_.turn()
        slice_.executor.is_lost = True
        with pytest.raises(ExecutorLostError):
            slice_.land(RuntimeError("donated buffer"))

    def test_pages_that_are_gone_end_the_loop_when_a_pass_cannot_be_started(self, slice_):
        warm(slice_, 1)
        slice_.request([1])
        slice_.executor.is_lost = True
        slice_.executor.refusing.append(RuntimeError("Array has been deleted"))
        with pytest.raises(ExecutorLostError):
            slice_.turn()
