"""The router over fake slices: choice of a slice, room, giving up, failing, losing and stopping."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any

import pytest
from fake_router import INFO, Gate, ranked
from fake_slice import NO_LIMITS, Slices, ask, until_refused

from rcjax.errors import (
    DeadlineExceededError,
    NotFoundError,
    RcjaxError,
    ResourceExhaustedError,
    UnavailableError,
)
from rcjax.request import EngineStats, SliceStats, TokenCounts
from rcjax.serving.admission_limits import AdmissionLimits
from rcjax.serving.router import Router


def held(gate: Gate, name: str = "submit") -> Callable[[str], None]:
    """A worker's hook that holds its thread at the first `name`."""
    return lambda at: gate() if at == name else None


def until_planned(slices: Slices, num: int) -> None:
    """Waits until so many requests have reached the slices' queues, as a planner's thread got there."""
    while sum(worker.num_waiting for worker in slices.workers) < num:
        pass


def failure(future: "Future[Any]") -> BaseException | None:
    return future.exception(60)


def test_answers_come_back_and_are_counted() -> None:
    with Slices() as slices:
        router = slices.router
        assert asyncio.run(router.recommend(ask(1, 3, 2), arrival_s=1.0)) == ranked(ask(1, 3, 2))
        assert isinstance(failure(router.submit(ask(77))), NotFoundError)
        assert router.submit(ask(4)).result(60) == ranked(ask(4))
        assert slices.planner.threads == {"rcjax-planner-0"}
        stats = asyncio.run(router.stats())
    assert (stats.num_requests, stats.num_failed) == (3, 1)
    assert stats.tokens == TokenCounts(cached=200, fresh=6 + 2)
    assert router.info == INFO
    assert slices.library.versions.alive == {}  # what was read is given back


def test_stats_sum_over_slices() -> None:
    with Slices(2) as slices:
        assert slices.router.current_stats() == EngineStats(
            num_items=10,
            num_users=1,
            num_compilations=7,
            num_hits=2,
            num_misses=4,
            num_evictions=6,
            pages_total=8,
            pages_used=10,
            pool_bytes=12,
            slices=(SliceStats("open", 0.0, 0, 0, 1, 2, 3, 4, 5, *range(7, 16)),) * 2,
            policy="time",
            num_replica_hits=14,
            num_fetched=16,
            num_from_host=18,
            num_from_disk=20,
            fetched_bytes=22,
            from_host_bytes=24,
            from_disk_bytes=26,
            spilled_bytes=30,
        )


def test_the_slice_that_will_be_done_first_gets_the_request() -> None:
    gates = [Gate(), Gate(), Gate()]
    with Slices(3) as slices:
        for worker, gate in zip(slices.workers, gates, strict=True):
            worker.before = held(gate)
        # A candidate costs a second: three, two and one wait, then two at slice 2 as at slice 1, then at slice 1 three.
        futures = slices.router.submit_planned([ask(1, 2, 3), ask(4, 5), ask(6), ask(7), ask(8)])
        assert all(gate.entered.wait(60) for gate in gates)
        assert [one.queue_s for one in slices.router.current_stats().slices] == [3.0, 3.0, 2.0]
        slices.clock.now_s += 1.5  # by which slice 0 has that much less to do, and slice 2 as little as its queue
        futures += slices.router.submit_planned([ask(9)])
        assert [one.queue_s for one in slices.router.current_stats().slices] == [1.5, 1.5, 2.0]
        for gate in gates:
            gate.open.set()
        assert [future.result(60).slice_index for future in futures] == [0, 1, 2, 2, 1, 2]
        stats = slices.router.current_stats()
        assert [(one.queue_s, one.num_under_way, one.num_requests) for one in stats.slices] == [
            (0.0, 0, 1),
            (0.0, 0, 2),
            (0.0, 0, 3),
        ]
        assert (stats.num_decisions, stats.num_retries, stats.imbalance) == (6, 0, 1.0)


def test_many_requests_are_planned_before_any_is_handed_over() -> None:
    with Slices() as slices:
        waited = []
        slices.planner.before = lambda request: waited.append(slices.worker.num_waiting + len(slices.worker.seen))
        futures = slices.router.submit_planned([ask(1), ask(77), ask(2)])
        assert [ranked(ask(1)), ranked(ask(2))] == [futures[0].result(60), futures[2].result(60)]
        assert isinstance(failure(futures[1]), NotFoundError)
        assert waited == [0, 0, 0]
        assert slices.planner.threads == {"MainThread"}


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    gate = Gate()
    with Slices(limits=AdmissionLimits(max_queue_s=4.0)) as slices:
        slices.worker.before = held(gate)
        running = slices.router.submit(ask(1, 2))  # two seconds
        assert gate.entered.wait(60)
        waiting = slices.router.submit(ask(1, 2, 3))
        until_planned(slices, 1)
        with pytest.raises(ResourceExhaustedError, match="takes 5 s, over the limit of 4 s") as caught:
            slices.router.submit(ask(4))
        assert caught.value.retry_after_s == 3.0  # until half of the queue is free
        with pytest.raises(ResourceExhaustedError):
            asyncio.run(slices.router.recommend(ask(4)))
        assert +slices.router.admission.rejected == {"queue": 2}
        gate.open.set()
        wait([running, waiting], 60)
        assert slices.router.submit(ask(4)).result(60) == ranked(ask(4))
        assert slices.router.current_stats().num_requests == 3


