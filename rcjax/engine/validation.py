"""What a request or a write may carry: checked by the planner, once, before anything else is done.

Every failure is an `InvalidRequestError` naming the field as rcjax.proto spells it, the value and the limit. Limits in
tokens are checked where texts are tokenised (`rcjax.prompt.FittingTexts`).
"""

import math
from collections.abc import Iterable, Sequence
from typing import NoReturn

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import InvalidRequestError, half_a_character
from rcjax.request import (
    AppendEvents,
    DeleteItems,
    DeleteUser,
    EngineInfo,
    PutItems,
    PutUser,
    RecommendRequest,
    ServiceLimits,
    Write,
)


def validate_request(request: RecommendRequest, info: EngineInfo, limits: ServiceLimits) -> None:
    num_candidates = len(request.candidates)
    _check_count(num_candidates, info.max_candidates, "candidates")
    for index, candidate in enumerate(request.candidates):
        if isinstance(candidate, Item):
            _check_item(candidate, f"candidates[{index}].item", limits)
        elif not _is_id(candidate, limits):
            _refuse_id(candidate, f"candidates[{index}].item_id", limits)
    item_ids = ids_of(request)
    if len(set(item_ids)) < num_candidates:
        _refuse_repeated(item_ids, [_id_field(i, request.candidates[i]) for i in range(num_candidates)])
    if not 0 <= request.top_k <= num_candidates:
        message = f"top_k is {request.top_k}, not within 0 (all) and {num_candidates}, the number of candidates"
        raise InvalidRequestError(message, field="top_k")
    if (num_ranked := request.top_k or num_candidates) > limits.max_top_k:
        asked = f"top_k is {request.top_k}" + ("" if request.top_k else f", which asks for all {num_ranked}")
        raise InvalidRequestError(f"{asked}, over the limit of {limits.max_top_k}; ask for fewer", field="top_k")
    if request.history is not None:
        _check_events(request.history, "history.events", limits)
    if not request.user_id and request.history is None:
        raise InvalidRequestError("user_id is empty; name a user or give a history", field="user_id")
    if request.user_id and not _is_id(request.user_id, limits):
        _refuse_id(request.user_id, "user_id", limits)
    if request.arm and request.arm not in info.arms:
        raise InvalidRequestError(f"arm is {request.arm!r}, not one of {', '.join(info.arms)}", field="arm")


def ids_of(request: RecommendRequest) -> tuple[str, ...]:
    """The ids of a request's candidates."""
    return tuple([c.item_id if isinstance(c, Item) else c for c in request.candidates])


def candidate_field(index: int, candidate: str | Item) -> str:
    """How rcjax.proto spells what names or holds a candidate."""
    return f"candidates[{index}].item" if isinstance(candidate, Item) else f"candidates[{index}].item_id"


def validate_write(write: Write, limits: ServiceLimits) -> None:
    match write:
        case PutItems(items):
            _check_items(items, limits)
        case DeleteItems(item_ids):
            _check_item_ids(item_ids, limits)
        case PutUser(User(user_id, events)):
            _check_id(user_id, "user.user_id", limits)
            _check_events(events, "user.events", limits)
        case AppendEvents(user_id, events):
            _check_id(user_id, "user_id", limits)
            _check_count(len(events), limits.max_events, "events")
            _check_events(events, "events", limits)
        case DeleteUser(user_id):
            _check_id(user_id, "user_id", limits)


def _check_items(items: Sequence[Item], limits: ServiceLimits) -> None:
    _check_count(len(items), limits.max_items, "items")
    for index, item in enumerate(items):
        _check_item(item, f"items[{index}]", limits)
    item_ids = [item.item_id for item in items]
    if len(set(item_ids)) < len(items):
        _refuse_repeated(item_ids, [f"items[{index}].item_id" for index in range(len(items))])


def _check_item_ids(item_ids: Sequence[str], limits: ServiceLimits) -> None:
    _check_count(len(item_ids), limits.max_items, "item_ids")
    for index, item_id in enumerate(item_ids):
        _check_id(item_id, f"item_ids[{index}]", limits)
    if len(set(item_ids)) < len(item_ids):
        _refuse_repeated(item_ids, [f"item_ids[{index}]" for index in range(len(item_ids))])


