"""The loop of a slice, by hand: the test ends each pass, and looks at who goes on and who holds what."""

import dataclasses

import pytest
from slice_kit import BUILD, PROBING_ARM, RANK, Slice, warm

from rcjax.engine.state import Stage
from rcjax.errors import ResourceExhaustedError
from rcjax.prompt import Owner

ALONE, FOUR = RANK
BUILD_SHORT, BUILD_LONG = BUILD


@pytest.fixture
def slice_():
    return Slice()


class TestStages:
    def test_a_request_is_built_for_then_ready_then_ranked(self, slice_):
        warm(slice_, 9)
        other = slice_.request([9])
        slice_.turn()
        assert (other.stage, slice_.running) == (Stage.RUNNING, ["rank"])
        state = slice_.request([1, 2])
        assert state.stage is Stage.PLANNED
        slice_.turn()
        assert (state.stage, slice_.running) == (Stage.BUILDING, ["rank"])
        slice_.land()
        assert (state.stage, slice_.running) == (Stage.BUILDING, ["build"])
        another = slice_.request([9])
        slice_.turn()
        assert another.stage is Stage.READY, "it has what it needs, and waits for the device"
        slice_.land()
        assert (state.stage, another.stage, slice_.running) == (Stage.RUNNING, Stage.RUNNING, ["rank"])
        slice_.land()
        assert state.stage is Stage.DONE
        assert [ranked.item_id for ranked in state.future.result().ranking] == ["i1", "i2"]
        slice_.assert_idle()

    def test_what_is_cached_needs_no_build(self, slice_):
        warm(slice_, 1, 2)
        slice_.request([2, 1])
        assert slice_.land_all() == ["rank"]
        slice_.assert_idle()

    def test_a_probe_comes_before_the_ranking_pass(self, slice_):
        state = slice_.request([1, 2, 3], arm=PROBING_ARM)
        assert slice_.land_all() == ["build", "probe", "rank"]
        assert state.future.result().tokens.probed > 0
        slice_.assert_idle()

    def test_the_times_of_a_request_by_hand(self, slice_):
        slice_.clock.now_s = 100.0
        state = slice_.request([1])
        slice_.clock.now_s = 107.0
        slice_.turn()
        slice_.land(seconds=2.0)
        slice_.land(seconds=3.0)
        times = state.future.result().times
        assert (times.build_ms, times.extend_ms, times.probe_ms, times.readout_ms) == (2000, 3000, 0, 0)
        assert times.ttft_ms == 12_000
        assert times.queue_ms == pytest.approx(7000 - times.plan_ms)

    def test_one_pass_is_on_the_device_at_a_time(self, slice_):
        for i in range(6):
            slice_.request([i, i + 1], events=[i])
        slice_.fill(range(20, 40))
        slice_.generate([1, 2])
        slice_.generate("oak")
        slice_.turn()
        while slice_.flights:
            assert len(slice_.flights) == 1
            slice_.land()
        slice_.assert_idle()


