"""A synchronous client that speaks the engine's types and raises the engine's errors."""

from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import UnavailableError
from rcjax.request import EngineInfo, EngineStats, Rebalanced, RecommendRequest, RecommendResult
from rcjax.serving import codec
from rcjax.serving.sendable import check_size, named_texts
from rcjax.serving.status import from_rpc_error
from rcjax.serving.v1 import rcjax_pb2, rcjax_pb2_grpc


class RecommenderClient:
    """Calls a server at `target`, and for what operators do its admin port at `admin_target` (`host:port`).

    Each call has `timeout_s` to finish, and is tried once. Failures are the types of `rcjax.errors`, with the
    server's message and field; one that rcjax has no type for is a plain `RcjaxError`. What no message can carry is
    refused before anything is sent: half a surrogate pair, or more than 32 MiB, as an `InvalidRequestError`, numbers
    out of range as a `ValueError`.
    Safe to share between threads.
    """

    def __init__(self, target: str, admin_target: str | None = None, *, timeout_s: float = 60.0):
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(target)
        self._recommender = rcjax_pb2_grpc.RecommenderStub(self._channel)
        self._catalog = rcjax_pb2_grpc.CatalogStub(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._admin_channel = grpc.insecure_channel(admin_target) if admin_target is not None else None

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

    def recommend(self, request: RecommendRequest) -> RecommendResult:
        with named_texts(
            candidates=request.candidates, user_id=request.user_id, history=request.history, arm=request.arm
        ):
            message = codec.request_to_message(request)
        response = self._call(self._recommender.Recommend, message)
        return codec.result_from_message(response)

    def put_items(self, items: Iterable[Item]) -> int:
        """Adds or replaces items; returns how many blocks were computed. Send large catalogues in parts."""
        items = tuple(items)
        with named_texts(items=items):
            message = rcjax_pb2.PutItemsRequest(items=map(codec.item_to_message, items))
        num_built: int = self._call(self._catalog.PutItems, message).num_built
        return num_built

    def delete_items(self, item_ids: Iterable[str]) -> int:
        """Forgets items; returns how many existed."""
        item_ids = tuple(item_ids)
        with named_texts(item_ids=item_ids):
            message = rcjax_pb2.DeleteItemsRequest(item_ids=item_ids)
        num_deleted: int = self._call(self._catalog.DeleteItems, message).num_deleted
        return num_deleted

    def put_user(self, user: User) -> None:
        with named_texts(user=user):
            message = rcjax_pb2.PutUserRequest(user=codec.user_to_message(user))
        self._call(self._catalog.PutUser, message)

    def append_events(self, user_id: str, events: Iterable[Event]) -> None:
        events = tuple(events)
        with named_texts(user_id=user_id, events=events):
            message = rcjax_pb2.AppendEventsRequest(user_id=user_id, events=map(codec.event_to_message, events))
        self._call(self._catalog.AppendEvents, message)

    def delete_user(self, user_id: str) -> bool:
        """Forgets a user; returns whether they existed."""
        with named_texts(user_id=user_id):
            message = rcjax_pb2.DeleteUserRequest(user_id=user_id)
        existed: bool = self._call(self._catalog.DeleteUser, message).existed
        return existed

    def info(self) -> EngineInfo:
        return codec.info_from_message(self._call(self._admin.Info, rcjax_pb2.InfoRequest()))

    def stats(self) -> EngineStats:
        return codec.stats_from_message(self._call(self._admin.Stats, rcjax_pb2.StatsRequest()))

    def drain(self, slice_index: int) -> None:
        """Has a slice get no more requests."""
        self._call(self._admin.Drain, rcjax_pb2.DrainRequest(slice_index=slice_index))

    def undrain(self, slice_index: int) -> None:
        """Has a drained slice get requests again."""
        self._call(self._admin.Undrain, rcjax_pb2.UndrainRequest(slice_index=slice_index))

    def rebalance_from(self, placement_file: Path) -> Rebalanced:
        """Has the server take over the placement in a file of its own; takes minutes, for which `timeout_s` must do."""
        with named_texts(placement_file=str(placement_file)):
            message = rcjax_pb2.RebalanceRequest(placement_file=str(placement_file))
        response = self._call(self._admin.Rebalance, message)
        return Rebalanced(response.num_arriving, response.num_built, response.num_leaving)

    def save_request_log(self, file: Path) -> int:
        """Has the server write which items its last requests asked for; returns how many requests."""
        with named_texts(file=str(file)):
            message = rcjax_pb2.SaveRequestLogRequest(file=str(file))
        num_requests: int = self._call(self._admin.SaveRequestLog, message).num_requests
        return num_requests

    def wait_ready(self, timeout_s: float) -> None:
        """Returns once the server says SERVING; `UnavailableError` if it does not within `timeout_s`."""
        request = health_pb2.HealthCheckRequest()
        # A server that does not listen yet is waited for, too.
        watch = self._health.Watch(request, timeout=timeout_s, wait_for_ready=True)
        try:
            for response in watch:
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    return
        except grpc.RpcError as error:
            raise UnavailableError(f"the server was not ready within {timeout_s} s") from error
        finally:
            watch.cancel()
        raise UnavailableError("the server stopped before it was ready")

    @property
    def _admin(self) -> rcjax_pb2_grpc.AdminStub:
        if self._admin_channel is None:
            raise ValueError(
                "info, stats and what changes slices are on the admin port: give the client an admin_target"
            )
        return rcjax_pb2_grpc.AdminStub(self._admin_channel)

    def _call(self, method: Callable[..., Any], message: Any) -> Any:
        check_size(message)
        try:
            return method(message, timeout=self._timeout_s)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
