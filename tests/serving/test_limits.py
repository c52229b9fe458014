"""The limits of a connection, as a client meets them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import grpc
import pytest
from fake_router import INFO, FakeRouter

from rcjax.config import Limits
from rcjax.request import RecommendRequest, ServiceLimits
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


class Pairs:
    """Holds a call until there is another, and counts the most that are there at once."""

    def __init__(self) -> None:
        self.most = 0
        self._lock = threading.Lock()
        self._pair = threading.Barrier(2)
        self._num_here = 0

    def __call__(self, argument: Any) -> None:
        with self._lock:
            self._num_here += 1
            self.most = max(self.most, self._num_here)
        self._pair.wait(60)
        with self._lock:
            self._num_here -= 1


def test_more_calls_than_a_connection_may_have_come_after_the_others() -> None:
    engine, pairs = FakeRouter("item-1"), Pairs()
    engine.before = pairs
    with (
        running_server(Server(lambda: engine, limits=Limits(max_streams=2))) as addresses,
        RecommenderClient(addresses.main) as client,
        ThreadPoolExecutor(6) as threads,
    ):
        results = list(threads.map(client.recommend, [RecommendRequest(("item-1",), "ann")] * 6))
    assert [len(result.ranking) for result in results] == [1] * 6
    assert pairs.most == 2


def test_info_publishes_the_limits() -> None:
    engine = FakeRouter("item-1")
    engine.info = replace(INFO, limits=ServiceLimits(max_text_bytes=7, max_streams=8, min_ping_s=9.5))
    with (
        running_server(Server(lambda: engine)) as addresses,
        RecommenderClient(addresses.main, addresses.admin) as client,
    ):
        assert client.info().limits == engine.info.limits