class TestSharing:
    def test_builds_of_several_requests_share_a_pass(self, slice_):
        states = [slice_.request([i], events=[0]) for i in (1, 2, 3)]
        assert slice_.land_all() == ["build", "rank"]
        assert [one.program.shape for one in slice_.executor.started] == [BUILD_LONG, FOUR]
        built = [state.future.result().tokens.built for state in states]
        assert all(built), "each block counts for the request that brought it"
        assert built[0] > max(built[1:]), "the history for the first"

    def test_a_block_that_two_want_is_built_once(self, slice_):
        first, second = slice_.request([1, 2]), slice_.request([2, 1])
        slice_.land_all()
        assert slice_.cache.num_misses == 3
        assert first.future.result().tokens.built > 0
        assert second.future.result().tokens.built == 0

    def test_requests_of_one_arm_share_a_pass_and_others_follow(self, slice_):
        warm(slice_, 1)
        for arm in ("parallel_anchor_blocks", "parallel_label_blocks", "parallel_anchor_blocks"):
            slice_.request([1], arm=arm)
        assert slice_.land_all() == ["rank", "rank"]
        assert [one.program.shape for one in slice_.executor.started[-2:]] == [FOUR, ALONE]

    def test_the_arm_whose_oldest_request_waits_longest_goes_first(self, slice_):
        warm(slice_, 1)
        slice_.request([1])
        slice_.turn()
        states = []
        for arm in ("parallel_label_blocks", "parallel_anchor_blocks", "parallel_label_blocks"):
            slice_.clock.now_s += 1
            states.append(slice_.request([1], arm=arm))
        slice_.turn()
        slice_.land()
        assert [state.stage for state in states] == [Stage.RUNNING, Stage.READY, Stage.RUNNING]
        slice_.land_all()

    def test_answers_leave_as_each_batch_is_done(self, slice_):
        warm(slice_, 1)
        states = [slice_.request([1]) for _ in range(6)]
        slice_.turn()
        slice_.land()
        assert [state.future.done() for state in states] == [True] * 4 + [False] * 2
        slice_.land()
        assert all(state.future.done() for state in states)

    def test_the_next_pass_starts_before_the_answers_are_read_out(self, slice_):
        warm(slice_, 1)
        states = [slice_.request([1]) for _ in range(6)]
        num_started = []
        for state in states:
            state.future.add_done_callback(lambda _: num_started.append(len(slice_.executor.started)))
        before = len(slice_.executor.started)
        slice_.land_all()
        assert [num - before for num in num_started] == [2] * 6

    def test_while_a_pass_runs_the_next_requests_are_prepared(self, slice_):
        warm(slice_, 1)
        slice_.request([1])
        slice_.turn()
        late = slice_.request([1])
        slice_.turn()
        assert late.stage is Stage.READY
        assert late.claim.pins
        slice_.land_all()


def simulate(slice_, until_s, *, num_waiting=1):
    """Keeps requests waiting until a time; seconds on the device by purpose since now."""
    spent = dict.fromkeys(("rank", "build"), 0.0)
    waiting = []
    while slice_.clock() < until_s:
        waiting = [state for state in waiting if not state.future.done()]
        waiting += [slice_.request([1]) for _ in range(num_waiting - len(waiting))]
        slice_.turn()
        before_s = slice_.clock()
        purpose = slice_.land()
        spent[purpose] += slice_.clock() - before_s
    return spent


class TestWrites:
    def test_a_fill_without_requests_takes_all_the_time(self, slice_):
        future = slice_.fill(range(50))
        assert set(slice_.land_all()) == {"build"}
        assert future.result() == 50
        slice_.assert_idle()

    def test_a_request_does_not_wait_for_the_rest_of_a_fill(self, slice_):
        warm(slice_, 1)
        future = slice_.fill(range(20, 70))
        slice_.turn()
        assert slice_.running == ["build"]
        state = slice_.request([1])
        slice_.turn()
        slice_.land()
        assert (state.stage, slice_.running) == (Stage.RUNNING, ["rank"])
        assert not future.done()
        slice_.land_all()
        slice_.assert_idle()

    def test_while_requests_wait_a_fill_gets_its_share_and_no_more(self, slice_):
        warm(slice_, 1)
        slice_.fill(range(20, 95))
        spent = simulate(slice_, slice_.clock() + 100, num_waiting=6)
        assert 0.15 <= spent["build"] / sum(spent.values()) <= 0.25
        slice_.land_all()
        slice_.assert_idle()

    def test_time_that_no_write_wanted_is_not_saved_up(self, slice_):
        warm(slice_, 1)
        simulate(slice_, 200, num_waiting=6)
        slice_.fill(range(20, 60))
        spent = simulate(slice_, 240, num_waiting=6)
        assert spent["build"] / sum(spent.values()) <= 0.3

    def test_time_that_writes_took_while_nobody_waited_is_not_held_against_them(self, slice_):
        slice_.fill(range(20, 60))
        slice_.land_all()
        warm(slice_, 1)
        slice_.fill(range(60, 160))
        spent = simulate(slice_, slice_.clock() + 60, num_waiting=6)
        assert spent["build"] / sum(spent.values()) >= 0.15

    def test_a_block_that_a_request_wants_too_is_built_for_it(self, slice_):
        future = slice_.fill(range(20, 60))
        slice_.turn()
        names = [("item", Owner("", f"i{number}")) for number in (58, 59)]
        assert not any(slice_.directory.current(*name) for name in names)
        slice_.land_all()
        assert future.result() == 40

    def test_a_fill_larger_than_the_pool_keeps_the_last(self):
        small = Slice(num_pages=40)
        future = small.fill(range(60))
        small.land_all()
        assert future.result() == 60
        assert small.directory.current("item", Owner("", "i59")) is not None
        small.assert_idle()

    def test_content_that_is_dropped_and_wanted_again_while_it_waits_is_built_again(self, slice_):
        """The first build is overtaken, and both who wait for the one and for the other go on."""
        slice_.request([9])
        slice_.turn()
        first = slice_.fill([1], version=1)
        slice_.turn()
        slice_.directory.drop("item", Owner("", "i1"), 2)
        second = slice_.fill([1], version=3)
        slice_.land_all()
        assert (first.result(), second.result()) == (1, 1)
        assert slice_.directory.current("item", Owner("", "i1")) is not None
        slice_.assert_idle()


