"""When clients ask again: against a real server that refuses first, with a clock and sleeps that the test turns."""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from fake_router import FakeRouter, ranked

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    RcjaxError,
    ResourceExhaustedError,
    UnavailableError,
)
from rcjax.request import GeneratedPiece, GenerateRequest, GenerateResult, RecommendRequest
from rcjax.serving.async_client import AsyncRecommenderClient
from rcjax.serving.client import RecommenderClient
from rcjax.serving.retries import RetryPolicy
from rcjax.serving.server import Server, running_server
from rcjax.serving.v1 import rcjax_pb2_grpc

ASK = RecommendRequest(("item-1", "item-2"), "ann")


class Clock:
    """Seconds that pass when somebody sleeps; `slept_s` has how long."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


def policy(clock: Clock, **changed: Any) -> RetryPolicy:
    return RetryPolicy(rng=random.Random(0), clock=clock, **changed)


# ---- the policy


def pauses(error: RcjaxError, num: int, seed: int = 0, **changed: Any) -> list[float | None]:
    tries = RetryPolicy(max_tries=num, rng=random.Random(seed), clock=lambda: 0.0, **changed).begin(1e9)
    return [tries.next_pause_s(error) for _ in range(num)]


def test_pauses_are_drawn_from_windows_that_double() -> None:
    many = [pauses(UnavailableError("down"), 6, seed, first_pause_s=0.1, max_pause_s=1.0) for seed in range(2000)]
    for attempt, window_s in enumerate([0.1, 0.2, 0.4, 0.8, 1.0]):
        drawn = sorted(one[attempt] for one in many)
        assert 0 <= drawn[0] < 0.01 * window_s  # full jitter: from nothing
        assert 0.99 * window_s < drawn[-1] <= window_s
        assert sum(drawn) / len(drawn) == pytest.approx(window_s / 2, rel=0.05)
    assert all(one[5] is None for one in many)


def test_the_servers_word_is_kept_to_and_spread_by_as_much_again() -> None:
    many = [pauses(ResourceExhaustedError("full", retry_after_s=3.0), 2, seed)[0] for seed in range(2000)]
    assert 3.0 <= min(many) < 3.05
    assert 5.95 < max(many) <= 6.0


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("bad"),
        NotFoundError("who"),
        DeadlineExceededError("late"),
        RcjaxError("broken"),
        ResourceExhaustedError("larger than max"),  # gRPC's own, without a RetryInfo
    ],
)
def test_what_cannot_succeed_later_is_not_tried_again(error: RcjaxError) -> None:
    assert pauses(error, 4) == [None] * 4


def test_no_pause_goes_past_the_deadline() -> None:
    clock = Clock()
    tries = policy(clock).begin(2.0)
    assert tries.next_pause_s(ResourceExhaustedError("full", retry_after_s=2.0)) is None
    pause_s = tries.next_pause_s(ResourceExhaustedError("full", retry_after_s=0.5))
    assert pause_s is not None
    assert pause_s < 2.0
    clock.sleep(1.75)
    assert tries.remaining_s() == 0.25
    clock.sleep(10.0)
    assert tries.remaining_s() == 0.0


@pytest.mark.parametrize("wrong", [{"max_tries": 0}, {"first_pause_s": -1.0}, {"max_pause_s": -1.0}])
def test_a_policy_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)


# ---- clients


@dataclass
class Refusing:
    """An engine that raises the errors it is given, one a call, and then answers; both kinds of client to it."""

    engine: FakeRouter
    address: str
    admin: str
    clock: Clock = field(default_factory=Clock)
    errors: list[RcjaxError] = field(default_factory=list)

    def __post_init__(self) -> None:
        def before(asked: object) -> None:
            if self.errors:
                raise self.errors.pop(0)

        self.engine.before = before

    def sync(self, call: Callable[[RecommenderClient], Any], **options: Any) -> Any:
        options = {"retry": policy(self.clock), "sleep": self.clock.sleep, "timeout_s": 60.0} | options
        with RecommenderClient(self.address, self.admin, **options) as client:
            return call(client)

    def asynchronous(self, call: Callable[[AsyncRecommenderClient], Any], **options: Any) -> Any:
        options = {"retry": policy(self.clock), "sleep": self.clock.sleep_async, "timeout_s": 60.0} | options

        async def main() -> Any:
            async with AsyncRecommenderClient(self.address, self.admin, **options) as client:
                return await call(client)

        return asyncio.run(main())


@pytest.fixture
def refusing() -> Iterator[Refusing]:
    engine = FakeRouter("item-1", "item-2")
    with running_server(Server(lambda: engine)) as addresses:
        yield Refusing(engine, addresses.main, addresses.admin)


FORMS = pytest.mark.parametrize("form", ["sync", "asynchronous"])


def full(*after_s: float) -> list[RcjaxError]:
    return [ResourceExhaustedError("full", retry_after_s=one) for one in after_s]


@FORMS
def test_a_refused_call_is_made_again_when_the_server_said(refusing: Refusing, form: str) -> None:
    refusing.errors = [*full(2.0), UnavailableError("starting"), *full(0.5)]
    assert getattr(refusing, form)(lambda client: client.recommend(ASK)) == ranked(ASK)
    first, second, third = refusing.clock.slept_s
    assert 2.0 <= first <= 4.0
    assert 0.0 <= second <= 0.2
    assert 0.5 <= third <= 1.0
    assert len(refusing.engine.calls) == 4


@FORMS
def test_the_last_refusal_is_raised_as_it_is(refusing: Refusing, form: str) -> None:
    refusing.errors = full(1.0, 1.0, 1.0, 7.25)
    with pytest.raises(ResourceExhaustedError, match="full") as caught:
        getattr(refusing, form)(lambda client: client.recommend(ASK))
    assert caught.value.retry_after_s == 7.25
    assert len(refusing.engine.calls) == 4


@FORMS
def test_the_deadline_is_of_all_tries_together(refusing: Refusing, form: str) -> None:
    refusing.errors = full(4.0, 4.0, 4.0)
    with pytest.raises(ResourceExhaustedError):
        getattr(refusing, form)(lambda client: client.recommend(ASK), timeout_s=10.0)
    assert 4.0 <= sum(refusing.clock.slept_s) < 10.0
    assert len(refusing.engine.calls) == 1 + len(refusing.clock.slept_s) < 4


@FORMS
def test_events_are_never_appended_twice(refusing: Refusing, form: str) -> None:
    refusing.errors = full(1.0)
    with pytest.raises(ResourceExhaustedError):
        getattr(refusing, form)(lambda client: client.append_events("ann", [Event("item-1", "One")]))
    assert (len(refusing.engine.calls), refusing.clock.slept_s) == (1, [])


WRITES: list[Callable[[Any], Any]] = [
    lambda client: client.put_items([Item("item-3", "Three")]),
    lambda client: client.delete_items(["item-1"]),
    lambda client: client.put_user(User("bob")),
    lambda client: client.delete_user("ann"),
]


@FORMS
@pytest.mark.parametrize("write", WRITES)
def test_other_writes_are(refusing: Refusing, form: str, write: Callable[[Any], Any]) -> None:
    refusing.errors = full(1.0)
    getattr(refusing, form)(write)
    assert len(refusing.engine.calls) == 2
    assert refusing.engine.calls[0] == refusing.engine.calls[1]


@FORMS
def test_a_bad_request_is_made_once(refusing: Refusing, form: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        getattr(refusing, form)(lambda client: client.recommend(RecommendRequest(("item-9",), "ann")))
    assert caught.value.field == "candidates[0].item_id"
    assert (len(refusing.engine.calls), refusing.clock.slept_s) == (1, [])


@FORMS
def test_nobody_who_listens_is_tried_again(form: str) -> None:
    clock = Clock()
    nowhere = Refusing(FakeRouter(), "127.0.0.1:1", "127.0.0.1:1", clock)
    with pytest.raises(UnavailableError):
        getattr(nowhere, form)(lambda client: client.stats())
    assert len(clock.slept_s) == 3


@FORMS
def test_a_generation_is_begun_again_only_before_its_first_piece(refusing: Refusing, form: str) -> None:
    async def collected(pieces: Any) -> list[Any]:
        return [piece async for piece in pieces]

    def generate(client: Any) -> Any:
        pieces = client.generate(GenerateRequest("abc", max_new_tokens=8))
        return list(pieces) if isinstance(client, RecommenderClient) else collected(pieces)

    refusing.errors = full(1.0, 1.0)
    found = getattr(refusing, form)(generate)
    assert [piece.text for piece in found[:-1]] == ["A", "B", "C"]
    assert isinstance(found[-1], GenerateResult)
    assert len(refusing.clock.slept_s) == 2

    def break_off(asked: object) -> None:
        if asked == "B":
            raise UnavailableError("the slice died")

    refusing.engine.before = break_off
    with pytest.raises(UnavailableError, match="the slice died"):
        getattr(refusing, form)(generate)
    assert len(refusing.clock.slept_s) == 2


class LyingServer(rcjax_pb2_grpc.RecommenderServicer):
    """Answers RESOURCE_EXHAUSTED as gRPC itself does of a message that is too large: without details."""

    def __init__(self) -> None:
        self.num_calls = 0

    async def Recommend(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.num_calls += 1
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max")


def test_what_is_too_large_is_not_sent_again() -> None:
    async def main() -> None:
        server, servicer, clock = grpc.aio.server(), LyingServer(), Clock()
        rcjax_pb2_grpc.add_RecommenderServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        client = AsyncRecommenderClient(f"127.0.0.1:{port}", retry=policy(clock), sleep=clock.sleep_async)
        async with client:
            with pytest.raises(ResourceExhaustedError, match="larger than max"):
                await client.recommend(ASK)
        await server.stop(None)
        assert (servicer.num_calls, clock.slept_s) == (1, [])

    asyncio.run(main())


# ---- the asyncio form does what the other does


def test_every_call_of_one_form_is_one_of_the_other() -> None:
    def calls(client: type) -> set[str]:
        return {name for name in vars(client) if not name.startswith("_")}

    assert calls(RecommenderClient) == calls(AsyncRecommenderClient)


def test_the_asyncio_client_against_a_server(refusing: Refusing) -> None:
    async def use(client: AsyncRecommenderClient) -> None:
        await client.wait_ready(60.0)
        assert await client.put_items([Item("item-3", "Three")]) == 1
        await client.put_user(User("bob"))
        await client.append_events("bob", [Event("item-1", "One")])
        assert (await client.info()).model == "fake"
        assert (await client.stats()).num_items == 3
        asks = [RecommendRequest(("item-1", f"item-{number}"), "bob") for number in (2, 3, 9)]
        answers = {answer.index: answer.outcome async for answer in client.recommend_stream(asks)}
        assert answers[0] == ranked(asks[0])
        assert answers[1] == ranked(asks[1])
        assert isinstance(answers[2], NotFoundError)
        progress = [
            one async for one in client.put_items_stream([Item("item-4", "4"), Item("item-5", "5")], chunk_items=1)
        ]
        assert [(one.chunk_index, one.num_items) for one in progress] == [(0, 1), (1, 2)]
        pieces = [piece async for piece in client.generate(GenerateRequest("xy"))]
        assert pieces[:2] == [GeneratedPiece((88,), "X"), GeneratedPiece((89,), "Y")]
        assert await client.delete_items(["item-4", "item-9"]) == 1
        assert await client.delete_user("bob")

    refusing.asynchronous(use)


def test_what_cannot_be_sent_is_raised_by_the_asyncio_client(refusing: Refusing) -> None:
    async def use(client: AsyncRecommenderClient) -> None:
        with pytest.raises(InvalidRequestError, match=r"\\ud800"):
            async for _ in client.recommend_stream([ASK, RecommendRequest(("\ud800",), "ann")]):
                pass
        with pytest.raises(ValueError, match="admin_target"):
            async with AsyncRecommenderClient(refusing.address) as without:
                await without.stats()

    refusing.asynchronous(use)


def test_a_cancelled_await_is_cancelled_at_the_server(refusing: Refusing) -> None:
    async def use(client: AsyncRecommenderClient) -> None:
        loop, entered = asyncio.get_running_loop(), asyncio.Event()
        release = refusing.engine.was_cancelled

        def hold(asked: object) -> None:
            loop.call_soon_threadsafe(entered.set)
            assert release.wait(60)

        refusing.engine.before = hold
        call = asyncio.create_task(client.recommend(ASK))
        await entered.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await asyncio.to_thread(refusing.engine.was_cancelled.wait, 60)

    refusing.asynchronous(use)
