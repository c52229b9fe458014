"""Requests and writes that a planner of `planning_kit` refuses: the call, the error, its field, part of its message."""

from planning_kit import EVENTS, ITEMS
from tiny_engine import item

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import InvalidRequestError, NotFoundError
from rcjax.request import AppendEvents, PutItems, PutUser, RecommendRequest

LONG_EVENT = Event("i", "x" * 99)
BAD = {
    "no candidates": (RecommendRequest((), "u"), InvalidRequestError, "candidates", "100"),
    "too many": (RecommendRequest(tuple(map(str, range(101))), "u"), InvalidRequestError, "candidates", "100"),
    "twice": (RecommendRequest(("i1", "i0", "i1"), "u"), InvalidRequestError, "candidates[2].item_id", "'i1'"),
    "twice inline": (
        RecommendRequest(("i1", ITEMS[1]), "u"),
        InvalidRequestError,
        "candidates[1].item.item_id",
        "'i1'",
    ),
    "unknown item": (RecommendRequest(("i1", "x"), "u"), NotFoundError, "candidates[1].item_id", "'x'"),
    "unknown user": (RecommendRequest(("i1",), "x"), NotFoundError, "user_id", "'x'"),
    "nobody": (RecommendRequest(("i1",)), InvalidRequestError, "user_id", "history"),
    "unknown arm": (RecommendRequest(("i1",), "u", arm="x"), InvalidRequestError, "arm", "parallel_anchor_blocks"),
    "long item": (RecommendRequest((Item("n", "x" * 50),), "u"), InvalidRequestError, "candidates[0].item", "40"),
    "very long item": (RecommendRequest((Item("n", "x" * 140),), "u"), InvalidRequestError, "candidates[0].item", "40"),
    "NUL": (RecommendRequest(("a\0b",), "u"), InvalidRequestError, "candidates[0].item_id", "NUL"),
    "top_k below 0": (RecommendRequest(("i1",), "u", top_k=-1), InvalidRequestError, "top_k", "-1"),
    "top_k above": (RecommendRequest(("i1",), "u", top_k=2), InvalidRequestError, "top_k", "2"),
    "long event": (RecommendRequest(("i1",), history=(LONG_EVENT,)), InvalidRequestError, "history.events", "96"),
    "put long item": (PutItems((item(7), Item("n", "x" * 50))), InvalidRequestError, "items[1]", "40"),
    "put long event": (PutUser(User("v", (LONG_EVENT,))), InvalidRequestError, "user.events", "96"),
    "append long event": (AppendEvents("u", (LONG_EVENT,)), InvalidRequestError, "events", "96"),
    "append to nobody": (AppendEvents("x", EVENTS), NotFoundError, "user_id", "'x'"),
}
