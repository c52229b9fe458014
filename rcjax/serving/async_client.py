"""The client for asyncio; see `rcjax.serving.client` for what the calls do."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
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


class AsyncRecommenderClient:
    """`RecommenderClient` with calls to be awaited: the same messages, errors, deadlines and retries.

    Made and used on one event loop. Cancelling an await cancels the call at the server. `connect` makes a channel of
    `grpc.aio` (`functools.partial(rcjax.serving.security.channel.new_aio_channel, security=...)`).

    Example:

        >>> import asyncio
        >>> async def rank(request):
        ...     async with AsyncRecommenderClient(target) as client:
        ...         return await client.recommend(request)
        >>> len(asyncio.run(rank(request)).ranking) == len(request.candidates)
        True
    """

    def __init__(
        self,
        target: str,
        admin_target: str | None = None,
        *,
        timeout_s: float = 60.0,
        retry: RetryPolicy | None = None,
        connect: Callable[[str], grpc.aio.Channel] = grpc.aio.insecure_channel,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ):
        self._timeout_s = timeout_s
        self._retry = retry or RetryPolicy()
        self._sleep = sleep
        self._channel = connect(target)
        self._admin_channel = connect(admin_target) if admin_target is not None else None

    async def __aenter__(self) -> "AsyncRecommenderClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()
        if self._admin_channel is not None:
            await self._admin_channel.close()

    # ---- ranking and generating

    async def recommend(self, request: RecommendRequest) -> RecommendResult:
        return await self._call(rpcs.recommend(request))

    async def recommend_stream(
        self, requests: AsyncIterable[RecommendRequest] | Iterable[RecommendRequest]
    ) -> AsyncGenerator[StreamAnswer, None]:
        """As `RecommenderClient.recommend_stream`; `requests` is read by a task of its own."""
        messages = (client_streams.entry_message(one, self._timeout_s) async for one in _each(requests))
        answer = rcjax_pb2.RecommendStreamResponse
        async for message in self._stream(client_streams.RECOMMEND_STREAM, messages, answer):
            yield client_streams.answer_from_message(message)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[GeneratedPiece | GenerateResult, None]:
        """As `RecommenderClient.generate`."""
        rpc = rpcs.generate(request)
        call = self._channel.unary_stream(rpc.method, rpcs.to_bytes, rpc.answer.FromString)
        tries = self._retry.begin(self._timeout_s)
        while True:
            pieces = call(rpc.message, timeout=tries.remaining_s(), metadata=outgoing_metadata())
            has_begun = False
            try:
                async for piece in pieces:
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
            await self._sleep(pause_s)

    # ---- the catalogue

    async def put_items(self, items: Iterable[Item]) -> int:
        return await self._call(rpcs.put_items(items))

    async def put_items_stream(
        self, items: AsyncIterable[Item] | Iterable[Item], *, chunk_items: int = CHUNK_ITEMS
    ) -> AsyncGenerator[PutProgress, None]:
        """As `RecommenderClient.put_items_stream`; `items` is read by a task of its own."""
        messages = _chunks(items, chunk_items)
        answer = rcjax_pb2.PutItemsStreamResponse
        async for message in self._stream(client_streams.PUT_ITEMS_STREAM, messages, answer):
            yield client_streams.progress_from_message(message)

    async def delete_items(self, item_ids: Iterable[str]) -> int:
        return await self._call(rpcs.delete_items(item_ids))

    async def put_user(self, user: User) -> None:
        await self._call(rpcs.put_user(user))

    async def append_events(self, user_id: str, events: Iterable[Event]) -> None:
        await self._call(rpcs.append_events(user_id, events))

    async def delete_user(self, user_id: str) -> bool:
        return await self._call(rpcs.delete_user(user_id))

    # ---- the server

    async def info(self) -> EngineInfo:
        return await self._call(rpcs.info())

    async def stats(self) -> EngineStats:
        return await self._call(rpcs.stats())

    async def drain(self, slice_index: int) -> None:
        await self._call(rpcs.drain(slice_index))

    async def undrain(self, slice_index: int) -> None:
        await self._call(rpcs.undrain(slice_index))

    async def rebalance_from(self, placement_file: Path) -> Rebalanced:
        return await self._call(rpcs.rebalance_from(placement_file))

    async def save_request_log(self, file: Path) -> int:
        return await self._call(rpcs.save_request_log(file))

    async def take_snapshot(self) -> SnapshotResult:
        """Has the server take a snapshot; takes minutes, for which `timeout_s` must do."""
        return await self._call(rpcs.take_snapshot())

    async def restore_snapshot(self, number: int = 0) -> RestoreResult:
        """Has the server restore a snapshot, the newest by default; takes as long."""
        return await self._call(rpcs.restore_snapshot(number))

    async def wait_ready(self, timeout_s: float) -> None:
        request = health_pb2.HealthCheckRequest()
        watch = health_pb2_grpc.HealthStub(self._channel).Watch(request, timeout=timeout_s, wait_for_ready=True)
        try:
            async for response in watch:
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        except grpc.RpcError as error:
            raise UnavailableError(f"the server was not ready within {timeout_s} s") from error
        finally:
            watch.cancel()
        raise UnavailableError("the server stopped before it was ready")

    async def _call(self, rpc: Rpc[T]) -> T:
        channel = self._admin_channel if rpc.is_admin else self._channel
        if channel is None:
            raise ValueError(NO_ADMIN_TARGET)
        call = channel.unary_unary(rpc.method, rpcs.to_bytes, rpc.answer.FromString)
        tries = self._retry.begin(self._timeout_s)
        while True:
            try:
                return rpc.read(await call(rpc.message, timeout=tries.remaining_s(), metadata=outgoing_metadata()))
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
                pause_s = tries.next_pause_s(failure) if rpc.is_idempotent else None
                if pause_s is None:
                    raise failure from error
            await self._sleep(pause_s)

    async def _stream(
        self, method: str, messages: AsyncIterable[Message], answer: type[Message]
    ) -> AsyncGenerator[Any, None]:
        """What the server answers to a stream of messages; raises what making these raised."""
        failures: list[Exception] = []

        async def sent() -> AsyncIterator[Message]:
            try:
                async for message in messages:
                    yield message
            except Exception as error:
                failures.append(error)
                answers.cancel()

        call = self._channel.stream_stream(method, rpcs.to_bytes, answer.FromString)
        answers = call(sent(), metadata=outgoing_metadata())
        try:
            async for one in answers:
                yield one
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        except asyncio.CancelledError:
            if not failures:
                raise
            raise failures[0] from None
        finally:
            answers.cancel()


async def _each(values: AsyncIterable[T] | Iterable[T]) -> AsyncIterator[T]:
    if isinstance(values, AsyncIterable):
        async for value in values:
            yield value
    else:
        for value in values:
            yield value


async def _chunks(items: AsyncIterable[Item] | Iterable[Item], chunk_items: int) -> AsyncIterator[Message]:
    chunk: list[Item] = []
    async for item in _each(items):
        chunk.append(item)
        if len(chunk) == chunk_items:
            yield client_streams.chunk_message(tuple(chunk))
            chunk = []
    if chunk:
        yield client_streams.chunk_message(tuple(chunk))
