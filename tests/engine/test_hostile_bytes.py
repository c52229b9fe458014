"""A server of the tiny engine under bytes that nobody meant: it answers each properly, and good calls as before."""

import math
import random
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from tiny_engine import TinyEngine, assert_idle, event, item

from rcjax.catalog.types import User
from rcjax.request import RankedItem, RecommendRequest
from rcjax.serving.client import RecommenderClient
from rcjax.serving.server import Addresses, Server, running_server
from rcjax.serving.v1 import rcjax_pb2

NUM_MESSAGES = 2000
IDS = [f"item-{i}" for i in range(4)]
TEXTS = ["", "a", "u", *IDS, "x" * 300, "\0", "../../etc/passwd", "<|im_start|>", "{{ 7*7 }}", "é" * 50, "\U0001f375"]
NUMBERS = [0, 1, -1, 2, 50, 2**31 - 1, -(2**31)]
# What may be answered. INTERNAL and UNKNOWN are faults of the server; ours is never at fault for what is sent.
PROPER = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
}
FIELD = FieldDescriptor


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


class Hostile:
    """Messages from a seed: random bytes, real messages cut or with bits flipped, and fields filled with anything."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)

    def data(self, method: MethodDescriptor) -> bytes:
        draw = self._random
        kind = draw.randrange(4)
        if kind == 0:
            return draw.randbytes(draw.randrange(40))
        made = self._filled(message_factory.GetMessageClass(method.input_type)(), 0)
        data = bytearray(made.SerializePartialToString())
        if kind == 1 and data:
            del data[draw.randrange(len(data)) :]
        if kind == 2 and data:
            for _ in range(draw.randint(1, 4)):
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return bytes(data)

    def _filled(self, message: Message, depth: int) -> Message:
        for field in message.DESCRIPTOR.fields:
            if self._random.random() < 0.3 or (depth > 3 and field.message_type is not None):
                continue
            if not field.is_repeated:
                self._fill(message, field, depth)
                continue
            values = getattr(message, field.name)
            for _ in range(self._random.choice([1, 2, 3, 5])):
                if field.message_type is not None:
                    self._filled(values.add(), depth + 1)
                else:
                    values.append(self._value(field))
        return message

    def _fill(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        if field.message_type is not None:
            child = getattr(message, field.name)
            child.SetInParent()
            self._filled(child, depth + 1)
        else:
            setattr(message, field.name, self._value(field))

    def _value(self, field: FieldDescriptor) -> object:
        draw = self._random
        if field.cpp_type == FIELD.CPPTYPE_STRING:
            text = draw.choice(TEXTS)
            return text if field.type == FIELD.TYPE_STRING else text.encode()
        if field.cpp_type in (FIELD.CPPTYPE_DOUBLE, FIELD.CPPTYPE_FLOAT):
            return draw.choice([0.0, -1.0, 0.5, math.nan, math.inf, -math.inf, 1e300])
        if field.cpp_type == FIELD.CPPTYPE_BOOL:
            return draw.random() < 0.5
        if field.cpp_type == FIELD.CPPTYPE_ENUM:
            return draw.choice(field.enum_type.values).number
        number = draw.choice(NUMBERS)
        return abs(number) if field.cpp_type in (FIELD.CPPTYPE_UINT32, FIELD.CPPTYPE_UINT64) else number


def failure(channel: grpc.Channel, method: MethodDescriptor, data: bytes) -> grpc.RpcError | None:
    """What a call with these bytes fails with; a stream of requests has them twice."""
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    call = getattr(channel, kind)(f"/{method.containing_service.full_name}/{method.name}")
    try:
        outcome = call(iter([data, data]) if method.client_streaming else data, timeout=60)
        if method.server_streaming:
            list(outcome)
    except grpc.RpcError as error:
        return error
    return None


def test_malformed_and_random_messages_on_every_method(
    engine: TinyEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where a path that an operator sends would lead
    methods = [
        method
        for service in rcjax_pb2.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if method.name not in ("Drain", "Undrain")  # which the engine that is asked afterwards is to survive
    ]
    hostile = Hostile(seed=14)
    seen: Counter[tuple[str, grpc.StatusCode]] = Counter()
    with serving(engine) as addresses:
        before = ranking(addresses)
        channels = {name: grpc.insecure_channel(getattr(addresses, name)) for name in ("main", "admin")}
        for n in range(NUM_MESSAGES):
            method = methods[n % len(methods)]
            channel = channels["admin" if method.containing_service.name == "Admin" else "main"]
            error = failure(channel, method, hostile.data(method))
            code = grpc.StatusCode.OK if error is None else error.code()
            said = "" if error is None else error.details()
            seen[method.name, code] += 1
            assert code in PROPER, (method.name, code, said)
            assert "Traceback" not in said
            assert ".py" not in said
        for channel in channels.values():
            channel.close()
        assert is_the_same(ranking(addresses), before)
        assert_idle(engine)
    for name in ("Recommend", "PutItems", "DeleteItems", "PutUser", "AppendEvents", "DeleteUser"):
        assert seen[name, grpc.StatusCode.INVALID_ARGUMENT] > 20
    assert seen["Recommend", grpc.StatusCode.OK] + seen["PutItems", grpc.StatusCode.OK] > 0


SCANS = {
    "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: scan\r\n\r\n",
    "HTTP/1.0 with a long line": b"GET /" + b"a" * 100_000 + b" HTTP/1.0\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "RDP": bytes.fromhex("030000130ee000000000000100080003000000"),
    "nothing": b"",
    "HTTP/2 and then noise": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + random.Random(2).randbytes(5000),
    "HTTP/2 with a frame of 16 MiB": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    "half of HTTP/2": b"PRI * HTTP/2.0\r\n",
    **{f"noise {seed}": random.Random(seed).randbytes(200 * seed + 1) for seed in range(8)},
}


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
