"""Many requests over one stream and catalogues in chunks, through a real channel and an engine to compute by hand."""

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count

import grpc
import pytest
from fake_router import FakeRouter, Gate, ranked
from google.rpc import error_details_pb2

from rcjax.catalog.types import Item
from rcjax.errors import DeadlineExceededError, InvalidRequestError, NotFoundError, RcjaxError, ResourceExhaustedError
from rcjax.request import PutItems, RecommendRequest
from rcjax.serving import codec
from rcjax.serving.client import RecommenderClient
from rcjax.serving.retries import NO_RETRIES
from rcjax.serving.server import Server, running_server
from rcjax.serving.streams import MAX_CHUNKS_UNDER_WAY, MAX_REQUESTS_UNDER_WAY
from rcjax.serving.v1 import rcjax_pb2, rcjax_pb2_grpc


@dataclass
class Running:
    engine: FakeRouter
    client: RecommenderClient
    address: str
    gates: list[Gate] = field(default_factory=list)

    def hold(self, held: object) -> Gate:
        """Has the engine wait in front of this request or write, and of no other."""
        gate = Gate()
        self.gates.append(gate)
        former = self.engine.before

        def before(argument: object) -> None:
            former(argument)
            if argument == held:
                gate()

        self.engine.before = before
        return gate