def _check_item(item: Item, path: str, limits: ServiceLimits) -> None:
    _check_id(item.item_id, f"{path}.item_id", limits)
    num_bytes = _check_text(item.title, f"{path}.title", limits)
    num_bytes += _check_text(item.description, f"{path}.description", limits)
    num_bytes += _check_text(item.brand, f"{path}.brand", limits)
    if not (item.title.strip() or item.description.strip()):
        message = f"{path} has no text: give a title or a description"
        raise InvalidRequestError(message, field=f"{path}.title")
    _check_at_most(len(item.categories), limits.max_categories, f"{path}.categories")
    for index, category in enumerate(item.categories):
        num_bytes += _check_text(category, f"{path}.categories[{index}]", limits)
    _check_bytes(num_bytes, path, limits)
    if item.price is not None and not 0 <= item.price < math.inf:
        field = f"{path}.price"
        raise InvalidRequestError(f"{field} is {item.price}, not a finite number from 0", field=field)


def _check_events(events: Sequence[Event], path: str, limits: ServiceLimits) -> None:
    _check_at_most(len(events), limits.max_events, path)
    for index, event in enumerate(events):
        at = f"{path}[{index}]"
        _check_id(event.item_id, f"{at}.item_id", limits)
        num_bytes = _check_text(event.title, f"{at}.title", limits) + _check_text(event.text, f"{at}.text", limits)
        _check_bytes(num_bytes, at, limits)
        if not (event.title.strip() or event.text.strip()):
            raise InvalidRequestError(f"{at} has no text: give a title or a text", field=f"{at}.title")
        if event.rating is not None and not math.isfinite(event.rating):
            field = f"{at}.rating"
            raise InvalidRequestError(f"{field} is {event.rating}, not a finite number", field=field)


def _is_id(value: str, limits: ServiceLimits) -> bool:
    return 0 < len(value) <= limits.max_id_len and "\0" not in value and (value.isascii() or _has_utf8(value))


def _has_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_id(value: str, field: str, limits: ServiceLimits) -> None:
    if not _is_id(value, limits):
        _refuse_id(value, field, limits)


def _refuse_id(value: str, field: str, limits: ServiceLimits) -> NoReturn:
    if not value:
        raise InvalidRequestError(f"{field} is empty; give an id", field=field)
    _check_len(value, limits.max_id_len, field)
    check_characters(value, field)
    raise InvalidRequestError(f"{field} is {value!r}: an id must not hold NUL", field=field)


def _check_text(value: str, field: str, limits: ServiceLimits) -> int:
    """How many bytes it has."""
    _check_len(value, limits.max_text_len, field)
    return check_characters(value, field)


def check_characters(value: str, field: str) -> int:
    """Refuses half a surrogate pair: Python takes it for a character, UTF-8 does not. Returns how many bytes it has."""
    try:
        return len(value) if value.isascii() else len(value.encode())  # which Python knows without looking at the text
    except UnicodeEncodeError as error:
        raise half_a_character(error, field) from error


def _check_bytes(num_bytes: int, path: str, limits: ServiceLimits) -> None:
    if num_bytes > limits.max_text_bytes:
        message = f"{path} has {num_bytes} bytes of text, over the limit of {limits.max_text_bytes}; shorten it"
        raise InvalidRequestError(message, field=path)


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


def _id_field(index: int, candidate: str | Item) -> str:
    field = candidate_field(index, candidate)
    return f"{field}.item_id" if isinstance(candidate, Item) else field


def _refuse_repeated(ids: Iterable[str], fields: Iterable[str]) -> NoReturn:
    first: dict[str, str] = {}
    for value, field in zip(ids, fields, strict=True):
        if value in first:
            message = f"{field} is {value!r}, which {first[value]} already is; give each id once"
            raise InvalidRequestError(message, field=field)
        first[value] = field
    raise ValueError(f"no id is repeated in {list(first)}")
