"""The worker's threads: how work gets in and answers out, how it stops, and what it dies of.

Passes end when the test says so, so that nothing here depends on how fast a thread is.
"""

import dataclasses
import threading
from concurrent.futures import CancelledError

import pytest
from slice_kit import DEFAULT_ARM, AwaitedPass, Slice
from waiting import wait_until

from rcjax.cache import IntegrityError
from rcjax.engine.executor import ExecutorLostError
from rcjax.engine.generation import Sampling
from rcjax.engine.worker import SliceWorker
from rcjax.errors import DeadlineExceededError, InvalidRequestError, RcjaxError, UnavailableError
from rcjax.prompt import BlockKind, Owner

WATCHDOG_S = 60.0  # far beyond what anything here takes; a test that hangs fails by it


class Threaded:
    """A worker over scripted passes."""

    def __init__(self, **kwargs):
        self.slice = Slice(kind=AwaitedPass, **kwargs)
        self.executor, self.clock, self.directory = self.slice.executor, self.slice.clock, self.slice.directory
        self.worker = SliceWorker(
            self.slice.cache, self.slice.ranker, generator=self.slice.generator, clock=self.slice.clock
        )

    def submit(self, items, *, deadline_s=None, version=None, **fields):
        plan = self.slice.plan(items, **fields)
        if version is not None:
            plan = dataclasses.replace(plan, version=version)
        return self.worker.submit(plan, arrival_s=self.clock(), deadline_s=deadline_s)

    def next_pass(self):
        """The next pass that is started; waits for it."""
        return self.executor.queue.get(timeout=WATCHDOG_S)

    def end_passes(self, *purposes):
        for purpose in purposes:
            started = self.next_pass()
            assert started.program.purpose == purpose
            started.end()

    def hold(self):
        """Keeps the worker's thread busy until the event that is returned is set."""
        is_held, release = threading.Event(), threading.Event()
        self.worker.call(lambda worker: (is_held.set(), release.wait()))
        is_held.wait()
        return release

    def all_pass(self):
        """From now on passes end as they start."""
        self.executor.is_immediate = True


@pytest.fixture
def threaded():
    made = Threaded()
    made.worker.start()
    yield made
    made.all_pass()
    for started in made.executor.started:
        if not started.is_ready():
            started.end()
    made.worker.stop(WATCHDOG_S)
    made.worker._thread.join(WATCHDOG_S)
    assert not made.worker._thread.is_alive()


def result(future):
    return future.result(timeout=WATCHDOG_S)


def error(future):
    return future.exception(timeout=WATCHDOG_S)


