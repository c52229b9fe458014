"""What the real engine refuses names a field as rcjax.proto spells it, through gRPC, for every kind of error."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from google.protobuf.descriptor import Descriptor
from tiny_engine import event, item

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import InvalidRequestError, NotFoundError, RcjaxError
from rcjax.request import RecommendRequest
from rcjax.serving.client import RecommenderClient
from rcjax.serving.server import Server, running_server
from rcjax.serving.v1 import rcjax_pb2

ARM = "parallel_anchor_blocks"
GOOD = RecommendRequest(("i1", "i2"), "u", arm=ARM)
LONG = " ".join(["word"] * 100)


@pytest.fixture
def client(engine) -> Iterator[RecommenderClient]:
    engine.put_items([item(1), item(2)])
    engine.put_user(User("u", (event(1),)))
    with running_server(Server(lambda: engine.router)) as addresses, RecommenderClient(addresses.main) as client:
        yield client


def spelled(field: str, message: Descriptor) -> bool:
    """Whether a path such as `candidates[3].item.title` names a field of the message."""
    name, _, rest = field.partition(".")
    found = message.fields_by_name.get(name.partition("[")[0])
    if found is None or ("[" in name) != (found.is_repeated if "[" in name else False):
        return False
    return not rest or (found.message_type is not None and spelled(rest, found.message_type))


REQUESTS = [
    (replace(GOOD, candidates=()), "candidates"),
    (replace(GOOD, candidates=("i1", "i1")), "candidates[1].item_id"),
    (replace(GOOD, candidates=("i1", "i77")), "candidates[1].item_id"),
    (replace(GOOD, candidates=("i1", "")), "candidates[1].item_id"),
    (replace(GOOD, candidates=("i1", "a\0b")), "candidates[1].item_id"),
    (replace(GOOD, candidates=("i1", Item("x", LONG))), "candidates[1].item"),
    (replace(GOOD, candidates=("i1", Item("x", "X", price=math.nan))), "candidates[1].item.price"),
    (replace(GOOD, candidates=("i1", Item("x", "x" * 20_001))), "candidates[1].item.title"),
    (replace(GOOD, top_k=3), "top_k"),
    (replace(GOOD, user_id="nobody"), "user_id"),
    (replace(GOOD, user_id=""), "user_id"),
    (replace(GOOD, arm="magic"), "arm"),
    (replace(GOOD, history=(Event("e", LONG),)), "history.events"),
    (replace(GOOD, history=(Event("e", ""),)), "history.events[0].title"),
    (replace(GOOD, history=(event(1), Event("e", "E", rating=math.inf))), "history.events[1].rating"),
]


@pytest.mark.parametrize(("request_", "field"), REQUESTS)
def test_of_a_request(client: RecommenderClient, request_: RecommendRequest, field: str) -> None:
    with pytest.raises(RcjaxError) as caught:
        client.recommend(request_)
    assert caught.value.field == field
    assert spelled(field, rcjax_pb2.RecommendRequest.DESCRIPTOR)


WRITES: list[tuple[str, Callable[[RecommenderClient], object], str]] = [
    ("PutItems", lambda client: client.put_items([]), "items"),
    ("PutItems", lambda client: client.put_items([item(3), Item("x", LONG)]), "items[1]"),
    ("PutItems", lambda client: client.put_items([item(3), item(3)]), "items[1].item_id"),
    ("PutItems", lambda client: client.put_items([Item("x", "", description=" ")]), "items[0].title"),
    ("DeleteItems", lambda client: client.delete_items([]), "item_ids"),
    ("DeleteItems", lambda client: client.delete_items(["i1", "i1"]), "item_ids[1]"),
    ("PutUser", lambda client: client.put_user(User("")), "user.user_id"),
    ("PutUser", lambda client: client.put_user(User("u", (Event("e", LONG),))), "user.events"),
    ("AppendEvents", lambda client: client.append_events("nobody", [event(1)]), "user_id"),
    ("AppendEvents", lambda client: client.append_events("u", []), "events"),
    ("AppendEvents", lambda client: client.append_events("u", [Event("e", LONG)]), "events"),
    ("DeleteUser", lambda client: client.delete_user(""), "user_id"),
]


@pytest.mark.parametrize(("method", "call", "field"), WRITES)
def test_of_a_write(
    client: RecommenderClient, method: str, call: Callable[[RecommenderClient], object], field: str
) -> None:
    with pytest.raises(RcjaxError) as caught:
        call(client)
    assert caught.value.field == field
    assert spelled(field, getattr(rcjax_pb2, f"{method}Request").DESCRIPTOR)


def test_half_a_character_harms_only_its_own_request(engine) -> None:
    engine.put_items([item(1), item(2)])
    engine.put_user(User("u", (event(1),)))
    bad = [replace(GOOD, candidates=("i1", Item("x", "\ud83d"))), replace(GOOD, user_id="\ud83d")]
    outcomes = engine.recommend([GOOD, bad[0], GOOD, bad[1]])
    assert [isinstance(outcome, RcjaxError) for outcome in outcomes] == [False, True, False, True]
    assert [outcome.field for outcome in outcomes[1::2]] == ["candidates[1].item.title", "user_id"]
    assert outcomes[0].ranking == outcomes[2].ranking
    users = engine.put_users([User("v", (Event("e", "\ud83d"),)), User("w", (event(2),))])
    assert [getattr(user, "field", "") for user in users] == ["user.events[0].title", ""]
    with pytest.raises(InvalidRequestError, match="prompt has"):
        engine.generate("\ud83d", None)


def test_a_failed_write_changed_nothing(client: RecommenderClient) -> None:
    with pytest.raises(RcjaxError):
        client.put_items([item(4), Item("x", LONG)])
    with pytest.raises(NotFoundError, match="i4"):
        client.recommend(replace(GOOD, candidates=("i4",)))


@pytest.mark.parametrize("field", ["items", "candidates[0].item_ids", "candidates[0].item.names", "top_k[0]"])
def test_another_spelling_would_be_noticed(field: str) -> None:
    assert not spelled(field, rcjax_pb2.RecommendRequest.DESCRIPTOR)
