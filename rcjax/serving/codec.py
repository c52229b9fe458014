"""Messages of rcjax.v1 to and from the engine's types; only shapes are looked at here, not values.

Messages and dataclasses have the same field names, so most of them map by name.
"""

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any, TypeVar

from google.protobuf.message import Message

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import InvalidRequestError
from rcjax.request import (
    EngineInfo,
    EngineStats,
    RankedItem,
    RecommendRequest,
    RecommendResult,
    StageTimes,
    TokenCounts,
)
from rcjax.serving.v1 import rcjax_pb2

_Flat = TypeVar("_Flat", RankedItem, TokenCounts, StageTimes)


def item_to_message(item: Item) -> rcjax_pb2.Item:
    return rcjax_pb2.Item(**asdict(item))


def item_from_message(message: rcjax_pb2.Item) -> Item:
    return Item(
        item_id=message.item_id,
        title=message.title,
        description=message.description,
        brand=message.brand,
        categories=tuple(message.categories),
        price=message.price if message.HasField("price") else None,
    )


def event_to_message(event: Event) -> rcjax_pb2.Event:
    return rcjax_pb2.Event(**asdict(event))


def events_from_messages(messages: Iterable[rcjax_pb2.Event]) -> tuple[Event, ...]:
    return tuple(
        Event(
            item_id=message.item_id,
            title=message.title,
            text=message.text,
            rating=message.rating if message.HasField("rating") else None,
            timestamp_s=message.timestamp_s if message.HasField("timestamp_s") else None,
        )
        for message in messages
    )


def user_to_message(user: User) -> rcjax_pb2.User:
    return rcjax_pb2.User(**asdict(user))


def user_from_message(message: rcjax_pb2.User) -> User:
    return User(user_id=message.user_id, events=events_from_messages(message.events))


def request_to_message(request: RecommendRequest) -> rcjax_pb2.RecommendRequest:
    message = rcjax_pb2.RecommendRequest(user_id=request.user_id, top_k=request.top_k, arm=request.arm)
    for candidate in request.candidates:
        if isinstance(candidate, Item):
            message.candidates.add(item=item_to_message(candidate))
        else:
            message.candidates.add(item_id=candidate)
    if request.history is not None:
        message.history.SetInParent()  # an empty history is not an absent one
        message.history.events.extend(map(event_to_message, request.history))
    return message


def request_from_message(message: rcjax_pb2.RecommendRequest) -> RecommendRequest:
    """Raises `InvalidRequestError` for a candidate that is neither an id nor an item."""
    candidates: list[str | Item] = []
    for index, candidate in enumerate(message.candidates):
        kind = candidate.WhichOneof("candidate")
        if kind is None:
            field = f"candidates[{index}]"
            raise InvalidRequestError(f"{field} is empty: set item_id or item", field=field)
        candidates.append(candidate.item_id if kind == "item_id" else item_from_message(candidate.item))
    return RecommendRequest(
        candidates=tuple(candidates),
        user_id=message.user_id,
        history=events_from_messages(message.history.events) if message.HasField("history") else None,
        top_k=message.top_k,
        arm=message.arm,
    )


def result_to_message(result: RecommendResult) -> rcjax_pb2.RecommendResponse:
    return rcjax_pb2.RecommendResponse(**asdict(result))


def result_from_message(message: rcjax_pb2.RecommendResponse) -> RecommendResult:
    return RecommendResult(
        ranking=tuple(_flat(RankedItem, ranked) for ranked in message.ranking),
        tokens=_flat(TokenCounts, message.tokens),
        times=_flat(StageTimes, message.times),
        arm=message.arm,
    )


def info_to_message(info: EngineInfo) -> rcjax_pb2.InfoResponse:
    return rcjax_pb2.InfoResponse(**asdict(info))


def info_from_message(message: rcjax_pb2.InfoResponse) -> EngineInfo:
    return EngineInfo(**_values(EngineInfo, message) | {"arms": tuple(message.arms)})


def stats_to_message(stats: EngineStats) -> rcjax_pb2.StatsResponse:
    return rcjax_pb2.StatsResponse(**asdict(stats))


def stats_from_message(message: rcjax_pb2.StatsResponse) -> EngineStats:
    return EngineStats(**_values(EngineStats, message) | {"tokens": _flat(TokenCounts, message.tokens)})


def _flat(to: type[_Flat], message: Message) -> _Flat:
    return to(**_values(to, message))


def _values(to: Any, message: Message) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in fields(to)}
