"""Generation between slices and a caller, all to compute by hand: pieces as they come, and what ends them."""

import asyncio
from concurrent.futures import Future
from contextlib import aclosing

import pytest
from fake_router import FakeRouter, Gate
from fake_slice import Slices
from generation_kit import joined, until

from rcjax.errors import DeadlineExceededError, UnavailableError
from rcjax.request import GeneratedPiece, GenerateRequest, GenerateResult, TokenCounts
from rcjax.serving.client import RecommenderClient
from rcjax.serving.generations import Generation
from rcjax.serving.server import Server, running_server


async def collected(slices: Slices, request: GenerateRequest, **asked: float) -> list[GeneratedPiece | GenerateResult]:
    return [part async for part in slices.router.generate(request, **asked)]


def test_pieces_come_one_by_one_and_the_times_are_the_clocks():
    gates = {f"token {number}": Gate() for number in (1, 2, 3)}

    async def main() -> None:
        with Slices() as slices:
            slices.worker.before = lambda name: gates[name]() if name in gates else None
            async with aclosing(
                slices.router.generate(GenerateRequest("x", 3), arrival_s=999.0, deadline_s=1e6)
            ) as parts:
                for number, text in ((1, "a"), (2, "b"), (3, "c")):
                    slices.clock.now_s += 2.0
                    gates[f"token {number}"].open.set()
                    assert await anext(parts) == GeneratedPiece((number,), text)
                end = await anext(parts)
                assert end == GenerateResult(3, False, TokenCounts(cached=7), 3000.0, 7000.0)
                with pytest.raises(StopAsyncIteration):
                    await anext(parts)
            assert slices.worker.deadlines_s == [1e6]
            assert slices.library.versions.alive == {}
            stats = slices.router.current_stats()
            assert (stats.num_requests, stats.num_failed) == (1, 0)

    asyncio.run(main())


def test_it_counts_as_complete_where_fewer_tokens_came_than_asked_for():
    with Slices() as slices:
        *_, end = asyncio.run(collected(slices, GenerateRequest("x", 4)))
    assert end.is_complete


def test_a_deadline_that_passed_is_told_before_a_slice_has_it():
    with Slices() as slices:
        with pytest.raises(DeadlineExceededError):
            asyncio.run(collected(slices, GenerateRequest("x"), deadline_s=999.0))
        assert slices.worker.seen == []


def test_a_slice_that_dies_before_the_first_token_is_replaced():
    async def main() -> None:
        with Slices(2) as slices:
            first = [True]

            def die_once(name: str) -> None:
                if first and name == "generate":
                    first.pop()
                    raise UnavailableError("the slice is lost")

            for worker in slices.workers:
                worker.before = die_once
            token_ids, text, end = joined(await collected(slices, GenerateRequest("x", 3)))
            assert (token_ids, text) == ([1, 2, 3], "abc")
            states = [one.state for one in slices.router.current_stats().slices]
            assert states[end.slice_index] == "open"
            assert states[1 - end.slice_index] == "dead"
            assert slices.library.versions.alive == {}

    asyncio.run(main())


def test_a_slice_that_dies_later_ends_it():
    async def main() -> None:
        with Slices(2) as slices:

            def die(name: str) -> None:
                if name == "token 3":
                    raise UnavailableError("the slice is lost")

            for worker in slices.workers:
                worker.before = die
            found = []

            async def read() -> None:
                async for part in slices.router.generate(GenerateRequest("x", 3)):
                    found.append(part)

            with pytest.raises(UnavailableError, match="died in the middle"):
                await read()
            assert [one for part in found for one in part.token_ids] == [1, 2]
            assert sorted(one.state for one in slices.router.current_stats().slices) == ["dead", "open"]
            assert slices.library.versions.alive == {}

    asyncio.run(main())


def test_what_a_slice_tells_that_has_it_no_longer_counts_for_nothing():
    async def main() -> None:
        generation = Generation(GenerateRequest("x"), lambda: 5.0)
        listeners = []

        class Worker:
            def generate(self, source, sampling, *, deadline_s, listener) -> Future[list[int]]:
                listeners.append(listener)
                return Future()

        class Plan:
            source = sampling = None

        generation.submit(Worker(), 0, Plan(), None)
        generation.submit(Worker(), 1, Plan(), None)
        listeners[0].on_token(66)
        assert not generation.has_tokens
        listeners[1].on_token(1)
        listeners[0].on_token(66)
        future: Future[list[int]] = Future()
        async with aclosing(generation.read(future, 4.0, lambda ids: str(list(ids)))) as parts:
            assert (await anext(parts)).token_ids == (1,)
            future.set_result([1])
            end = await anext(parts)
        assert (end.slice_index, end.ttft_ms) == (1, 1000.0)

    asyncio.run(main())


# ---- through the service, from an engine to compute by hand


def test_a_cancelled_call_closes_the_engines_generator():
    engine, gate = FakeRouter(), Gate()
    engine.before = lambda asked: gate() if asked == "B" else None
    with running_server(Server(lambda: engine)) as addresses, RecommenderClient(addresses.main) as client:
        pieces = client.generate(GenerateRequest("abc"))
        assert next(pieces) == GeneratedPiece((65,), "A")
        assert gate.entered.wait(60)
        pieces.close()
        until(lambda: engine.num_ended == 1)
        gate.open.set()


def test_an_error_after_some_pieces_has_its_type():
    engine = FakeRouter()

    def fail(asked: object) -> None:
        if asked == "C":
            raise DeadlineExceededError("no more time", field="max_new_tokens")

    engine.before = fail
    with running_server(Server(lambda: engine)) as addresses, RecommenderClient(addresses.main) as client:
        pieces = client.generate(GenerateRequest("abc"))
        assert [next(pieces).text, next(pieces).text] == ["A", "B"]
        with pytest.raises(DeadlineExceededError, match="no more time") as caught:
            next(pieces)
    assert caught.value.field == "max_new_tokens"
