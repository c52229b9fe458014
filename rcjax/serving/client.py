"""A synchronous client that speaks the engine's types and raises the engine's errors."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import UnavailableError
from rcjax.request import (
    EngineInfo,
    EngineStats,
    GeneratedPiece,
    GenerateRequest,
    GenerateResult,
    Rebalanced,
    RecommendRequest,
    RecommendResult,
)
from rcjax.serving import client_streams, rpcs
from rcjax.serving.client_streams import CHUNK_ITEMS, PutProgress, StreamAnswer
from rcjax.serving.engine import RestoreResult, SnapshotResult
from rcjax.serving.retries import RetryPolicy
from rcjax.serving.rpcs import NO_ADMIN_TARGET, Rpc
from rcjax.serving.status import from_rpc_error
from rcjax.serving.trace_context import outgoing_metadata
from rcjax.serving.v1 import rcjax_pb2

T = TypeVar("T")


class RecommenderClient:
    """Calls a server at `target`, and for what operators do its admin port at `admin_target` (`host:port`).

    Each call has `timeout_s` to finish, all its tries together, and is tried again as `retry` says; only
    `append_events` never is, as a try whose answer was lost may have taken effect. Failures are the types of
    `rcjax.errors`, with the server's message and field; one that rcjax has no type for is a plain `RcjaxError`. What no
    message can carry is refused before anything is sent: half a surrogate pair, or more than 32 MiB, as an
    `InvalidRequestError`, numbers out of range as a `ValueError`.

    `connect` makes a channel to an address, with TLS and a token where these are wanted
    (`functools.partial(rcjax.serving.security.channel.new_channel, security=...)`). Safe to share between threads.

    Example:

        >>> with RecommenderClient(target, admin_target) as client:
        ...     result = client.recommend(request)
        ...     num_items = client.stats().num_items
        >>> len(result.ranking) == len(request.candidates), num_items == len(shop.items)
        (True, True)
    """

    def __init__(
        self,
        target: str,
        admin_target: str | None = None,
        *,
        timeout_s: float = 60.0,
        retry: RetryPolicy | None = None,
        connect: Callable[[str], grpc.Channel] = grpc.insecure_channel,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._timeout_s = timeout_s
        self._retry = retry or RetryPolicy()
        self._sleep = sleep
        self._channel = connect(target)
        self._admin_channel = connect(admin_target) if admin_target is not None else None

    def __enter__(self) -> "RecommenderClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()
        if self._admin_channel is not None:
            self._admin_channel.close()

    # ---- ranking and generating

    def recommend(self, request: RecommendRequest) -> RecommendResult:
        return self._call(rpcs.recommend(request))

    def recommend_stream(self, requests: Iterable[RecommendRequest]) -> Generator[StreamAnswer, None, None]:
        """Ranks many requests over one stream; answers come as they are there, each with its request's number.

        Each request has `timeout_s` of its own. `requests` is read on another thread, as fast as the server takes them:
        while too many are unanswered it waits. One that fails has its error for an outcome, and is not tried again;
        an error of the stream itself is raised. The stream begins with the first `next`, and closing the generator ends
        it.
        """
        messages = (client_streams.entry_message(request, self._timeout_s) for request in requests)
        answer = rcjax_pb2.RecommendStreamResponse
        for message in self._stream(client_streams.RECOMMEND_STREAM, messages, answer):
            yield client_streams.answer_from_message(message)

    def generate(self, request: GenerateRequest) -> Generator[GeneratedPiece | GenerateResult, None, None]:
        """Pieces as they come, and at last the result; closing the generator ends the generation.

        Tried again as long as nothing has come.
        """
        rpc = rpcs.generate(request)
        call = self._channel.unary_stream(rpc.method, rpcs.to_bytes, rpc.answer.FromString)
        tries = self._retry.begin(self._timeout_s)
        while True:
            pieces = call(rpc.message, timeout=tries.remaining_s(), metadata=outgoing_metadata())
            has_begun = False
            try:
                for piece in pieces:
                    has_begun = True
                    yield rpc.read(piece)
                return
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
                pause_s = None if has_begun else tries.next_pause_s(failure)
                if pause_s is None:
                    raise failure from error
            finally:
                pieces.cancel()
            self._sleep(pause_s)

    # ---- the catalogue

    def put_items(self, items: Iterable[Item]) -> int:
        """Adds or replaces items; returns how many blocks were computed. See `put_items_stream` for many."""
        return self._call(rpcs.put_items(items))

    def put_items_stream(
        self, items: Iterable[Item], *, chunk_items: int = CHUNK_ITEMS
    ) -> Generator[PutProgress, None, None]:
        """Puts a whole catalogue in chunks, each all or nothing; yields what became of each, in order.

        `items` is read on another thread, as fast as the server builds. There is no deadline. A chunk that fails does
        not end the stream, and is not tried again: to send everything again costs nothing for what is in. An error of
        the stream itself is raised; what was yielded before is in.
        """
        messages = client_streams.chunk_messages(items, chunk_items)
        answer = rcjax_pb2.PutItemsStreamResponse
        for message in self._stream(client_streams.PUT_ITEMS_STREAM, messages, answer):
            yield client_streams.progress_from_message(message)

    def delete_items(self, item_ids: Iterable[str]) -> int:
        """Forgets items; returns how many existed."""
        return self._call(rpcs.delete_items(item_ids))

    def put_user(self, user: User) -> None:
        self._call(rpcs.put_user(user))

    def append_events(self, user_id: str, events: Iterable[Event]) -> None:
        self._call(rpcs.append_events(user_id, events))

    def delete_user(self, user_id: str) -> bool:
        """Forgets a user; returns whether they existed."""
        return self._call(rpcs.delete_user(user_id))

    # ---- the server

    def info(self) -> EngineInfo:
        return self._call(rpcs.info())

    def stats(self) -> EngineStats:
        return self._call(rpcs.stats())

    def drain(self, slice_index: int) -> None:
        """Has a slice get no more requests."""
        self._call(rpcs.drain(slice_index))

    def undrain(self, slice_index: int) -> None:
        """Has a drained slice get requests again."""
        self._call(rpcs.undrain(slice_index))

    def rebalance_from(self, placement_file: Path) -> Rebalanced:
        """Has the server take over the placement in a file of its own; takes minutes, for which `timeout_s` must do."""
        return self._call(rpcs.rebalance_from(placement_file))

    def save_request_log(self, file: Path) -> int:
        """Has the server write which items its last requests asked for; returns how many requests."""
        return self._call(rpcs.save_request_log(file))

    def take_snapshot(self) -> SnapshotResult:
        """Has the server take a snapshot; takes minutes, for which `timeout_s` must do."""
        return self._call(rpcs.take_snapshot())

    def restore_snapshot(self, number: int = 0) -> RestoreResult:
        """Has the server restore a snapshot, the newest by default; takes as long."""
        return self._call(rpcs.restore_snapshot(number))

    def wait_ready(self, timeout_s: float) -> None:
        """Returns once the server says SERVING; `UnavailableError` if it does not within `timeout_s`."""
        request = health_pb2.HealthCheckRequest()
        # A server that does not listen yet is waited for, too.
        watch = health_pb2_grpc.HealthStub(self._channel).Watch(request, timeout=timeout_s, wait_for_ready=True)
        try:
            for response in watch:
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        except grpc.RpcError as error:
            raise UnavailableError(f"the server was not ready within {timeout_s} s") from error
        finally:
            watch.cancel()
        raise UnavailableError("the server stopped before it was ready")

    def _call(self, rpc: Rpc[T]) -> T:
        channel = self._admin_channel if rpc.is_admin else self._channel
        if channel is None:
            raise ValueError(NO_ADMIN_TARGET)
        call = channel.unary_unary(rpc.method, rpcs.to_bytes, rpc.answer.FromString)
        tries = self._retry.begin(self._timeout_s)
        while True:
            try:
                return rpc.read(call(rpc.message, timeout=tries.remaining_s(), metadata=outgoing_metadata()))
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
                pause_s = tries.next_pause_s(failure) if rpc.is_idempotent else None
                if pause_s is None:
                    raise failure from error
            self._sleep(pause_s)

    def _stream(self, method: str, messages: Iterable[Message], answer: type[Message]) -> Iterator[Any]:
        """What the server answers to a stream of messages; raises what making these raised."""
        failures: list[Exception] = []

        def sent() -> Iterator[Message]:
            try:
                yield from messages
            except Exception as error:
                failures.append(error)
                raise

        call = self._channel.stream_stream(method, rpcs.to_bytes, answer.FromString)
        answers = call(sent(), metadata=outgoing_metadata())
        try:
            yield from answers
        except grpc.RpcError as error:
            raise (failures[0] if failures else from_rpc_error(error)) from error
        finally:
            answers.cancel()
