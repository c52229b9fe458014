"""The three gRPC services: a message becomes a value, the engine answers, and a value becomes a message.

They know the engine by its protocol only, and get it for each call, as it may not be there yet. What they raise is an
`RcjaxError`; `StatusInterceptor` answers with it.
"""
# ruff: noqa: N802 - the methods are named by rcjax.proto

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rcjax.errors import InvalidRequestError
from rcjax.request import (
    AppendEvents,
    DeleteItems,
    DeleteUser,
    PutItems,
    PutUser,
    Write,
    WriteResult,
)
from rcjax.serving import codec, stream_codec, streams
from rcjax.serving.caller import current_caller
from rcjax.serving.engine import Engine
from rcjax.serving.telemetry.stage_traces import trace_stages
from rcjax.serving.v1 import rcjax_pb2, rcjax_pb2_grpc


@runtime_checkable
class RpcContext(Protocol):
    """What the services need of gRPC's context."""

    def time_remaining(self) -> float | None: ...

    async def write(self, message: Any) -> None: ...


class RecommenderService(rcjax_pb2_grpc.RecommenderServicer):
    def __init__(self, engine: Callable[[], Engine], clock: Callable[[], float]):
        self._engine = engine
        self._clock = clock

    async def Recommend(self, request: rcjax_pb2.RecommendRequest, context: RpcContext) -> rcjax_pb2.RecommendResponse:
        arrival_s = self._clock()
        return await self._rank(request, arrival_s, deadline(context, arrival_s))

    async def RecommendStream(self, requests: AsyncIterator[Any], context: RpcContext) -> None:
        async def answer(index: int, asked: Any) -> rcjax_pb2.RecommendStreamResponse:
            response = rcjax_pb2.RecommendStreamResponse(index=index)
            if isinstance(asked, rcjax_pb2.RecommendStreamRequest):
                response.request_id = asked.request_id
            outcome = await streams.outcome_of(self._entry(asked, context), getattr(asked, "request", None))
            (response.error if streams.is_failure(outcome) else response.response).CopyFrom(outcome)
            return response

        await streams.answer_each(requests, answer, context.write, max_under_way=streams.MAX_REQUESTS_UNDER_WAY)

    async def _entry(
        self, asked: rcjax_pb2.RecommendStreamRequest | InvalidRequestError, context: RpcContext
    ) -> rcjax_pb2.RecommendResponse:
        if isinstance(asked, InvalidRequestError):
            raise asked
        arrival_s = self._clock()
        deadline_s = stream_codec.entry_deadline(asked, arrival_s, deadline(context, arrival_s))
        return await self._rank(asked.request, arrival_s, deadline_s)

    async def _rank(
        self, message: rcjax_pb2.RecommendRequest, arrival_s: float, deadline_s: float | None
    ) -> rcjax_pb2.RecommendResponse:
        request = codec.request_from_message(message, current_caller().tenant)
        result = await self._engine().recommend(request, arrival_s=arrival_s, deadline_s=deadline_s)
        trace_stages(result)
        return codec.result_to_message(result)

    async def Generate(self, request: rcjax_pb2.GenerateRequest, context: RpcContext) -> None:
        arrival_s = self._clock()
        asked = stream_codec.generate_from_message(request, current_caller().tenant)
        generated = self._engine().generate(asked, arrival_s=arrival_s, deadline_s=deadline(context, arrival_s))
        async with aclosing(generated) as parts:
            async for part in parts:
                await context.write(stream_codec.part_to_message(part))


