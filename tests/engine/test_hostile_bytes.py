"""A server of the tiny engine under bytes that nobody meant: it answers each properly, and good calls as before."""

import math
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from hostile import METHODS, SCANS, Hostile, proper_outcome
from tiny_engine import TinyEngine, assert_idle, event, item

from rcjax.catalog.types import User
from rcjax.request import RankedItem, RecommendRequest
from rcjax.serving.client import RecommenderClient
from rcjax.serving.server import Addresses, Server, running_server

NUM_MESSAGES = 2000


@contextmanager
def serving(engine: TinyEngine) -> Iterator[Addresses]:
    with running_server(Server(lambda: engine.router)) as addresses:
        yield addresses


def ranking(addresses: Addresses) -> tuple[RankedItem, ...]:
    with RecommenderClient(addresses.main) as client:
        client.put_items([item(i) for i in range(4)])
        client.put_user(User("u", (event(0), event(1))))
        candidates = tuple(item(i).item_id for i in range(4))
        return client.recommend(RecommendRequest(candidates, "u")).ranking


def is_the_same(one: tuple[RankedItem, ...], other: tuple[RankedItem, ...]) -> bool:
    return [ranked.item_id for ranked in one] == [ranked.item_id for ranked in other] and all(
        math.isclose(a.score, b.score, rel_tol=1e-4, abs_tol=1e-4) for a, b in zip(one, other, strict=True)
    )


def test_malformed_and_random_messages_on_every_method(
    engine: TinyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a path that an operator sends would lead
    hostile = Hostile(seed=14)
    seen: Counter[tuple[str, grpc.StatusCode]] = Counter()
    with serving(engine) as addresses:
        before = ranking(addresses)
        channels = {name: grpc.insecure_channel(getattr(addresses, name)) for name in ("main", "admin")}
        for n in range(NUM_MESSAGES):
            method = METHODS[n % len(METHODS)]
            channel = channels["admin" if method.containing_service.name == "Admin" else "main"]
            code = proper_outcome(channel, method, hostile.data(method))
            seen[method.name, code] += 1
        for channel in channels.values():
            channel.close()
        assert is_the_same(ranking(addresses), before)
        assert_idle(engine)
    for name in ("Recommend", "PutItems", "DeleteItems", "PutUser", "AppendEvents", "DeleteUser"):
        assert seen[name, grpc.StatusCode.INVALID_ARGUMENT] > 20
    assert seen["Recommend", grpc.StatusCode.OK] + seen["PutItems", grpc.StatusCode.OK] > 0


def test_what_a_port_scan_sends(engine: TinyEngine) -> None:
    with serving(engine) as addresses:
        before = ranking(addresses)
        for address in (addresses.main, addresses.admin):
            host, port = address.rsplit(":", 1)
            for data in SCANS.values():
                with socket.create_connection((host, int(port)), timeout=60) as scan:
                    scan.sendall(data)
            with (
                socket.create_connection((host, int(port)), timeout=60) as plain,
                pytest.raises((ssl.SSLError, OSError)),
            ):
                ssl._create_unverified_context().wrap_socket(plain)  # a TLS hello to a port without TLS
        left_open = [socket.create_connection((host, int(port)), timeout=60) for _ in range(50)]
        assert is_the_same(ranking(addresses), before)
        for scan in left_open:
            scan.close()
        assert_idle(engine)
