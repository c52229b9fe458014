"""The engine's thread on its own: order, batches, room, giving up, failing and stopping."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from fake_engine import INFO, FakeEngine, Gate

from rcjax.catalog.types import Item
from rcjax.errors import (
    DeadlineExceededError,
    NotFoundError,
    RcjaxError,
    ResourceExhaustedError,
    UnavailableError,
)
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.engine_thread import EngineThread

T = TypeVar("T")


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Held:
    """An engine thread held inside a first call, so that a test decides what waits when it goes on."""

    def __init__(self, max_queue: int = 10, max_batch: int = 4):
        self.engine = FakeEngine("item-1", "item-2", "item-3")
        self.clock = Clock()
        self.gate = Gate()
        self.thread = EngineThread(lambda: self.engine, max_queue=max_queue, max_batch=max_batch, clock=self.clock)

    async def __aenter__(self) -> "Held":
        self.thread.start()
        assert await asyncio.wrap_future(self.thread.ready) == INFO
        self.first = await self.submit(self.thread.call(self.gate))
        await asyncio.to_thread(self.gate.entered.wait, 60)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.gate.open.set()
        await self.thread.stop(60.0)

    async def submit(self, call: Awaitable[T]) -> "asyncio.Task[T]":
        task = asyncio.ensure_future(call)
        await asyncio.sleep(0)  # one step: up to its wait for the engine
        return task

    async def recommend(self, item_id: str, deadline_s: float | None = None) -> "asyncio.Task[RecommendResult]":
        request = RecommendRequest((item_id,), "ann")
        return await self.submit(self.thread.recommend(request, arrival_s=self.clock.now_s, deadline_s=deadline_s))

    def seen(self) -> list[Any]:
        """What reached the engine: ids per batch of requests, or the name of a call."""
        return [
            [request.candidates[0] for request in argument] if name == "recommend" else name
            for name, argument in self.engine.calls
        ]


def test_requests_that_wait_are_batched_up_to_the_limit_and_never_across_a_write() -> None:
    async def main() -> None:
        async with Held(max_batch=2) as held:
            tasks = [await held.recommend(item_id) for item_id in ("item-1", "item-2", "item-3")]
            put = await held.submit(held.thread.call(lambda engine: engine.put_items([Item("item-9", "Nine")])))
            tasks.append(await held.recommend("item-9"))
            held.gate.open.set()
            scores = [(await task).ranking[0].score for task in tasks]
            assert scores == [1.0, 2.0, 3.0, 9.0]
            assert await put == 1
        assert held.seen() == [["item-1", "item-2"], ["item-3"], "put_items", ["item-9"]]
        assert held.engine.threads == {"rcjax-engine"}

    asyncio.run(main())


def test_times_count_from_arrival() -> None:
    def ranks_for_two_seconds(held: Held) -> Callable[[Any], None]:
        def advance(_: Any) -> None:
            held.clock.now_s += 2.0

        return advance

    async def main() -> None:
        async with Held() as held:
            held.engine.before["recommend"] = ranks_for_two_seconds(held)
            early = await held.recommend("item-1")
            held.clock.now_s += 0.5
            late = await held.recommend("item-2")
            held.clock.now_s += 1.0
            held.gate.open.set()
            times = (await early).times
            assert (times.queue_ms, times.ttft_ms) == (1500.0, 3500.0)
            assert (times.plan_ms, times.build_ms, times.extend_ms, times.readout_ms) == (1.0, 2.0, 3.0, 4.0)
            times = (await late).times
            assert (times.queue_ms, times.ttft_ms) == (1000.0, 3000.0)

    asyncio.run(main())


def test_full_queue_refuses_and_inspection_passes_it() -> None:
    async def main() -> None:
        async with Held(max_queue=2) as held:
            waiting = [await held.recommend("item-1"), await held.recommend("item-2")]
            with pytest.raises(ResourceExhaustedError, match="2 calls wait already, which is the limit"):
                await held.thread.recommend(RecommendRequest(("item-3",), "ann"), arrival_s=0.0)
            with pytest.raises(ResourceExhaustedError):
                await held.thread.call(lambda engine: engine.delete_user("ann"))
            stats = await held.submit(held.thread.inspect(lambda engine: engine.stats()))
            held.gate.open.set()
            assert [(await task).ranking[0].score for task in waiting] == [1.0, 2.0]
            assert (await stats).num_items == 3
        assert held.seen() == ["stats", ["item-1", "item-2"]]

    asyncio.run(main())


def test_cancelled_and_expired_work_leaves_the_queue_unseen() -> None:
    async def main() -> None:
        async with Held(max_queue=3) as held:
            cancelled = await held.recommend("item-1")
            expiring = await held.recommend("item-2", deadline_s=held.clock.now_s + 5)
            kept = await held.recommend("item-3", deadline_s=held.clock.now_s + 6)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            assert held.thread.num_waiting == 2
            held.clock.now_s += 5
            assert held.thread.num_waiting == 1
            with pytest.raises(DeadlineExceededError, match="deadline passed"):
                await expiring
            another = [await held.recommend("item-1"), await held.recommend("item-2")]  # there is room again
            held.gate.open.set()
            await asyncio.gather(kept, *another)
        assert held.seen() == [["item-3", "item-1", "item-2"]]

    asyncio.run(main())


def test_work_that_expires_unnoticed_is_dropped_when_its_turn_comes() -> None:
    async def main() -> None:
        async with Held() as held:
            expiring = await held.recommend("item-1", deadline_s=held.clock.now_s + 5)
            write = await held.submit(
                held.thread.call(lambda engine: engine.delete_user("ann"), deadline_s=held.clock.now_s + 5)
            )
            held.clock.now_s += 6
            held.gate.open.set()
            for task in (expiring, write):
                with pytest.raises(DeadlineExceededError):
                    await task
        assert held.seen() == []
        assert "ann" in held.engine.users

    asyncio.run(main())


def test_request_that_breaks_the_engine_fails_alone_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def break_on_item_2(requests: tuple[RecommendRequest, ...]) -> None:
        if any("item-2" in request.candidates for request in requests):
            raise ValueError("a secret of the engine")

    async def main() -> None:
        async with Held() as held:
            held.engine.before["recommend"] = break_on_item_2
            good = await held.recommend("item-1")
            bad = await held.recommend("item-2")
            unknown = await held.recommend("item-4")
            held.gate.open.set()
            assert (await good).ranking[0].score == 1.0
            with pytest.raises(RcjaxError) as caught:
                await bad
            assert (type(caught.value), caught.value.message) == (
                RcjaxError,
                "internal error; the server's log has the details",
            )
            with pytest.raises(NotFoundError, match="item-4"):
                await unknown
            assert (await (await held.recommend("item-3"))).ranking[0].score == 3.0

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert "a secret of the engine" in caplog.text
    assert "Traceback" in caplog.text


def test_engine_that_answers_too_few_is_an_internal_error() -> None:
    async def main() -> None:
        async with Held() as held:
            held.engine.recommend = lambda requests: []  # type: ignore[method-assign]
            task = await held.recommend("item-1")
            held.gate.open.set()
            with pytest.raises(RcjaxError, match="internal error"):
                await task

    asyncio.run(main())


def test_stop_finishes_what_waits_and_refuses_more() -> None:
    async def main() -> None:
        async with Held() as held:
            waiting = await held.recommend("item-1")
            stop = await held.submit(held.thread.stop(60.0))
            with pytest.raises(UnavailableError, match="stopping"):
                await held.thread.recommend(RecommendRequest(("item-2",), "ann"), arrival_s=0.0)
            held.gate.open.set()
            await stop
            assert (await waiting).ranking[0].score == 1.0
        assert held.seen() == [["item-1"]]

    asyncio.run(main())


def test_stop_fails_what_its_grace_does_not_cover() -> None:
    async def main() -> None:
        async with Held() as held:
            waiting = await held.recommend("item-1")
            await held.thread.stop(0.0)
            for task in (held.first, waiting):
                with pytest.raises(UnavailableError, match="stopped before"):
                    await task
        assert held.seen() == []

    asyncio.run(main())


def test_before_the_engine_is_there_calls_are_refused() -> None:
    gate = Gate()

    def factory() -> FakeEngine:
        gate(None)
        return FakeEngine()

    async def main() -> None:
        thread = EngineThread(factory, max_queue=1, max_batch=1, clock=Clock())
        thread.start()
        with pytest.raises(UnavailableError, match="starting"):
            await thread.call(lambda engine: engine.stats())
        gate.open.set()
        await asyncio.wrap_future(thread.ready)
        assert (await thread.call(lambda engine: engine.stats())).num_users == 1
        await thread.stop(60.0)

    asyncio.run(main())


def test_factory_that_fails_is_heard_of() -> None:
    def factory() -> FakeEngine:
        raise FileNotFoundError("no weights here")

    async def main() -> None:
        thread = EngineThread(factory, max_queue=1, max_batch=1, clock=Clock())
        thread.start()
        with pytest.raises(FileNotFoundError, match="no weights"):
            await asyncio.wrap_future(thread.ready)
        with pytest.raises(UnavailableError):
            _ = thread.info
        await thread.stop(60.0)

    asyncio.run(main())


def test_stop_before_start_returns() -> None:
    asyncio.run(EngineThread(FakeEngine, max_queue=1, max_batch=1, clock=Clock()).stop(60.0))


@pytest.mark.parametrize(("max_queue", "max_batch"), [(0, 1), (1, 0)])
def test_room_for_nothing_is_refused(max_queue: int, max_batch: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EngineThread(FakeEngine, max_queue=max_queue, max_batch=max_batch, clock=Clock())