class TestRoom:
    def test_a_request_that_lacks_pages_is_served_once_others_are_done(self):
        small = Slice(num_pages=22)
        states = [small.request([i, i + 1], events=[i]) for i in range(0, 12, 2)]
        small.turn()
        assert Stage.PLANNED in [state.stage for state in states]
        small.land_all()
        assert all(state.future.result().ranking for state in states)
        small.assert_idle()

    def test_what_could_never_have_room_is_refused_at_once(self):
        small = Slice(num_pages=14)
        state = small.request(range(20))
        small.turn()
        assert isinstance(state.future.exception(), ResourceExhaustedError)
        small.assert_idle()

    def test_a_request_waits_for_the_pages_of_a_generated_text(self):
        small = Slice(num_pages=16)
        text = small.generate("x", 8 * (small.directory.num_available_pages - 2))
        small.turn()
        assert small.running == ["decode"]
        state = small.request([1], events=[])
        small.land_all()
        assert text.result()
        assert state.future.result().ranking
        small.assert_idle()

    def test_a_fill_gets_its_pages_although_requests_keep_waiting_for_theirs(self):
        small = Slice(num_pages=20)
        future = small.fill([50])
        waiting = []
        for number in range(200):
            waiting = [state for state in waiting if not state.future.done()]
            while len(waiting) < 4:
                waiting.append(small.request([number % 40, 60 + number % 39], events=[number % 38]))
            small.turn()
            small.land()
        assert future.done()

    def test_a_task_that_gives_way_again_and_again_does_not_keep_a_write_from_its_turn(self, slice_):
        """As a generation that waits for pages does, while a fill holds some that it could give back."""
        fill, turns = slice_.fill([1]), []

        def steps():
            while not fill.done():
                turns.append(1)
                assert len(turns) < 1000, "it takes every turn"
                yield None

        slice_.turn()
        future = slice_.task(steps(), is_urgent=True)
        slice_.land_all()
        assert future.exception() is None
        assert fill.result() == 1

    def test_requests_are_granted_in_order_of_arrival(self):
        small = Slice(num_pages=20)
        holder, large = small.request([0], events=[0]), small.request([1, 2, 3], events=[1])
        little = small.request([0], events=[0])
        small.turn()
        assert (holder.stage, large.stage, little.stage) == (Stage.BUILDING, Stage.PLANNED, Stage.PLANNED)
        small.land_all()
        assert large.future.result()
        assert little.future.result()
        small.assert_idle()


class TestVersions:
    def test_those_that_can_still_commit_are_alive(self, slice_):
        assert slice_.loop.live_versions == []
        slice_.fill([5], version=7)
        slice_.turn()
        assert set(slice_.loop.live_versions) == {7}
        state = slice_.request([1])
        state.plan = dataclasses.replace(state.plan, version=5)
        assert set(slice_.loop.live_versions) == {7, 5}
        slice_.land_all()
        assert slice_.loop.live_versions == []

    def test_a_build_outlives_the_request_that_it_was_for(self, slice_):
        state = slice_.request([1])
        slice_.turn()
        state.future.cancel()
        slice_.loop._drop_dead()
        assert slice_.loop.live_versions, "it runs, and will commit"
        slice_.land_all()
        assert slice_.loop.live_versions == []