class TestWork:
    def test_a_request_is_answered(self, threaded):
        future = threaded.submit([1, 2])
        threaded.end_passes("build", "rank")
        assert [ranked.item_id for ranked in result(future).ranking] == ["i1", "i2"]

    def test_the_load_is_what_waits(self, threaded):
        release = threaded.hold()
        futures = [threaded.submit([1]) for _ in range(3)]
        assert threaded.worker.num_waiting == 4
        assert threaded.worker.load_s == pytest.approx(3.0)
        futures[0].cancel()
        assert threaded.worker.load_s == pytest.approx(2.0)
        threaded.all_pass()
        release.set()
        for future in futures[1:]:
            result(future)
        assert result(threaded.worker.call(lambda worker: worker.num_waiting)) <= 1
        assert threaded.worker.load_s == 0

    def test_a_fill_then_a_hit(self, threaded):
        threaded.all_pass()
        blocks = [threaded.slice.planned(number) for number in range(30)]
        assert result(threaded.worker.fill(blocks, 1)) == 30
        assert result(threaded.worker.fill(blocks, 2)) == 0
        assert threaded.worker.stats.num_misses == 30
        assert threaded.worker.stats.num_hits == 30

    def test_growing_costs_what_is_new(self, threaded):
        threaded.all_pass()
        former, longer = threaded.slice.planned(1), threaded.slice.planned(1, text="and more")
        result(threaded.worker.fill([former], 1))
        assert result(threaded.worker.grow(former, longer, 2)) == 1
        current = result(threaded.worker.call(lambda worker: worker.cache.directory.current("item", Owner("", "i1"))))
        assert current.token_ids.tolist() == longer.block.token_ids.tolist()

    def test_what_is_dropped_is_gone_and_older_plans_do_not_bring_it_back(self, threaded):
        threaded.all_pass()
        result(threaded.worker.fill([threaded.slice.planned(1)], 1))
        assert (
            result(threaded.worker.drop([(BlockKind.ITEM, Owner("", "i1")), (BlockKind.ITEM, Owner("", "i2"))], 5)) == 1
        )
        result(threaded.worker.fill([threaded.slice.planned(1)], 4))
        find = lambda worker: worker.cache.directory.current("item", Owner("", "i1"))  # noqa: E731
        assert result(threaded.worker.call(find)) is None
        result(threaded.worker.fill([threaded.slice.planned(1)], 6))
        assert result(threaded.worker.call(find)) is not None

    def test_a_generation_takes_a_step_a_turn(self, threaded):
        threaded.executor.is_immediate = True
        result(threaded.submit([1]))
        threaded.executor.is_immediate = False
        release = threaded.hold()
        text = threaded.worker.generate(threaded.slice.planner.builder.text_block("oak"), Sampling(3))
        arms = (DEFAULT_ARM, "parallel_label_blocks", "sequential_label_blocks")
        futures = [threaded.submit([1], arm=arm) for arm in arms]
        release.set()
        order = []
        for _ in range(6):
            started = threaded.next_pass()
            order.append(started.program.purpose)
            started.end()
        assert len(result(text)) == 3
        assert all(result(future) for future in futures)
        assert sorted(order) == ["decode"] * 3 + ["rank"] * 3
        assert order[:4] in (["rank", "decode"] * 2, ["decode", "rank"] * 2), "by turns"

    def test_without_generate_shapes_it_is_refused(self):
        parts = Slice()
        worker = SliceWorker(parts.cache, parts.ranker)
        with pytest.raises(InvalidRequestError, match="generate"):
            worker.generate(parts.planner.builder.text_block("oak"), Sampling(3))

    def test_what_it_was_not_given_it_has_nothing_to_do_for(self, threaded):
        assert result(threaded.worker.choose_orders(0)) == 0
        assert result(threaded.worker.build_semantic_pool(0)) == 0

    def test_many_threads_submit(self, threaded):
        threaded.all_pass()
        plans = [threaded.slice.plan([i, i + 1], events=[i % 3]) for i in range(10)]
        answers = []

        def submit(number):
            futures = [threaded.worker.submit(plan, arrival_s=0.0) for plan in plans[number:] + plans[:number]]
            answers.extend(result(future) for future in futures)

        threads = [threading.Thread(target=submit, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(answers) == 40
        wait_until(lambda: threaded.worker.num_waiting == 0)  # a result is there before its call is off the list


class TestCalls:
    def test_a_call_runs_on_the_thread_and_returns(self, threaded):
        names = result(threaded.worker.call(lambda worker: (worker, threading.current_thread().name)))
        assert names == (threaded.worker, "rcjax-slice-0")

    def test_what_a_call_raises_is_for_its_caller(self, threaded):
        def fail(worker):
            raise KeyError("mine")

        assert isinstance(error(threaded.worker.call(fail)), KeyError)
        assert result(threaded.worker.call(lambda worker: 1)) == 1
        assert not threaded.worker.lost.done()

    def test_a_cancelled_call_does_not_run(self, threaded):
        release, ran = threaded.hold(), []
        future = threaded.worker.call(lambda worker: ran.append(1))
        assert future.cancel()
        release.set()
        assert result(threaded.worker.call(lambda worker: list(ran))) == []

    def test_a_task_takes_its_steps(self, threaded):
        def steps():
            seen = []
            for number in range(3):
                seen.append((number, threading.current_thread().name))
                yield None
            return seen

        assert result(threaded.worker.run(lambda worker: steps())) == [(i, "rcjax-slice-0") for i in range(3)]

    def test_what_a_task_raises_is_hidden_unless_it_is_for_callers(self, threaded):
        def steps(raised):
            yield None
            raise raised

        hidden = error(threaded.worker.run(lambda worker: steps(KeyError("secret"))))
        assert type(hidden) is RcjaxError
        assert "secret" not in str(hidden)
        told = InvalidRequestError("too long", field="items")
        assert error(threaded.worker.run(lambda worker: steps(told))) is told


class TestGivingUp:
    def test_a_cancelled_request_starts_no_pass(self, threaded):
        future = threaded.submit([1])
        building = threaded.next_pass()
        assert future.cancel()
        building.end()
        other = threaded.submit([1])
        threaded.end_passes("rank")
        assert result(other)
        assert len(threaded.executor.started) == 2
        with pytest.raises(CancelledError):
            future.result()

    def test_a_deadline_that_passes_while_blocks_are_built(self, threaded):
        future = threaded.submit([1], deadline_s=10.0)
        building = threaded.next_pass()
        threaded.clock.now_s = 11.0
        building.end()
        assert isinstance(error(future), DeadlineExceededError)

    def test_nothing_leaks_over_thousands_of_cancellations(self, threaded):
        threaded.all_pass()
        plans = [threaded.slice.plan([i % 7, i % 5 + 10], events=[i % 3]) for i in range(35)]
        for round_ in range(60):
            futures = [threaded.worker.submit(plan, arrival_s=0.0) for plan in plans]
            for i, future in enumerate(futures):
                if (i + round_) % 3:
                    future.cancel()
            for future in futures:
                if not future.cancelled():
                    result(future)

        def pinned(worker):
            worker.cache.directory.check_integrity()
            return worker.cache.directory.stats().pages_pinned, worker.cache.num_claims

        num_pinned = len(threaded.slice.cache.instruction_pages)
        for _ in range(3):  # what is cancelled last may still be on its way out
            threaded.submit([1]).result(timeout=WATCHDOG_S)
        assert result(threaded.worker.call(pinned)) == (num_pinned, 0)
        wait_until(lambda: threaded.worker.num_waiting == 0)  # a result is there before its call is off the list
        assert threaded.worker.load_s == 0


class TestStopping:
    def test_what_is_there_is_finished_within_the_grace_period(self, threaded):
        futures = [threaded.submit([1]), threaded.worker.fill([threaded.slice.planned(5)], 1)]
        building = threaded.next_pass()
        stopping = threading.Thread(target=threaded.worker.stop, args=(WATCHDOG_S,))
        stopping.start()
        threaded.all_pass()
        building.end()
        stopping.join(WATCHDOG_S)
        assert [bool(result(future)) for future in futures] == [True, True]
        assert not threaded.worker._thread.is_alive()

    def test_what_is_not_done_by_then_is_unavailable_and_no_pass_is_started_for_it(self, threaded):
        futures = [threaded.submit([1]), threaded.worker.fill([threaded.slice.planned(5)], 1), threaded.submit([2])]
        running = threaded.next_pass()
        threaded.worker.stop(0.0)
        assert all(isinstance(error(future), UnavailableError) for future in futures)
        running.end()
        threaded.worker._thread.join(WATCHDOG_S)
        assert len(threaded.executor.started) == 1
        assert not threaded.worker.lost.done()

    def test_work_after_it_is_refused(self, threaded):
        worker, planned = threaded.worker, threaded.slice.planned(1)
        worker.stop(WATCHDOG_S)
        for future in (
            threaded.submit([1]),
            worker.fill([planned], 1),
            worker.grow(planned, planned, 1),
            worker.drop([(BlockKind.ITEM, Owner("", "i1"))], 1),
            worker.call(lambda worker: 1),
            worker.generate(threaded.slice.planner.builder.text_block("oak"), Sampling(3)),
        ):
            assert isinstance(error(future), UnavailableError)
        assert worker.num_waiting == 0

    def test_a_worker_that_never_started_can_stop(self):
        made = Threaded()
        future = made.submit([1])
        made.worker.stop(0.0)
        assert isinstance(error(future), UnavailableError)

    def test_stopping_twice_does_no_harm(self, threaded):
        threaded.worker.stop(WATCHDOG_S)
        threaded.worker.stop(WATCHDOG_S)


def plant(worker):
    """A page more on the books than there is."""
    worker.cache.directory._accounts.by_kind["item"] += 1


class TestLosing:
    def test_damage_is_found_when_nothing_else_is_to_do(self, threaded):
        threaded.worker.call(plant)
        assert isinstance(error(threaded.worker.lost), IntegrityError)
        assert isinstance(error(threaded.submit([1])), UnavailableError)

    def test_sound_books_are_checked_and_stay(self, threaded):
        """After work, a whole round of the check is run; then the thread sleeps until there is more."""
        rounds, is_checked = [], threading.Event()
        check = threaded.directory.check_integrity_within

        def spy(budget_s, clock):
            rounds.append(check(budget_s, clock))
            if rounds[-1]:
                is_checked.set()
            return rounds[-1]

        threaded.directory.check_integrity_within = spy
        threaded.all_pass()
        result(threaded.submit([1]))
        assert is_checked.wait(WATCHDOG_S)
        assert not threaded.worker.lost.done()

    def test_pages_that_are_gone(self, threaded):
        futures = [threaded.submit([1]), threaded.worker.fill([threaded.slice.planned(3)], 1)]
        threaded.executor.is_lost = True
        threaded.next_pass().end(RuntimeError("donated"))
        assert isinstance(error(threaded.worker.lost), ExecutorLostError)
        assert all(isinstance(error(future), UnavailableError) for future in futures)

    def test_a_defect_of_the_loop(self, threaded, monkeypatch):
        monkeypatch.setattr(threaded.worker._loop, "turn", lambda: {}["nothing"])
        future = threaded.submit([1])
        assert isinstance(error(threaded.worker.lost), KeyError)
        assert isinstance(error(future), UnavailableError)

    def test_a_call_that_finds_damage_is_told_and_ends_it(self, threaded):
        def look(worker):
            raise IntegrityError("a page in two blocks")

        assert isinstance(error(threaded.worker.call(look)), IntegrityError)
        assert isinstance(error(threaded.worker.lost), IntegrityError)

    def test_one_request_that_fails_is_no_loss(self, threaded):
        future = threaded.submit([1])
        threaded.next_pass().end(RuntimeError("out of memory"))
        assert type(error(future)) is RcjaxError
        assert not threaded.worker.lost.done()


class TestVersions:
    def test_what_still_waits_here_is_not_forgotten(self, threaded):
        forgotten = []
        threaded.directory.forget_versions = forgotten.append
        threaded.submit([1], version=3)
        running = threaded.next_pass()
        threaded.submit([2], version=5)
        threaded.worker.forget_versions(9)
        result(threaded.worker.call(lambda worker: None))
        result(threaded.worker.call(lambda worker: None))
        threaded.all_pass()
        running.end()
        result(threaded.submit([9]))
        threaded.worker.forget_versions(11)
        result(threaded.worker.call(lambda worker: None))
        result(threaded.worker.call(lambda worker: None))
        assert forgotten[0] == 3
        assert forgotten[-1] == 11

    def test_a_smaller_number_later_changes_nothing(self, threaded):
        forgotten, release = [], threaded.hold()
        threaded.directory.forget_versions = forgotten.append
        threaded.worker.forget_versions(7)
        threaded.worker.forget_versions(5)
        release.set()
        result(threaded.worker.call(lambda worker: None))
        result(threaded.worker.call(lambda worker: None))
        assert forgotten == [7]
