"""Bytes that nobody meant, for a server: messages that are malformed or random, and what a port scan sends."""

import math
import random

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from rcjax.serving.v1 import rcjax_pb2

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
TIMEOUT_S = 600.0  # a machine may stand still for a while
# But for those that take slices away, which whoever is asked afterwards is to survive.
METHODS = [
    method
    for service in rcjax_pb2.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name not in ("Drain", "Undrain")
]


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
        outcome = call(iter([data, data]) if method.client_streaming else data, timeout=TIMEOUT_S)
        if method.server_streaming:
            list(outcome)
    except grpc.RpcError as error:
        return error
    return None


def proper_outcome(channel: grpc.Channel, method: MethodDescriptor, data: bytes) -> grpc.StatusCode:
    """What a call with these bytes is answered, which must not be a fault of the server nor tell of its inside."""
    error = failure(channel, method, data)
    code = grpc.StatusCode.OK if error is None else error.code()
    said = "" if error is None else error.details()
    assert code in PROPER, (method.name, code, said)
    assert "Traceback" not in said
    assert ".py" not in said
    return code


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
