"""Every RPC through a real channel: what comes back, and how bad input is answered."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from fake_router import INFO, FakeRouter
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    RcjaxError,
    ResourceExhaustedError,
    UnavailableError,
)
from rcjax.request import (
    AppendEvents,
    DeleteItems,
    DeleteUser,
    EngineStats,
    PutItems,
    PutUser,
    RankedItem,
    RecommendRequest,
    StageTimes,
    TokenCounts,
)
from rcjax.serving.client import RecommenderClient
from rcjax.serving.retries import NO_RETRIES
from rcjax.serving.sendable import MAX_MESSAGE_BYTES
from rcjax.serving.server import Server, running_server
from rcjax.serving.v1 import rcjax_pb2


@dataclass
class Running:
    engine: FakeRouter
    client: RecommenderClient
    channel: grpc.Channel

    def send_bytes(self, method: str, data: bytes) -> grpc.RpcError:
        """The error that the server answers `data` with."""
        call = self.channel.unary_unary(f"/rcjax.v1.{method}", request_serializer=lambda raw: raw)
        with pytest.raises(grpc.RpcError) as caught:
            call(data, timeout=60)
        return caught.value


@pytest.fixture
def running() -> Iterator[Running]:
    engine = FakeRouter("item-1", "item-2", "item-3")
    server = Server(lambda: engine, clock=lambda: 1000.0)
    with (
        running_server(server) as addresses,
        RecommenderClient(addresses.main, addresses.admin, timeout_s=60.0, retry=NO_RETRIES) as client,
        grpc.insecure_channel(addresses.main) as channel,
    ):
        yield Running(engine, client, channel)


GOOD = RecommendRequest(candidates=("item-1", "item-3", "item-2"), user_id="ann")


def test_recommend_ranks_best_first(running: Running) -> None:
    result = running.client.recommend(GOOD)
    assert result.ranking == (RankedItem("item-3", 3.0, 1), RankedItem("item-2", 2.0, 2), RankedItem("item-1", 1.0, 3))
    assert result.tokens == TokenCounts(cached=100, fresh=6)
    assert result.times == StageTimes(plan_ms=1.0, build_ms=2.0, extend_ms=3.0, readout_ms=4.0)
    assert result.arm == "blocks"
    assert running.engine.calls == [GOOD]


def test_recommend_with_everything_given_inline(running: Running) -> None:
    item = Item("new-8", "Eight", "d", "b", ("c", "d"), 0.0)
    request = RecommendRequest((item, "item-1"), history=(Event("x", "X", "t", 4.5, 7),), top_k=1, arm="full")
    result = running.client.recommend(request)
    assert (result.ranking, result.arm) == ((RankedItem("new-8", 8.0, 1),), "full")
    empty = RecommendRequest(("item-1",), history=())
    running.client.recommend(empty)
    assert running.engine.calls == [request, empty]


def test_writes_reach_the_engine_and_later_requests_see_them(running: Running) -> None:
    client = running.client
    nine, events = Item("item-9", "Nine", price=1.5), (Event("item-1", "One"), Event("item-2", "Two"))
    assert client.put_items([nine, Item("item-1", "No. 1")]) == 1
    client.put_user(User("bob", events[:1]))
    client.append_events("bob", events[1:])
    assert client.recommend(RecommendRequest(("item-1", "item-9"), "bob")).ranking[0].item_id == "item-9"
    assert client.delete_items(["item-9", "item-none"]) == 1
    assert (client.delete_user("bob"), client.delete_user("bob")) == (True, False)
    assert running.engine.calls == [
        PutItems((nine, Item("item-1", "No. 1"))),
        PutUser(User("bob", events[:1])),
        AppendEvents("bob", events[1:]),
        RecommendRequest(("item-1", "item-9"), "bob"),
        DeleteItems(("item-9", "item-none")),
        DeleteUser("bob"),
        DeleteUser("bob"),
    ]


def test_the_engine_hears_when_a_call_came_and_until_when_its_caller_waits(running: Running) -> None:
    running.client.recommend(GOOD)
    running.client.delete_user("ann")
    assert running.engine.arrivals_s == [1000.0]
    for deadline_s in running.engine.deadlines_s:
        assert deadline_s is not None
        assert 1000.0 < deadline_s < 1061.0  # gRPC rounds up


def test_info_and_stats(running: Running) -> None:
    assert running.client.info() == INFO
    tokens = TokenCounts(1, 2, 3, 4)
    assert running.client.stats() == EngineStats(num_items=3, num_users=1, tokens=tokens, pool_bytes=2**40)


def test_admin_needs_its_address_and_is_not_on_the_main_port(running: Running) -> None:
    with RecommenderClient("127.0.0.1:1") as client, pytest.raises(ValueError, match="admin_target"):
        client.info()
    assert running.send_bytes("Admin/Info", b"").code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("candidates is empty", field="candidates"),
        NotFoundError("unknown user 'eve'", field="user_id"),
        ResourceExhaustedError("2 calls are under way"),
        DeadlineExceededError("the deadline passed"),
        UnavailableError("the server is stopping"),
        RcjaxError("internal error"),
    ],
)
def test_what_the_engine_raises_the_client_raises(running: Running, error: RcjaxError) -> None:
    def refuse(_: Any) -> None:
        raise error

    running.engine.before = refuse
    for call in (lambda: running.client.recommend(GOOD), lambda: running.client.put_user(User("bob"))):
        with pytest.raises(RcjaxError) as caught:
            call()
        assert (type(caught.value), caught.value.message, caught.value.field) == (
            type(error),
            error.message,
            error.field,
        )


def test_candidate_that_is_neither_id_nor_item(running: Running) -> None:
    message = rcjax_pb2.RecommendRequest(user_id="ann", candidates=[rcjax_pb2.Candidate()])
    error = running.send_bytes("Recommender/Recommend", message.SerializeToString())
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert violated_field(error) == "candidates[0]"


def violated_field(error: grpc.RpcError) -> str:
    bad_request = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad_request) for detail in rpc_status.from_call(error).details)
    return bad_request.field_violations[0].field


def test_a_message_over_32_mib_is_refused_by_grpc_itself(running: Running) -> None:
    """With the code that means "retry" elsewhere, which is not ours to choose: the client refuses to send one."""
    message = rcjax_pb2.DeleteUserRequest(user_id="x" * MAX_MESSAGE_BYTES)
    error = running.send_bytes("Catalog/DeleteUser", message.SerializeToString())
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in error.details()
    with pytest.raises(InvalidRequestError, match="send it in parts"):
        running.client.delete_user("x" * MAX_MESSAGE_BYTES)
    assert running.engine.calls == []
    assert running.client.delete_user("x" * 2**20) is False


@pytest.mark.parametrize(
    ("method", "data", "field"),
    [
        ("Recommender/Recommend", b"\x0a\x03ann\x12\x06\x0a\x04caf\xe9", "candidates[0].item_id"),
        ("Catalog/PutItems", b"\x0a\x0b\x0a\x01a\x12\x01T\x1a\x03\xff\xfe\xfd", "items[0].description"),
        ("Catalog/DeleteUser", b"\x0a\x01\x80", "user_id"),
        ("Catalog/DeleteUser", b"\x0a\x03\xed\xa0\xbd", "user_id"),  # half a surrogate pair
        ("Catalog/DeleteUser", b"\x0a\x09short", ""),
    ],
)
def test_bytes_that_do_not_parse_are_invalid_arguments(running: Running, method: str, data: bytes, field: str) -> None:
    error = running.send_bytes(method, data)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert violated_field(error) == field
    assert running.engine.calls == []


def test_long_message_of_the_engine_arrives_shortened(running: Running) -> None:
    def refuse(_: Any) -> None:
        raise InvalidRequestError("é" * 5000, field="items[0].title")

    running.engine.before = refuse
    with pytest.raises(InvalidRequestError, match=r"é{500}") as caught:
        running.client.put_items([Item("a", "A")])
    assert caught.value.field == "items[0].title"


def test_bad_requests_among_concurrent_good_ones_harm_none(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    def break_on_item_3(request: Any) -> None:
        if "item-3" in request.candidates:
            raise ZeroDivisionError("the engine's own business")

    running.engine.before = break_on_item_3
    wanted = {"item-1": 1.0, "item-2": 2.0, "item-3": RcjaxError, "item-4": NotFoundError}

    def outcome(item_id: str) -> object:
        try:
            return running.client.recommend(RecommendRequest((item_id,), "ann")).ranking[0].score
        except RcjaxError as error:
            return type(error)

    sent = list(wanted) * 8
    with caplog.at_level(logging.CRITICAL, "rcjax"), ThreadPoolExecutor(len(sent)) as pool:
        assert list(pool.map(outcome, sent)) == [wanted[item_id] for item_id in sent]


def test_unexpected_error_of_the_service_is_internal_and_logged(
    running: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rcjax.serving.codec.user_from_message", None)  # not callable: a bug in the service
    with pytest.raises(RcjaxError, match="internal error") as caught:
        running.client.put_user(User("ann"))
    assert type(caught.value) is RcjaxError
    assert "Traceback" in caplog.text