@pytest.fixture
def running() -> Iterator[Running]:
    engine = FakeRouter(*(f"item-{number}" for number in range(10)))
    with (
        running_server(Server(lambda: engine)) as addresses,
        RecommenderClient(addresses.main, timeout_s=60.0, retry=NO_RETRIES) as client,
    ):
        running = Running(engine, client, addresses.main)
        yield running
        for gate in running.gates:
            gate.open.set()


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """For what is nobody's fault and no news."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def ask(*numbers: int, user: str = "ann") -> RecommendRequest:
    return RecommendRequest(tuple(f"item-{number}" for number in numbers), user)


def test_answers_come_as_they_are_there_each_with_its_number(running: Running) -> None:
    gate = running.hold(ask(1))
    asks = [ask(1), ask(2, 3), ask(4, 5, 6)]
    answers = running.client.recommend_stream(asks)
    first_two = [next(answers), next(answers)]
    assert sorted(answer.index for answer in first_two) == [1, 2]
    gate.open.set()
    last = next(answers)
    assert last.index == 0
    assert next(answers, None) is None
    for answer in (*first_two, last):
        assert answer.outcome == ranked(asks[answer.index])


def test_a_bad_request_is_answered_alone(running: Running) -> None:
    def broken(asked: object) -> None:
        if asked == ask(7):
            raise ZeroDivisionError("the secret of ann")
        if asked == ask(8):
            raise ResourceExhaustedError("full", retry_after_s=2.5)

    running.engine.before = broken
    answers = {
        answer.index: answer.outcome
        for answer in running.client.recommend_stream([ask(1), ask(99), ask(1, user="nobody"), ask(7), ask(8), ask(2)])
    }
    assert answers[0] == ranked(ask(1))
    assert answers[5] == ranked(ask(2))
    assert isinstance(answers[1], NotFoundError)
    assert answers[1].field == "candidates[0].item_id"
    assert isinstance(answers[2], NotFoundError)
    assert type(answers[3]) is RcjaxError
    assert "secret" not in answers[3].message
    assert isinstance(answers[4], ResourceExhaustedError)
    assert answers[4].retry_after_s == 2.5


def raw_stream(address: str, messages: list[bytes]) -> list[rcjax_pb2.RecommendStreamResponse]:
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_stream(
            "/rcjax.v1.Recommender/RecommendStream",
            request_serializer=lambda raw: raw,
            response_deserializer=rcjax_pb2.RecommendStreamResponse.FromString,
        )
        return sorted(call(iter(messages), timeout=60), key=lambda answer: answer.index)


def test_names_and_details_come_back_and_what_does_not_parse_harms_no_other(running: Running) -> None:
    good = rcjax_pb2.RecommendStreamRequest(request_id="a", request=codec.request_to_message(ask(1)))
    unknown = rcjax_pb2.RecommendStreamRequest(request_id="b", request=codec.request_to_message(ask(99)))
    answers = raw_stream(
        running.address, [good.SerializeToString(), b"\xff", unknown.SerializeToString(), good.SerializeToString()]
    )
    assert [answer.request_id for answer in answers] == ["a", "", "b", "a"]
    assert [answer.WhichOneof("outcome") for answer in answers] == ["response", "error", "error", "response"]
    assert answers[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "not a valid rcjax.v1.RecommendStreamRequest" in answers[1].error.message
    info, resource = error_details_pb2.ErrorInfo(), error_details_pb2.ResourceInfo()
    assert answers[2].error.details[0].Unpack(info)
    assert answers[2].error.details[1].Unpack(resource)
    assert (info.domain, info.reason, resource.resource_name) == ("rcjax", "NOT_FOUND", "item-99")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"request_id": "ü" * 200}, "request_id has 400 bytes, over the limit of 256"),
        ({"timeout_s": -1.0}, "timeout_s is -1.0"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
    ],
)
def test_bad_fields_of_an_entry_are_named(running: Running, changed: dict[str, object], named: str) -> None:
    message = rcjax_pb2.RecommendStreamRequest(request=codec.request_to_message(ask(1)), **changed)
    (answer,) = raw_stream(running.address, [message.SerializeToString()])
    assert named in answer.error.message
    assert running.engine.calls == []


def test_an_entrys_own_time_is_its_deadline(running: Running) -> None:
    message = rcjax_pb2.RecommendStreamRequest(request=codec.request_to_message(ask(1)), timeout_s=5.0)
    raw_stream(running.address, [message.SerializeToString()])  # whose stream has 60 s
    (arrival_s,), (deadline_s,) = running.engine.arrivals_s, running.engine.deadlines_s
    assert deadline_s == arrival_s + 5.0


def until_quiet(values: list[object], wanted: int) -> None:
    """Waits until a list has as many values as wanted, and then for any that should not come."""
    for _ in range(600):
        if len(values) >= wanted:
            break
        threading.Event().wait(0.1)
    threading.Event().wait(0.3)


def test_the_server_reads_no_further_than_its_bound(running: Running) -> None:
    gate = Gate()
    running.gates.append(gate)
    running.engine.before = gate
    answers = running.client.recommend_stream(ask(number % 10) for number in range(3 * MAX_REQUESTS_UNDER_WAY))
    reader = threading.Thread(target=lambda: list(answers))
    reader.start()
    until_quiet(running.engine.calls, MAX_REQUESTS_UNDER_WAY)
    assert len(running.engine.calls) == MAX_REQUESTS_UNDER_WAY
    gate.open.set()
    reader.join(60)
    assert len(running.engine.calls) == 3 * MAX_REQUESTS_UNDER_WAY


def test_a_reader_who_does_not_read_is_not_worked_for(running: Running, quiet_log: None) -> None:
    """What the connection takes is a few hundred kB; the answers of all of these would be some 40 MB."""
    big = RecommendRequest(tuple(Item(f"{'x' * 4000}-{number}", "T") for number in range(5)), "ann")
    num_asked = 2000
    answers = running.client.recommend_stream(big for _ in range(num_asked))
    next(answers)
    until_quiet(running.engine.calls, 1)
    seen = -1
    while seen < len(running.engine.calls):  # until it stands still
        seen = len(running.engine.calls)
        threading.Event().wait(0.5)
    assert seen < num_asked / 2
    answers.close()


def test_a_client_that_vanishes_takes_its_requests_along(running: Running, quiet_log: None) -> None:
    gate = running.hold(ask(3))
    channel = grpc.insecure_channel(running.address)
    never_ends = threading.Event()

    def asks() -> Iterator[rcjax_pb2.RecommendStreamRequest]:
        yield rcjax_pb2.RecommendStreamRequest(request=codec.request_to_message(ask(3)))
        never_ends.wait(60)

    stream = rcjax_pb2_grpc.RecommenderStub(channel).RecommendStream(asks())
    assert gate.entered.wait(60)
    channel.close()
    assert running.engine.was_cancelled.wait(60)
    never_ends.set()
    del stream
    assert running.client.recommend(ask(1)) == ranked(ask(1))


def test_the_streams_deadline_ends_it(running: Running) -> None:
    gate = running.hold(ask(3))
    with grpc.insecure_channel(running.address) as channel:
        message = rcjax_pb2.RecommendStreamRequest(request=codec.request_to_message(ask(3)))
        stream = rcjax_pb2_grpc.RecommenderStub(channel).RecommendStream(iter([message]), timeout=0.3)
        with pytest.raises(grpc.RpcError) as caught:
            next(stream)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert gate.entered.is_set()
    assert running.engine.was_cancelled.wait(60)


def test_what_the_sender_cannot_send_is_raised_to_them(running: Running) -> None:
    bad = RecommendRequest(("\ud800",), "ann")
    with pytest.raises(InvalidRequestError, match=r"candidates\[0\].item_id has \\ud800"):
        list(running.client.recommend_stream([ask(1), bad]))


# ---- catalogues


def items(*numbers: int) -> tuple[Item, ...]:
    return tuple(Item(f"item-{number}", f"No. {number}") for number in numbers)


def test_a_catalogue_goes_in_chunk_by_chunk(running: Running) -> None:
    progress = list(running.client.put_items_stream(items(*range(8, 15)), chunk_items=3))
    assert [(one.chunk_index, one.num_built, one.num_items, one.num_failed) for one in progress] == [
        (0, 1, 3, 0),  # the engine has items 0 to 9
        (1, 3, 6, 0),
        (2, 1, 7, 0),
    ]
    assert all(one.error is None for one in progress)
    assert running.engine.calls == [PutItems(items(8, 9, 10)), PutItems(items(11, 12, 13)), PutItems(items(14))]
    assert list(running.client.put_items_stream([])) == []


def test_a_chunk_that_fails_is_named_and_the_others_are_in_in_order(running: Running) -> None:
    def refuse(write: object) -> None:
        if write == PutItems(items(12, 13)):
            raise InvalidRequestError("items[1].title is bad", field="items[1].title")

    running.engine.before = refuse
    first = running.hold(PutItems(items(10, 11)))  # the others are done before it, and answered after it
    with ThreadPoolExecutor(1) as reader:
        progress = reader.submit(lambda: list(running.client.put_items_stream(items(*range(10, 16)), chunk_items=2)))
        assert first.entered.wait(60)
        until_quiet(running.engine.calls, 3)
        first.open.set()
        found = progress.result()
    assert [(one.chunk_index, one.num_items, one.num_failed) for one in found] == [(0, 2, 0), (1, 2, 2), (2, 4, 2)]
    assert found[1].error.field == "items[1].title"
    assert {item_id for item_id in running.engine.items if int(item_id[5:]) >= 10} == {
        f"item-{number}" for number in (10, 11, 14, 15)
    }


def test_chunks_are_read_at_the_pace_of_building(running: Running) -> None:
    gate = Gate()
    running.gates.append(gate)
    running.engine.before = gate
    read = count()
    num_read = 0

    def catalogue() -> Iterator[Item]:
        nonlocal num_read
        for number in range(10, 10_000):
            num_read = next(read) + 1
            yield Item(f"item-{number}", "x" * 10_000)

    progress = running.client.put_items_stream(catalogue(), chunk_items=10)
    reader = threading.Thread(target=lambda: next(progress))
    reader.start()
    until_quiet(running.engine.calls, MAX_CHUNKS_UNDER_WAY)
    assert len(running.engine.calls) == MAX_CHUNKS_UNDER_WAY
    assert num_read < 5_000  # the rest is what the connection holds
    gate.open.set()
    reader.join(60)
    progress.close()


def test_a_chunk_deadline_is_the_streams(running: Running) -> None:
    with grpc.insecure_channel(running.address) as channel:
        chunk = rcjax_pb2.PutItemsStreamRequest(items=[rcjax_pb2.Item(item_id="item-1", title="T")])
        list(rcjax_pb2_grpc.CatalogStub(channel).PutItemsStream(iter([chunk]), timeout=60))
    (deadline_s,) = running.engine.deadlines_s
    assert deadline_s is not None


def test_deadline_error_of_an_entry_has_its_type(running: Running) -> None:
    def late(asked: object) -> None:
        raise DeadlineExceededError("too late")

    running.engine.before = late
    (answer,) = running.client.recommend_stream([ask(1)])
    assert isinstance(answer.outcome, DeadlineExceededError)
