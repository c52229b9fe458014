"""The three gRPC services: a message becomes a value, the engine answers, and a value becomes a message.

They know the engine by its protocol only, and get it for each call, as it may not be there yet. What they raise is an
`RcjaxError`; `StatusInterceptor` answers with it.
"""
# ruff: noqa: N802 - the methods are named by rcjax.proto

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, runtime_checkable

from rcjax.request import AppendEvents, DeleteItems, DeleteUser, Engine, PutItems, PutUser, Write, WriteResult
from rcjax.serving import codec
from rcjax.serving.v1 import rcjax_pb2, rcjax_pb2_grpc


@runtime_checkable
class RpcContext(Protocol):
    """What the services need of gRPC's context."""

    def time_remaining(self) -> float | None: ...


class RecommenderService(rcjax_pb2_grpc.RecommenderServicer):
    def __init__(self, engine: Callable[[], Engine], clock: Callable[[], float]):
        self._engine = engine
        self._clock = clock

    async def Recommend(self, request: rcjax_pb2.RecommendRequest, context: RpcContext) -> rcjax_pb2.RecommendResponse:
        arrival_s = self._clock()
        result = await self._engine().recommend(
            codec.request_from_message(request), arrival_s=arrival_s, deadline_s=deadline(context, arrival_s)
        )
        return codec.result_to_message(result)


class CatalogService(rcjax_pb2_grpc.CatalogServicer):
    def __init__(self, engine: Callable[[], Engine], clock: Callable[[], float]):
        self._engine = engine
        self._clock = clock

    async def PutItems(self, request: rcjax_pb2.PutItemsRequest, context: RpcContext) -> rcjax_pb2.PutItemsResponse:
        items = tuple(map(codec.item_from_message, request.items))
        result = await self._apply(PutItems(items), context)
        return rcjax_pb2.PutItemsResponse(num_built=result.num_built)

    async def DeleteItems(
        self, request: rcjax_pb2.DeleteItemsRequest, context: RpcContext
    ) -> rcjax_pb2.DeleteItemsResponse:
        result = await self._apply(DeleteItems(tuple(request.item_ids)), context)
        return rcjax_pb2.DeleteItemsResponse(num_deleted=result.num_deleted)

    async def PutUser(self, request: rcjax_pb2.PutUserRequest, context: RpcContext) -> rcjax_pb2.PutUserResponse:
        await self._apply(PutUser(codec.user_from_message(request.user)), context)
        return rcjax_pb2.PutUserResponse()

    async def AppendEvents(
        self, request: rcjax_pb2.AppendEventsRequest, context: RpcContext
    ) -> rcjax_pb2.AppendEventsResponse:
        events = codec.events_from_messages(request.events)
        await self._apply(AppendEvents(request.user_id, events), context)
        return rcjax_pb2.AppendEventsResponse()

    async def DeleteUser(
        self, request: rcjax_pb2.DeleteUserRequest, context: RpcContext
    ) -> rcjax_pb2.DeleteUserResponse:
        result = await self._apply(DeleteUser(request.user_id), context)
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


def deadline(context: RpcContext, now_s: float) -> float | None:
    """When the client gives up, on the clock that `now_s` was read from."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None else now_s + remaining_s
