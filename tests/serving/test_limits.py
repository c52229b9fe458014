"""The limits of a connection, as a client meets them."""

import threading
from dataclasses import replace

import grpc
import pytest
from fake_router import INFO, FakeRouter, Gate

from rcjax.config import Limits
from rcjax.request import ServiceLimits
from rcjax.serving.client import RecommenderClient
from rcjax.serving.server import Server, running_server
from rcjax.serving.v1 import rcjax_pb2, rcjax_pb2_grpc


def test_a_message_over_the_limit_of_the_settings_is_refused_and_one_below_is_not() -> None:
    with (
        running_server(Server(FakeRouter, limits=Limits(max_message_bytes=100_000))) as addresses,
        grpc.insecure_channel(addresses.main) as channel,
    ):
        stub = rcjax_pb2_grpc.CatalogStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.DeleteUser(rcjax_pb2.DeleteUserRequest(user_id="x" * 100_000), timeout=60)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not stub.DeleteUser(rcjax_pb2.DeleteUserRequest(user_id="x" * 99_000), timeout=60).existed


def test_more_calls_than_a_connection_may_have_wait_for_the_others() -> None:
    gate, engine = Gate(), FakeRouter("item-1")
    engine.before = gate
    request = rcjax_pb2.RecommendRequest(user_id="ann", candidates=[rcjax_pb2.Candidate(item_id="item-1")])
    with (
        running_server(Server(lambda: engine, limits=Limits(max_streams=2))) as addresses,
        grpc.insecure_channel(addresses.main) as channel,
    ):
        stub = rcjax_pb2_grpc.RecommenderStub(channel)
        calls = [stub.Recommend.future(request, timeout=60) for _ in range(5)]
        assert gate.entered.wait(60)
        left = threading.Event()
        calls[-1].add_done_callback(lambda call: left.set())
        assert len(engine.calls) <= 2
        gate.open.set()
        assert [len(call.result().ranking) for call in calls] == [1] * 5
        assert left.wait(60)


def test_info_publishes_the_limits() -> None:
    engine = FakeRouter("item-1")
    engine.info = replace(INFO, limits=ServiceLimits(max_text_bytes=7, max_streams=8, min_ping_s=9.5))
    with (
        running_server(Server(lambda: engine)) as addresses,
        RecommenderClient(addresses.main, addresses.admin) as client,
    ):
        assert client.info().limits == engine.info.limits
