"""The three gRPC services: message in, engine's types, validation, the engine's thread, message out.

They raise `RcjaxError`; `StatusInterceptor` answers with it.
"""
# ruff: noqa: N802 - the methods are named by rcjax.proto

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from rcjax.serving import codec
from rcjax.serving.engine_thread import EngineThread
from rcjax.serving.v1 import rcjax_pb2, rcjax_pb2_grpc
from rcjax.serving.validation import (
    ServiceLimits,
    validate_item_ids,
    validate_items,
    validate_new_events,
    validate_request,
    validate_user,
    validate_user_id,
)


@runtime_checkable
class RpcContext(Protocol):
    """What the services need of gRPC's context."""

    def time_remaining(self) -> float | None: ...


class RecommenderService(rcjax_pb2_grpc.RecommenderServicer):
    def __init__(self, engine: EngineThread, limits: ServiceLimits, clock: Callable[[], float]):
        self._engine = engine
        self._limits = limits
        self._clock = clock

    async def Recommend(self, request: rcjax_pb2.RecommendRequest, context: RpcContext) -> rcjax_pb2.RecommendResponse:
        arrival_s = self._clock()
        deadline_s = deadline(context, arrival_s)
        wanted = codec.request_from_message(request)
        validate_request(wanted, self._engine.info, self._limits)
        result = await self._engine.recommend(wanted, arrival_s=arrival_s, deadline_s=deadline_s)
        return codec.result_to_message(result)


class CatalogService(rcjax_pb2_grpc.CatalogServicer):
    def __init__(self, engine: EngineThread, limits: ServiceLimits, clock: Callable[[], float]):
        self._engine = engine
        self._limits = limits
        self._clock = clock

    async def PutItems(self, request: rcjax_pb2.PutItemsRequest, context: RpcContext) -> rcjax_pb2.PutItemsResponse:
        items = [codec.item_from_message(message) for message in request.items]
        validate_items(items, self._limits)
        num_built = await self._engine.call(
            lambda engine: engine.put_items(items), deadline_s=deadline(context, self._clock())
        )
        return rcjax_pb2.PutItemsResponse(num_built=num_built)

    async def DeleteItems(
        self, request: rcjax_pb2.DeleteItemsRequest, context: RpcContext
    ) -> rcjax_pb2.DeleteItemsResponse:
        item_ids = list(request.item_ids)
        validate_item_ids(item_ids, self._limits)
        num_deleted = await self._engine.call(
            lambda engine: engine.delete_items(item_ids), deadline_s=deadline(context, self._clock())
        )
        return rcjax_pb2.DeleteItemsResponse(num_deleted=num_deleted)

    async def PutUser(self, request: rcjax_pb2.PutUserRequest, context: RpcContext) -> rcjax_pb2.PutUserResponse:
        user = codec.user_from_message(request.user)
        validate_user(user, self._limits)
        await self._engine.call(lambda engine: engine.put_user(user), deadline_s=deadline(context, self._clock()))
        return rcjax_pb2.PutUserResponse()

    async def AppendEvents(
        self, request: rcjax_pb2.AppendEventsRequest, context: RpcContext
    ) -> rcjax_pb2.AppendEventsResponse:
        events = codec.events_from_messages(request.events)
        validate_new_events(request.user_id, events, self._limits)
        await self._engine.call(
            lambda engine: engine.append_events(request.user_id, events),
            deadline_s=deadline(context, self._clock()),
        )
        return rcjax_pb2.AppendEventsResponse()

    async def DeleteUser(
        self, request: rcjax_pb2.DeleteUserRequest, context: RpcContext
    ) -> rcjax_pb2.DeleteUserResponse:
        validate_user_id(request.user_id, self._limits)
        existed = await self._engine.call(
            lambda engine: engine.delete_user(request.user_id), deadline_s=deadline(context, self._clock())
        )
        return rcjax_pb2.DeleteUserResponse(existed=existed)


class AdminService(rcjax_pb2_grpc.AdminServicer):
    def __init__(self, engine: EngineThread, clock: Callable[[], float]):
        self._engine = engine
        self._clock = clock

    async def Info(self, request: rcjax_pb2.InfoRequest, context: RpcContext) -> rcjax_pb2.InfoResponse:
        return codec.info_to_message(self._engine.info)

    async def Stats(self, request: rcjax_pb2.StatsRequest, context: RpcContext) -> rcjax_pb2.StatsResponse:
        stats = await self._engine.inspect(lambda engine: engine.stats(), deadline_s=deadline(context, self._clock()))
        return codec.stats_to_message(stats)


def deadline(context: RpcContext, now_s: float) -> float | None:
    """When the client gives up, on the clock that `now_s` was read from."""
    remaining_s = context.time_remaining()
    return None if remaining_s is None else now_s + remaining_s
