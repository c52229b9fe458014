"""What `grpcurl` does with a line: names and messages come from the server's reflection alone, JSON goes in and out."""

import argparse
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

_VERBS = ("list", "describe")


@dataclass(frozen=True)
class _Details(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: Any
    compression: Any


class _WithHeaders(grpc.UnaryUnaryClientInterceptor, grpc.StreamStreamClientInterceptor):
    """Adds headers to calls, those of reflection too."""

    def __init__(self, headers: list[tuple[str, str]]):
        self._headers = headers

    def _added(self, proceed: Any, details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), *self._headers]
        fields = (details.method, details.timeout, metadata, details.credentials)
        return proceed(_Details(*fields, details.wait_for_ready, details.compression), request)

    intercept_unary_unary = _added
    intercept_stream_stream = _added


def words_of(line: str, folder: Path) -> list[str]:
    """The words that a shell makes of a line in `folder`."""
    line = line.replace("\\\n", " ")
    shell = ["bash", "-c", f"printf '%s\\0' {line}"]
    told = subprocess.run(shell, cwd=folder, capture_output=True, text=True, check=True)
    return told.stdout.split("\0")[:-1]


def call(line: str, folder: Path, places: dict[str, str] | None = None) -> Any:
    """The answer to a line, as JSON; `places` says where another `host:port` of the line is here."""
    program, *words = words_of(line, folder)
    assert program == "grpcurl"
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-plaintext", action="store_true")
    for flag in ("-cacert", "-cert", "-key"):
        parser.add_argument(flag, type=lambda name: folder / name)
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d", default="")
    parser.add_argument("target")
    parser.add_argument("symbol")
    parser.add_argument("described", nargs="?")
    args = parser.parse_args(words)
    assert args.plaintext == (args.cacert is None)
    with _channel(args, (places or {}).get(args.target, args.target)) as channel:
        return _answer(channel, args.symbol, args.described, args.d)


def _answer(channel: Any, symbol: str, described: str | None, data: str) -> Any:
    database = ProtoReflectionDescriptorDatabase(channel)
    if symbol == "list":
        return list(database.get_services())
    pool = DescriptorPool(database)
    if symbol == "describe":
        return [field.name for field in pool.FindMessageTypeByName(described).fields]
    service, _, name = symbol.partition("/")
    method = pool.FindServiceByName(service).FindMethodByName(name)
    request = json_format.Parse(data or "{}", GetMessageClass(method.input_type)())
    answer = GetMessageClass(method.output_type)
    rpc = channel.unary_unary(f"/{symbol}", type(request).SerializeToString, answer.FromString)
    return json_format.MessageToDict(rpc(request, timeout=60.0), preserving_proto_field_name=True)


@contextmanager
def _channel(args: argparse.Namespace, target: str) -> Iterator[Any]:
    if args.plaintext:
        channel = grpc.insecure_channel(target)
    else:
        ca, key, cert = (path and path.read_bytes() for path in (args.cacert, args.key, args.cert))
        channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(ca, key, cert))
    headers = [re.fullmatch(r"([^:]+): *(.*)", header).groups() for header in args.H]
    with channel:
        yield grpc.intercept_channel(channel, _WithHeaders([(name.lower(), value) for name, value in headers]))
