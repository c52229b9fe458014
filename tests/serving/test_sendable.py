"""What no message can carry is refused by the client, by the field that rcjax.proto spells, before anything is sent."""

import pytest

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import InvalidRequestError
from rcjax.request import RecommendRequest
from rcjax.serving.client import RecommenderClient
from rcjax.serving.sendable import MAX_MESSAGE_BYTES, check_size, named_texts
from rcjax.serving.v1 import rcjax_pb2

HALF = "ok é \ud83d"
CALLS = [
    ("user_id", lambda client: client.recommend(RecommendRequest(("a",), HALF))),
    ("arm", lambda client: client.recommend(RecommendRequest(("a",), "u", arm=HALF))),
    ("candidates[1].item_id", lambda client: client.recommend(RecommendRequest(("a", HALF), "u"))),
    ("candidates[0].item.title", lambda client: client.recommend(RecommendRequest((Item("a", HALF),), "u"))),
    (
        "history.events[1].text",
        lambda client: client.recommend(RecommendRequest(("a",), history=(Event("e", "E"), Event("e", "E", HALF)))),
    ),
    ("items[1].categories[1]", lambda c: c.put_items(iter([Item("a", "A"), Item("b", "B", categories=("x", HALF))]))),
    ("item_ids[0]", lambda client: client.delete_items(iter([HALF]))),
    ("user.user_id", lambda client: client.put_user(User(HALF))),
    ("user.events[0].title", lambda client: client.put_user(User("u", (Event("e", HALF),)))),
    ("user_id", lambda client: client.append_events(HALF, [])),
    ("events[0].item_id", lambda client: client.append_events("u", iter([Event(HALF, "E")]))),
    ("user_id", lambda client: client.delete_user(HALF)),
]


@pytest.fixture(scope="module")
def client():
    with RecommenderClient("127.0.0.1:1") as client:  # where nobody listens: what is sent fails otherwise
        yield client


@pytest.mark.parametrize(("field", "call"), CALLS)
def test_half_a_character_is_refused_by_its_field(client, field, call):
    with pytest.raises(InvalidRequestError) as caught:
        call(client)
    assert caught.value.field == field
    assert caught.value.message == (
        f"{field} has \\ud83d at character 6, half a surrogate pair and no character; take it away"
    )


def test_other_errors_are_not_renamed():
    with pytest.raises(ValueError, match="out of range"), named_texts(user_id=HALF):
        rcjax_pb2.RecommendRequest(top_k=2**40)


def test_a_message_that_no_server_takes_is_not_sent(client):
    items = [Item(f"i{n}", "x" * 2**20) for n in range(33)]
    with pytest.raises(InvalidRequestError, match=r"34,60\d,\d+ bytes, a server takes 33,554,432; send it in"):
        client.put_items(items)


def test_the_limit_itself_is_taken():
    message = rcjax_pb2.DeleteUserRequest(user_id="x" * (MAX_MESSAGE_BYTES - 5))  # a tag and a length of four bytes
    assert message.ByteSize() == MAX_MESSAGE_BYTES
    check_size(message)
    message.user_id += "x"
    with pytest.raises(InvalidRequestError):
        check_size(message)
