"""What a call may carry. Checked once, at the edge, before the engine sees it.

Every failure is an `InvalidRequestError` naming the field as rcjax.proto spells it, the value and the limit.
Limits in tokens are the engine's to check: only it has the tokenizer.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import InvalidRequestError
from rcjax.request import EngineInfo, RecommendRequest


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """What one call may carry whatever the engine; lengths are in characters."""

    max_id_len: int = 256
    max_text_len: int = 20_000  # of each text field
    max_categories: int = 32  # of one item
    max_items: int = 1_000  # in one PutItems or DeleteItems
    max_events: int = 1_000  # in one call


def validate_request(request: RecommendRequest, info: EngineInfo, limits: ServiceLimits) -> None:
    num_candidates = len(request.candidates)
    _check_count(num_candidates, info.max_candidates, "candidates")
    fields, item_ids = [], []
    for index, candidate in enumerate(request.candidates):
        path = f"candidates[{index}]"
        if isinstance(candidate, Item):
            path = f"{path}.item"
            _check_item(candidate, path, limits)
        item_id = candidate.item_id if isinstance(candidate, Item) else candidate
        _check_id(item_id, f"{path}.item_id", limits)
        fields.append(f"{path}.item_id")
        item_ids.append(item_id)
    _check_unique(item_ids, fields)
    if not 0 <= request.top_k <= num_candidates:
        message = f"top_k is {request.top_k}, not within 0 (all) and {num_candidates}, the number of candidates"
        raise InvalidRequestError(message, field="top_k")
    if request.history is not None:
        _check_events(request.history, "history.events", limits)
    if request.user_id or request.history is None:
        _check_id(request.user_id, "user_id", limits, remedy="; name a user or give a history")
    if request.arm and request.arm not in info.arms:
        message = f"arm is {request.arm!r}, not one of {', '.join(info.arms)}"
        raise InvalidRequestError(message, field="arm")


def validate_items(items: Sequence[Item], limits: ServiceLimits) -> None:
    _check_count(len(items), limits.max_items, "items")
    for index, item in enumerate(items):
        _check_item(item, f"items[{index}]", limits)
    _check_unique([item.item_id for item in items], [f"items[{i}].item_id" for i in range(len(items))])


def validate_item_ids(item_ids: Sequence[str], limits: ServiceLimits) -> None:
    _check_count(len(item_ids), limits.max_items, "item_ids")
    fields = [f"item_ids[{index}]" for index in range(len(item_ids))]
    for item_id, field in zip(item_ids, fields, strict=True):
        _check_id(item_id, field, limits)
    _check_unique(item_ids, fields)


def validate_user(user: User, limits: ServiceLimits) -> None:
    _check_id(user.user_id, "user.user_id", limits)
    _check_events(user.events, "user.events", limits)


def validate_new_events(user_id: str, events: Sequence[Event], limits: ServiceLimits) -> None:
    _check_id(user_id, "user_id", limits)
    _check_count(len(events), limits.max_events, "events")
    _check_events(events, "events", limits)


def validate_user_id(user_id: str, limits: ServiceLimits) -> None:
    _check_id(user_id, "user_id", limits)


def _check_item(item: Item, path: str, limits: ServiceLimits) -> None:
    _check_id(item.item_id, f"{path}.item_id", limits)
    for name in ("title", "description", "brand"):
        _check_text(getattr(item, name), f"{path}.{name}", limits)
    if not (item.title.strip() or item.description.strip()):
        message = f"{path} has no text: give a title or a description"
        raise InvalidRequestError(message, field=f"{path}.title")
    _check_at_most(len(item.categories), limits.max_categories, f"{path}.categories")
    for index, category in enumerate(item.categories):
        _check_text(category, f"{path}.categories[{index}]", limits)
    if item.price is not None and not 0 <= item.price < math.inf:
        field = f"{path}.price"
        raise InvalidRequestError(f"{field} is {item.price}, not a finite number from 0", field=field)


def _check_events(events: Sequence[Event], path: str, limits: ServiceLimits) -> None:
    _check_at_most(len(events), limits.max_events, path)
    for index, event in enumerate(events):
        at = f"{path}[{index}]"
        _check_id(event.item_id, f"{at}.item_id", limits)
        _check_text(event.title, f"{at}.title", limits)
        _check_text(event.text, f"{at}.text", limits)
        if not (event.title.strip() or event.text.strip()):
            raise InvalidRequestError(f"{at} has no text: give a title or a text", field=f"{at}.title")
        if event.rating is not None and not math.isfinite(event.rating):
            field = f"{at}.rating"
            raise InvalidRequestError(f"{field} is {event.rating}, not a finite number", field=field)


def _check_id(value: str, field: str, limits: ServiceLimits, *, remedy: str = "") -> None:
    if not value:
        raise InvalidRequestError(f"{field} is empty{remedy}", field=field)
    _check_len(value, limits.max_id_len, field)


def _check_text(value: str, field: str, limits: ServiceLimits) -> None:
    _check_len(value, limits.max_text_len, field)


def _check_len(value: str, max_len: int, field: str) -> None:
    if len(value) > max_len:
        message = f"{field} is {len(value)} characters long, over the limit of {max_len}"
        raise InvalidRequestError(message, field=field)


def _check_count(count: int, max_count: int, field: str) -> None:
    if count == 0:
        raise InvalidRequestError(f"{field} is empty; give from 1 to {max_count}", field=field)
    _check_at_most(count, max_count, field)


def _check_at_most(count: int, max_count: int, field: str) -> None:
    if count > max_count:
        message = f"{field} has {count} elements, over the limit of {max_count}"
        raise InvalidRequestError(message, field=field)


def _check_unique(ids: Iterable[str], fields: Iterable[str]) -> None:
    first: dict[str, str] = {}
    for value, field in zip(ids, fields, strict=True):
        if value in first:
            message = f"{field} is {value!r}, which {first[value]} already is; give each id once"
            raise InvalidRequestError(message, field=field)
        first[value] = field
