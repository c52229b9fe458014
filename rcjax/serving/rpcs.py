"""The calls of rcjax.v1 as a client makes them: where each goes, what it sends, how its answer is read.

Both clients, the synchronous and the asyncio one, make these same calls and differ only in how they wait.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import InvalidRequestError
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
from rcjax.serving import codec, stream_codec
from rcjax.serving.engine import RestoreResult, SnapshotResult
from rcjax.serving.sendable import check_size, named_texts
from rcjax.serving.v1 import rcjax_pb2

T = TypeVar("T")

NO_ADMIN_TARGET = "info, stats and what changes slices are on the admin port: give the client an admin_target"


@dataclass(frozen=True, slots=True)
class Rpc(Generic[T]):
    """One call. `is_idempotent`: to make it twice changes no more than to make it once, so it may be tried again."""

    method: str
    message: Message
    answer: type[Message]
    read: Callable[[Any], T]
    is_idempotent: bool = True

    def __post_init__(self) -> None:
        check_size(self.message)

    @property
    def is_admin(self) -> bool:
        return self.method.startswith("/rcjax.v1.Admin/")


def to_bytes(message: Message) -> bytes:
    return message.SerializeToString()


def recommend(request: RecommendRequest) -> Rpc[RecommendResult]:
    message = recommend_message(request)
    return Rpc("/rcjax.v1.Recommender/Recommend", message, rcjax_pb2.RecommendResponse, codec.result_from_message)


def generate(request: GenerateRequest) -> Rpc[GeneratedPiece | GenerateResult]:
    """Answered with a stream, of which `read` reads each message."""
    if isinstance(request.prompt, str):
        with named_texts(text=request.prompt):
            message = stream_codec.generate_to_message(request)
    else:
        recommend_message(request.prompt)  # which names what it cannot carry
        message = stream_codec.generate_to_message(request)
    answer = rcjax_pb2.GenerateResponse
    return Rpc("/rcjax.v1.Recommender/Generate", message, answer, stream_codec.part_from_message)


def put_items(items: Iterable[Item]) -> Rpc[int]:
    items = tuple(items)
    with named_texts(items=items):
        message = rcjax_pb2.PutItemsRequest(items=map(codec.item_to_message, items))
    return _catalog("PutItems", message, rcjax_pb2.PutItemsResponse, lambda answer: answer.num_built)


def delete_items(item_ids: Iterable[str]) -> Rpc[int]:
    item_ids = tuple(item_ids)
    with named_texts(item_ids=item_ids):
        message = rcjax_pb2.DeleteItemsRequest(item_ids=item_ids)
    return _catalog("DeleteItems", message, rcjax_pb2.DeleteItemsResponse, lambda answer: answer.num_deleted)


def put_user(user: User) -> Rpc[None]:
    with named_texts(user=user):
        message = rcjax_pb2.PutUserRequest(user=codec.user_to_message(user))
    return _catalog("PutUser", message, rcjax_pb2.PutUserResponse, _nothing)


def append_events(user_id: str, events: Iterable[Event]) -> Rpc[None]:
    """Not idempotent: a try whose answer was lost may have taken effect, and another appends the events again."""
    events = tuple(events)
    with named_texts(user_id=user_id, events=events):
        message = rcjax_pb2.AppendEventsRequest(user_id=user_id, events=map(codec.event_to_message, events))
    return _catalog("AppendEvents", message, rcjax_pb2.AppendEventsResponse, _nothing, is_idempotent=False)


def delete_user(user_id: str) -> Rpc[bool]:
    with named_texts(user_id=user_id):
        message = rcjax_pb2.DeleteUserRequest(user_id=user_id)
    return _catalog("DeleteUser", message, rcjax_pb2.DeleteUserResponse, lambda answer: answer.existed)


def info() -> Rpc[EngineInfo]:
    return _admin("Info", rcjax_pb2.InfoRequest(), rcjax_pb2.InfoResponse, codec.info_from_message)


def stats() -> Rpc[EngineStats]:
    return _admin("Stats", rcjax_pb2.StatsRequest(), rcjax_pb2.StatsResponse, codec.stats_from_message)


def drain(slice_index: int) -> Rpc[None]:
    return _admin("Drain", rcjax_pb2.DrainRequest(slice_index=slice_index), rcjax_pb2.DrainResponse, _nothing)


def undrain(slice_index: int) -> Rpc[None]:
    return _admin("Undrain", rcjax_pb2.UndrainRequest(slice_index=slice_index), rcjax_pb2.UndrainResponse, _nothing)


def rebalance_from(placement_file: Path) -> Rpc[Rebalanced]:
    with named_texts(placement_file=str(placement_file)):
        message = rcjax_pb2.RebalanceRequest(placement_file=str(placement_file))
    return _admin("Rebalance", message, rcjax_pb2.RebalanceResponse, _rebalanced)


def save_request_log(file: Path) -> Rpc[int]:
    with named_texts(file=str(file)):
        message = rcjax_pb2.SaveRequestLogRequest(file=str(file))
    return _admin("SaveRequestLog", message, rcjax_pb2.SaveRequestLogResponse, lambda answer: answer.num_requests)


def take_snapshot() -> Rpc[SnapshotResult]:
    return _admin("Snapshot", rcjax_pb2.SnapshotRequest(), rcjax_pb2.SnapshotResponse, _snapshot)


def restore_snapshot(number: int) -> Rpc[RestoreResult]:
    message = rcjax_pb2.RestoreRequest(number=number)
    return _admin("Restore", message, rcjax_pb2.RestoreResponse, _restored)


def recommend_message(request: RecommendRequest) -> rcjax_pb2.RecommendRequest:
    """Raises `InvalidRequestError` for a text that no message can carry, and for a tenant, which none carries."""
    if request.tenant:
        message = f"tenant is {request.tenant!r}: a server knows a caller's tenant by who calls; leave it out"
        raise InvalidRequestError(message, field="tenant")
    with named_texts(candidates=request.candidates, user_id=request.user_id, history=request.history, arm=request.arm):
        return codec.request_to_message(request)


def _catalog(
    name: str, message: Message, answer: type[Message], read: Callable[[Any], T], *, is_idempotent: bool = True
) -> Rpc[T]:
    return Rpc(f"/rcjax.v1.Catalog/{name}", message, answer, read, is_idempotent)


def _admin(name: str, message: Message, answer: type[Message], read: Callable[[Any], T]) -> Rpc[T]:
    return Rpc(f"/rcjax.v1.Admin/{name}", message, answer, read)


def _rebalanced(answer: rcjax_pb2.RebalanceResponse) -> Rebalanced:
    return Rebalanced(answer.num_arriving, answer.num_built, answer.num_leaving)


def _nothing(answer: Message) -> None:
    return None


def _snapshot(answer: rcjax_pb2.SnapshotResponse) -> SnapshotResult:
    return SnapshotResult(
        number=answer.number,
        num_blocks=answer.num_blocks,
        num_bytes=answer.num_bytes,
        num_written=answer.num_written,
        written_bytes=answer.written_bytes,
        num_items=answer.num_items,
        num_users=answer.num_users,
        took_s=answer.took_s,
    )


def _restored(answer: rcjax_pb2.RestoreResponse) -> RestoreResult:
    return RestoreResult(
        number=answer.number,
        num_blocks=answer.num_blocks,
        num_bytes=answer.num_bytes,
        num_skipped=answer.num_skipped,
        num_present=answer.num_present,
        num_corrupt=answer.num_corrupt,
        num_items=answer.num_items,
        num_users=answer.num_users,
        took_s=answer.took_s,
    )