def test_a_cancelled_await_reaches_the_slice() -> None:
    gate = Gate()

    async def main(slices: Slices) -> None:
        running = asyncio.ensure_future(slices.router.recommend(ask(1)))
        await asyncio.to_thread(gate.entered.wait, 60)
        given_up, kept = (asyncio.ensure_future(slices.router.recommend(ask(n))) for n in (2, 3))
        await asyncio.sleep(0)
        await asyncio.to_thread(until_planned, slices, 2)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        gate.open.set()
        assert await running == ranked(ask(1))
        assert await kept == ranked(ask(3))

    with Slices() as slices:
        slices.worker.before = held(gate)
        asyncio.run(main(slices))
        assert slices.worker.seen == [("item-1",), ("item-3",)]
        assert slices.router.current_stats().num_requests == 2
    assert slices.library.versions.alive == {}


def test_what_nobody_waits_for_any_more_is_not_planned() -> None:
    gate = Gate()
    with Slices() as slices:
        slices.planner.before = lambda request: gate() if request == ask(1) else None
        first = slices.router.submit(ask(1))
        assert gate.entered.wait(60)
        given_up, expired = slices.router.submit(ask(2)), slices.router.submit(ask(3), deadline_s=1005.0)
        kept = slices.router.submit(ask(4), deadline_s=1010.0)  # there is time for what waits
        assert given_up.cancel()
        slices.clock.now_s = 1005.0
        gate.open.set()
        with pytest.raises(DeadlineExceededError, match="deadline passed"):
            expired.result(60)
        assert [first.result(60), kept.result(60)] == [ranked(ask(1)), ranked(ask(4))]
        assert slices.worker.seen == [("item-1",), ("item-4",)]


@pytest.mark.parametrize("place", ["planner", "worker"])
def test_a_request_that_breaks_a_part_fails_alone_and_tells_nothing(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    def break_once(_: Any) -> None:
        setattr(part, "before", lambda asked: None)  # noqa: B010 - either part
        raise ValueError("a secret of the engine")

    with caplog.at_level(logging.ERROR), Slices() as slices:
        part = slices.planner if place == "planner" else slices.worker
        part.before = break_once
        error = failure(slices.router.submit(ask(1)))
        assert type(error) is RcjaxError
        assert str(error) == "internal error; the server's log has the details"
        assert slices.router.submit(ask(2)).result(60) == ranked(ask(2))
    assert "a secret of the engine" in caplog.text
    assert "Traceback" in caplog.text
    assert slices.library.versions.alive == {}


def test_a_worker_that_takes_nothing_leaves_no_version_alive() -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise UnavailableError("stopped")

    with Slices() as slices:
        slices.worker.submit = refuse  # type: ignore[method-assign]
        assert isinstance(failure(slices.router.submit(ask(1))), UnavailableError)
        assert slices.library.versions.alive == {}


def test_stop_finishes_what_is_there_and_refuses_more() -> None:
    gate = Gate()

    async def main(slices: Slices) -> None:
        futures = [slices.router.submit(ask(n)) for n in (1, 2)]
        await asyncio.to_thread(gate.entered.wait, 60)
        stopping = asyncio.ensure_future(asyncio.to_thread(slices.router.stop, 60.0))
        await asyncio.to_thread(until_refused, slices)
        with pytest.raises(UnavailableError, match="stopping"):
            slices.router.submit(ask(3))
        gate.open.set()
        await stopping
        assert [future.result(0) for future in futures] == [ranked(ask(1)), ranked(ask(2))]
        assert slices.worker.stopped

    with Slices(limits=NO_LIMITS) as slices:
        slices.worker.before = held(gate)
        asyncio.run(main(slices))


def test_stop_fails_what_its_grace_does_not_cover(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with Slices() as slices:
        slices.worker.before = held(gate)
        calls = [slices.router.submit(ask(1))]
        assert gate.entered.wait(60)
        calls.append(slices.router.submit(ask(2)))
        slices.router.stop(0.0)
        for call in calls:
            with pytest.raises(UnavailableError, match="stopped before this call was done"):
                call.result(0)
        gate.open.set()
    assert "not done after 0.0 s of grace" in caplog.text


def test_a_lost_slice_fails_what_waits_and_all_that_comes(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    with Slices(2) as slices:
        slices.worker.before = held(gate)
        waiting = slices.router.submit(ask(1))
        assert gate.entered.wait(60)
        assert not slices.router.lost.done()
        slices.workers[1].lost.set_exception(RuntimeError("the device fell off"))
        slices.workers[0].lost.set_exception(RuntimeError("so did this one"))
        assert str(failure(slices.router.lost)) == "the device fell off"
        with pytest.raises(UnavailableError, match="lost its engine"):
            waiting.result(60)
        with pytest.raises(UnavailableError, match="lost its engine"):
            slices.router.submit(ask(2))
        gate.open.set()
        slices.router.stop(60.0)
        with pytest.raises(UnavailableError, match="lost its engine"):  # which is why it stops
            slices.router.submit(ask(3))
    assert "the device fell off" in caplog.text


def test_workers_that_end_well_are_no_loss() -> None:
    with Slices() as slices:
        slices.worker.lost.set_result(None)
        assert slices.router.submit(ask(1)).result(60) == ranked(ask(1))
        assert not slices.router.lost.done()


def test_an_answered_request_is_forgotten_without_the_garbage_collector() -> None:
    with Slices() as slices:
        gc.disable()
        try:
            future = slices.router.submit(ask(1))
            future.result(60)
            slices.router.stop(60.0)
            seen = weakref.ref(future)
            del future
            slices.worker._thread.join(60)
            slices.router._intake._threads[0].join(60)
            assert seen() is None
        finally:
            gc.enable()


def test_nobody_who_works_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Slices(planner_threads=0)
    with pytest.raises(ValueError, match="at least 1"):
        Router(Slices().planner, [], Slices().library, INFO)