class CatalogService(rcjax_pb2_grpc.CatalogServicer):
    def __init__(self, engine: Callable[[], Engine], clock: Callable[[], float]):
        self._engine = engine
        self._clock = clock

    async def PutItems(self, request: rcjax_pb2.PutItemsRequest, context: RpcContext) -> rcjax_pb2.PutItemsResponse:
        items = tuple(map(codec.item_from_message, request.items))
        result = await self._apply(PutItems(items, current_caller().tenant), context)
        return rcjax_pb2.PutItemsResponse(num_built=result.num_built)

    async def PutItemsStream(self, requests: AsyncIterator[Any], context: RpcContext) -> None:
        num_items = num_failed = 0

        async def answer(index: int, chunk: Any) -> rcjax_pb2.PutItemsStreamResponse:
            response = rcjax_pb2.PutItemsStreamResponse(chunk_index=index)
            outcome = await streams.outcome_of(self._put_chunk(chunk, context), None)
            if streams.is_failure(outcome):
                response.error.CopyFrom(outcome)
                response.num_failed = len(getattr(chunk, "items", ()))
            else:
                response.put.num_built = outcome.num_built
                response.num_items = len(chunk.items)
            return response

        async def write(response: rcjax_pb2.PutItemsStreamResponse) -> None:
            nonlocal num_items, num_failed
            num_items, num_failed = num_items + response.num_items, num_failed + response.num_failed
            response.num_items, response.num_failed = num_items, num_failed
            await context.write(response)

        await streams.answer_each(requests, answer, write, max_under_way=streams.MAX_CHUNKS_UNDER_WAY, is_in_order=True)

    async def _put_chunk(
        self, chunk: rcjax_pb2.PutItemsStreamRequest | InvalidRequestError, context: RpcContext
    ) -> WriteResult:
        if isinstance(chunk, InvalidRequestError):
            raise chunk
        items = tuple(map(codec.item_from_message, chunk.items))
        return await self._apply(PutItems(items, current_caller().tenant), context)

    async def DeleteItems(
        self, request: rcjax_pb2.DeleteItemsRequest, context: RpcContext
    ) -> rcjax_pb2.DeleteItemsResponse:
        result = await self._apply(DeleteItems(tuple(request.item_ids), current_caller().tenant), context)
        return rcjax_pb2.DeleteItemsResponse(num_deleted=result.num_deleted)

    async def PutUser(self, request: rcjax_pb2.PutUserRequest, context: RpcContext) -> rcjax_pb2.PutUserResponse:
        await self._apply(PutUser(codec.user_from_message(request.user), current_caller().tenant), context)
        return rcjax_pb2.PutUserResponse()

    async def AppendEvents(
        self, request: rcjax_pb2.AppendEventsRequest, context: RpcContext
    ) -> rcjax_pb2.AppendEventsResponse:
        events = codec.events_from_messages(request.events)
        await self._apply(AppendEvents(request.user_id, events, current_caller().tenant), context)
        return rcjax_pb2.AppendEventsResponse()

    async def DeleteUser(
        self, request: rcjax_pb2.DeleteUserRequest, context: RpcContext
    ) -> rcjax_pb2.DeleteUserResponse:
        result = await self._apply(DeleteUser(request.user_id, current_caller().tenant), context)
        return rcjax_pb2.DeleteUserResponse(existed=result.num_deleted > 0)

    async def _apply(self, write: Write, context: RpcContext) -> WriteResult:
        return await self._engine().apply(write, deadline_s=deadline(context, self._clock()))


class AdminService(rcjax_pb2_grpc.AdminServicer):
    def __init__(self, engine: Callable[[], Engine]):
        self._engine = engine

    async def Info(self, request: rcjax_pb2.InfoRequest, context: RpcContext) -> rcjax_pb2.InfoResponse:
        return codec.info_to_message(self._engine().info)

    async def Stats(self, request: rcjax_pb2.StatsRequest, context: RpcContext) -> rcjax_pb2.StatsResponse:
        return codec.stats_to_message(await self._engine().stats())

    async def Drain(self, request: rcjax_pb2.DrainRequest, context: RpcContext) -> rcjax_pb2.DrainResponse:
        self._engine().drain(request.slice_index)
        return rcjax_pb2.DrainResponse()

    async def Undrain(self, request: rcjax_pb2.UndrainRequest, context: RpcContext) -> rcjax_pb2.UndrainResponse:
        self._engine().undrain(request.slice_index)
        return rcjax_pb2.UndrainResponse()

    async def Rebalance(self, request: rcjax_pb2.RebalanceRequest, context: RpcContext) -> rcjax_pb2.RebalanceResponse:
        result = await self._engine().rebalance_from(Path(request.placement_file))
        return rcjax_pb2.RebalanceResponse(**asdict(result))

    async def SaveRequestLog(
        self, request: rcjax_pb2.SaveRequestLogRequest, context: RpcContext
    ) -> rcjax_pb2.SaveRequestLogResponse:
        num_requests = await self._engine().save_request_log(Path(request.file))
        return rcjax_pb2.SaveRequestLogResponse(num_requests=num_requests)

    async def Snapshot(self, request: rcjax_pb2.SnapshotRequest, context: RpcContext) -> rcjax_pb2.SnapshotResponse:
        return rcjax_pb2.SnapshotResponse(**asdict(await self._engine().take_snapshot()))

    async def Restore(self, request: rcjax_pb2.RestoreRequest, context: RpcContext) -> rcjax_pb2.RestoreResponse:
        return rcjax_pb2.RestoreResponse(**asdict(await self._engine().restore_snapshot(request.number)))


def deadline(context: RpcContext, now_s: float) -> float | None:
    """When the client gives up, on the clock that `now_s` was read from."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None else now_s + remaining_s
