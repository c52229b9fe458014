"""Messages of rcjax.v1 to and from the engine's values; only shapes are looked at here, not values.

What a ranking carries is spelled out field by field: `dataclasses.asdict` would take six times as long, 0.1 ms for 20
candidates on the thread that serves all calls.
"""

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

from google.protobuf.message import Message

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import InvalidRequestError
from rcjax.request import (
    EngineInfo,
    EngineStats,
    RankedItem,
    RecommendRequest,
    RecommendResult,
    ServiceLimits,
    SliceStats,
    StageTimes,
    TokenCounts,
)
from rcjax.serving.v1 import rcjax_pb2


def item_to_message(item: Item) -> rcjax_pb2.Item:
    return rcjax_pb2.Item(
        item_id=item.item_id,
        title=item.title,
        description=item.description,
        brand=item.brand,
        categories=item.categories,
        price=item.price,
    )


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
    return rcjax_pb2.Event(
        item_id=event.item_id,
        title=event.title,
        text=event.text,
        rating=event.rating,
        timestamp_s=event.timestamp_s,
    )


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
    return rcjax_pb2.User(user_id=user.user_id, events=map(event_to_message, user.events))


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


def request_from_message(message: rcjax_pb2.RecommendRequest, tenant: str) -> RecommendRequest:
    """A request of the caller's tenant, which no message says.

    Raises `InvalidRequestError` for a candidate that is neither an id nor an item.
    """
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
        tenant=tenant,
    )


def result_to_message(result: RecommendResult) -> rcjax_pb2.RecommendResponse:
    times = result.times
    return rcjax_pb2.RecommendResponse(
        ranking=[
            rcjax_pb2.RankedItem(item_id=ranked.item_id, score=ranked.score, rank=ranked.rank)
            for ranked in result.ranking
        ],
        tokens=tokens_to_message(result.tokens),
        times=rcjax_pb2.StageTimes(
            queue_ms=times.queue_ms,
            plan_ms=times.plan_ms,
            build_ms=times.build_ms,
            probe_ms=times.probe_ms,
            extend_ms=times.extend_ms,
            readout_ms=times.readout_ms,
            ttft_ms=times.ttft_ms,
        ),
        arm=result.arm,
        slice_index=result.slice_index,
    )


def result_from_message(message: rcjax_pb2.RecommendResponse) -> RecommendResult:
    times = message.times
    return RecommendResult(
        ranking=tuple(RankedItem(ranked.item_id, ranked.score, ranked.rank) for ranked in message.ranking),
        tokens=tokens_from_message(message.tokens),
        times=StageTimes(
            queue_ms=times.queue_ms,
            plan_ms=times.plan_ms,
            build_ms=times.build_ms,
            probe_ms=times.probe_ms,
            extend_ms=times.extend_ms,
            readout_ms=times.readout_ms,
            ttft_ms=times.ttft_ms,
        ),
        arm=message.arm,
        slice_index=message.slice_index,
    )


def tokens_to_message(tokens: TokenCounts) -> rcjax_pb2.TokenCounts:
    return rcjax_pb2.TokenCounts(
        cached=tokens.cached,
        selected=tokens.selected,
        fresh=tokens.fresh,
        built=tokens.built,
        probed=tokens.probed,
        semantic=tokens.semantic,
        fetched=tokens.fetched,
        host=tokens.host,
        disk=tokens.disk,
    )


def tokens_from_message(message: rcjax_pb2.TokenCounts) -> TokenCounts:
    return TokenCounts(
        cached=message.cached,
        selected=message.selected,
        fresh=message.fresh,
        built=message.built,
        probed=message.probed,
        semantic=message.semantic,
        fetched=message.fetched,
        host=message.host,
        disk=message.disk,
    )


def info_to_message(info: EngineInfo) -> rcjax_pb2.InfoResponse:
    return rcjax_pb2.InfoResponse(**asdict(info))


def info_from_message(message: rcjax_pb2.InfoResponse) -> EngineInfo:
    limits = ServiceLimits(**_by_name(ServiceLimits, message.limits))
    return EngineInfo(**_by_name(EngineInfo, message) | {"arms": tuple(message.arms), "limits": limits})


def stats_to_message(stats: EngineStats) -> rcjax_pb2.StatsResponse:
    return rcjax_pb2.StatsResponse(**asdict(stats))


def stats_from_message(message: rcjax_pb2.StatsResponse) -> EngineStats:
    slices = tuple(SliceStats(**_by_name(SliceStats, one)) for one in message.slices)
    parts = {"tokens": tokens_from_message(message.tokens), "slices": slices}
    return EngineStats(**_by_name(EngineStats, message) | parts)


def _by_name(to: Any, message: Message) -> dict[str, Any]:
    """The fields of a dataclass, which have the same names in the message."""
    return {field.name: getattr(message, field.name) for field in fields(to)}
