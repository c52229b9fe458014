"""Each bad value gets an error that names its field, the value and the limit; each good one passes."""

import math
from dataclasses import replace

import pytest

from rcjax.catalog.types import Event, Item, User
from rcjax.engine.validation import validate_request, validate_write
from rcjax.errors import InvalidRequestError
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

INFO = EngineInfo(
    "m", "f", "t v1", "float32", "cpu", "0", 16, 5, 192, 512, arms=("full", "blocks"), default_arm="blocks"
)
LIMITS = ServiceLimits(
    max_id_len=8, max_text_len=10, max_text_bytes=22, max_categories=2, max_items=3, max_events=2, max_top_k=5
)
GOOD = RecommendRequest(candidates=("a", Item("b", "B"), "c"), user_id="ann")
EVENT = Event("a", "A")


def with_item(**changes: object) -> RecommendRequest:
    return replace(GOOD, candidates=("a", replace(Item("b", "B"), **changes)))


BAD_REQUESTS = {
    "no candidates": (replace(GOOD, candidates=()), "candidates", "from 1 to 5"),
    "too many": (replace(GOOD, candidates=tuple("abcdef")), "candidates", "6 elements, over the limit of 5"),
    "duplicate id": (replace(GOOD, candidates=("a", "b", "a")), "candidates[2].item_id", "candidates[0].item_id"),
    "duplicate inline": (
        replace(GOOD, candidates=("b", Item("b", "B"))),
        "candidates[1].item.item_id",
        "candidates[0].item_id",
    ),
    "empty id": (replace(GOOD, candidates=("a", "")), "candidates[1].item_id", "empty"),
    "NUL": (replace(GOOD, candidates=("a", "b\0")), "candidates[1].item_id", "NUL"),
    "NUL in a user's id": (replace(GOOD, user_id="\0u"), "user_id", "NUL"),
    "NUL in an inline id": (with_item(item_id="b\0"), "candidates[1].item.item_id", "NUL"),
    "long id": (
        replace(GOOD, candidates=("a" * 9,)),
        "candidates[0].item_id",
        "9 characters long, over the limit of 8",
    ),
    "empty inline id": (with_item(item_id=""), "candidates[1].item.item_id", "empty"),
    "long title": (with_item(title="é" * 11), "candidates[1].item.title", "11 characters long, over the limit of 10"),
    "long description": (with_item(description="x" * 11), "candidates[1].item.description", "11 characters"),
    "long brand": (with_item(brand="x" * 11), "candidates[1].item.brand", "11 characters"),
    "long category": (with_item(categories=("x", "x" * 11)), "candidates[1].item.categories[1]", "11 characters"),
    "categories": (with_item(categories=("x", "y", "z")), "candidates[1].item.categories", "3 elements"),
    "much text": (
        with_item(title="x" * 10, description="é" * 4, brand="x", categories=("é", "xx")),
        "candidates[1].item",
        "candidates[1].item has 23 bytes of text, over the limit of 22",
    ),
    "text of many bytes": (replace(GOOD, history=(EVENT, Event("a", "茶" * 8))), "history.events[1]", "24 bytes"),
    "no text": (with_item(title="  "), "candidates[1].item.title", "give a title or a description"),
    "nan price": (with_item(price=math.nan), "candidates[1].item.price", "nan"),
    "infinite price": (with_item(price=math.inf), "candidates[1].item.price", "inf"),
    "negative price": (with_item(price=-0.5), "candidates[1].item.price", "-0.5"),
    "negative top_k": (replace(GOOD, top_k=-1), "top_k", "-1, not within 0 (all) and 3"),
    "top_k": (replace(GOOD, top_k=4), "top_k", "4, not within 0 (all) and 3"),
    "neither user nor history": (replace(GOOD, user_id=""), "user_id", "name a user or give a history"),
    "long user": (replace(GOOD, user_id="u" * 9), "user_id", "over the limit of 8"),
    "long user with history": (replace(GOOD, user_id="u" * 9, history=()), "user_id", "over the limit of 8"),
    "unknown arm": (replace(GOOD, arm="magic"), "arm", "full, blocks"),
    "many events": (replace(GOOD, history=(EVENT,) * 3), "history.events", "3 elements, over the limit of 2"),
    "event id": (replace(GOOD, history=(Event("", "A"),)), "history.events[0].item_id", "empty"),
    "event title": (replace(GOOD, history=(EVENT, Event("a", "x" * 11))), "history.events[1].title", "11 characters"),
    "event text": (replace(GOOD, history=(Event("a", "A", text="x" * 11),)), "history.events[0].text", "11 characters"),
    "event without text": (replace(GOOD, history=(Event("a", ""),)), "history.events[0].title", "no text"),
    "half a character in an id": (replace(GOOD, candidates=("a", "é\ud83d")), "candidates[1].item_id", "\\ud83d at "),
    "half a character in a user": (replace(GOOD, user_id="\ud83d"), "user_id", "\\ud83d at character 1, half a"),
    "half a character in a title": (with_item(title="é\udc00"), "candidates[1].item.title", "\\udc00 at character 2"),
    "two halves": (with_item(brand="\ud83d\ude00"), "candidates[1].item.brand", "\\ud83d at character 1"),
    "half a character in a category": (with_item(categories=("\ud83d",)), "candidates[1].item.categories[0]", "half"),
    "half a character in an event": (
        replace(GOOD, history=(Event("a", "A", text="\ud83d"),)),
        "history.events[0].text",
        "half a surrogate pair",
    ),
    "rating": (replace(GOOD, history=(Event("a", "A", rating=-math.inf),)), "history.events[0].rating", "-inf"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
def test_bad_request_is_refused_with_field_and_limit(name: str) -> None:
    request, field, part = BAD_REQUESTS[name]
    with pytest.raises(InvalidRequestError) as caught:
        validate_request(request, INFO, LIMITS)
    assert caught.value.field == field
    assert part in caught.value.message


@pytest.mark.parametrize(
    "request_",
    [
        GOOD,
        replace(GOOD, candidates=tuple("abcde"), top_k=5, arm="full"),
        replace(GOOD, user_id="", history=()),  # a newcomer
        replace(GOOD, user_id="u" * 8, history=(EVENT, Event("a", "", text="x" * 10, rating=-1.0))),
        replace(GOOD, candidates=("é", "茶\N{TEACUP WITHOUT HANDLE}"), user_id="é"),
        with_item(title="x" * 10, description="é" * 4, brand="x", categories=("é", "x")),
        replace(GOOD, history=(Event("a", "x" * 10, text="é" * 6),)),
        with_item(title="", description="é" * 10, price=0.0, categories=("x", "y")),
    ],
)
def test_request_at_the_limits_passes(request_: RecommendRequest) -> None:
    validate_request(request_, INFO, LIMITS)


def test_a_ranking_names_no_more_than_top_k_may_be() -> None:
    limits = replace(LIMITS, max_top_k=2)
    validate_request(replace(GOOD, top_k=2), INFO, limits)
    for top_k, part in (
        (0, "top_k is 0, which asks for all 3, over the limit"),
        (3, "top_k is 3, over the limit of 2"),
    ):
        with pytest.raises(InvalidRequestError, match=part) as caught:
            validate_request(replace(GOOD, top_k=top_k), INFO, limits)
        assert caught.value.field == "top_k"


BAD_WRITES = [
    (PutItems(()), "items", "from 1 to 3"),
    (PutItems(tuple(Item(c, c) for c in "abcd")), "items", "4 elements, over the limit of 3"),
    (PutItems((Item("a", "A"), Item("a", "B"))), "items[1].item_id", "items[0].item_id"),
    (PutItems((Item("a", "A", price=-1.0),)), "items[0].price", "-1.0"),
    (PutItems((Item("a", "A"), Item("\0", "B"))), "items[1].item_id", "NUL"),
    (DeleteItems(()), "item_ids", "from 1 to 3"),
    (DeleteItems(tuple("abcd")), "item_ids", "4 elements"),
    (DeleteItems(("a", "")), "item_ids[1]", "empty"),
    (DeleteItems(("a", "b\0")), "item_ids[1]", "NUL"),
    (DeleteItems(("a", "b", "b")), "item_ids[2]", "item_ids[1]"),
    (PutUser(User("")), "user.user_id", "empty"),
    (PutUser(User("u" * 9)), "user.user_id", "over the limit of 8"),
    (PutUser(User("u", (EVENT,) * 3)), "user.events", "3 elements"),
    (PutUser(User("u", (Event("", "A"),))), "user.events[0].item_id", "empty"),
    (AppendEvents("", (EVENT,)), "user_id", "empty"),
    (AppendEvents("u", ()), "events", "from 1 to 2"),
    (AppendEvents("u", (EVENT,) * 3), "events", "3 elements"),
    (AppendEvents("u", (EVENT, Event("a", ""))), "events[1].title", "no text"),
    (DeleteUser(""), "user_id", "empty"),
    (DeleteUser("a\0"), "user_id", "NUL"),
    (DeleteUser("\ud83d"), "user_id", "half a surrogate pair"),
    (PutItems((Item("a", "A"), Item("b", "B", "\ud83d"))), "items[1].description", "half a surrogate pair"),
    (DeleteItems(("a", "\ud83d")), "item_ids[1]", "half a surrogate pair"),
]


@pytest.mark.parametrize(("write", "field", "part"), BAD_WRITES, ids=str)
def test_bad_write_is_refused_with_field_and_limit(write: Write, field: str, part: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validate_write(write, LIMITS)
    assert caught.value.field == field
    assert part in caught.value.message


@pytest.mark.parametrize(
    "write",
    [
        PutItems(tuple(Item(c, c) for c in "abc")),
        DeleteItems(tuple("abc")),
        PutUser(User("u")),
        PutUser(User("u" * 8, (EVENT, EVENT))),
        AppendEvents("u", (EVENT, EVENT)),
        DeleteUser("u" * 8),
    ],
    ids=str,
)
def test_write_at_the_limits_passes(write: Write) -> None:
    validate_write(write, LIMITS)
