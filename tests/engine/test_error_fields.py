"""Every field that an error names is one of its call's message in rcjax.proto."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planning_cases import BAD
from planning_kit import new_planner, write_to

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import RcjaxError
from rcjax.request import AppendEvents, DeleteItems, DeleteUser, PutItems, PutUser, RecommendRequest
from rcjax.serving.v1 import rcjax_pb2

MESSAGES = {
    RecommendRequest: rcjax_pb2.RecommendRequest,
    PutItems: rcjax_pb2.PutItemsRequest,
    DeleteItems: rcjax_pb2.DeleteItemsRequest,
    PutUser: rcjax_pb2.PutUserRequest,
    AppendEvents: rcjax_pb2.AppendEventsRequest,
    DeleteUser: rcjax_pb2.DeleteUserRequest,
}


def assert_exists(field, call):
    """The field's path, name by name, in the message of the call; with an index where the proto repeats it."""
    descriptor = MESSAGES[type(call)].DESCRIPTOR
    names = field.split(".")
    for place, name in enumerate(names):
        match = re.fullmatch(r"(\w+)(\[\d+\])?", name)
        assert match, field
        assert descriptor is not None, f"{field}: nothing is inside what {name} is said to be of"
        found = descriptor.fields_by_name.get(match[1])
        assert found is not None, f"{field}: {descriptor.name} has no {match[1]}"
        is_repeated = found.is_repeated
        assert is_repeated or not match[2], f"{field}: {match[1]} is not repeated"
        assert match[2] or not is_repeated or place == len(names) - 1, f"{field}: which {match[1]}?"
        descriptor = found.message_type


# Plain values, of which the test makes items and events: made inside a strategy, their checked annotations would draw
# from `random`.
IDS = st.sampled_from(["i1", "i2", "i3", "x", "", "a\0b", "y" * 21])
TEXTS = st.sampled_from(["mug", "", " ", "z" * 45, "z" * 120, "z" * 151])
NUMBERS = st.sampled_from([None, 1.0, -1.0, float("nan"), float("inf")])
ITEMS = st.one_of(
    st.tuples(st.sampled_from(["i1", "i4", "i5"]), st.just("mug")),
    st.tuples(IDS, TEXTS, TEXTS, TEXTS, st.lists(TEXTS, max_size=4).map(tuple), NUMBERS),
)
EVENTS = st.lists(st.one_of(st.just(("e", "cup")), st.tuples(IDS, TEXTS, TEXTS, NUMBERS)), max_size=3)


def events_of(drawn):
    return tuple(Event(*values) for values in drawn)


def request_of(candidates, user_id, history, top_k, arm):
    made = tuple(one if isinstance(one, str) else Item(*one) for one in candidates)
    return RecommendRequest(made, user_id, None if history is None else events_of(history), top_k, arm)


CALLS = st.one_of(
    st.tuples(
        st.just(request_of),
        st.lists(st.one_of(st.sampled_from(["i1", "i2", "i3"]), IDS, ITEMS), max_size=4),
        st.sampled_from(["u", "u", "", "x", "a\0b"]),
        st.one_of(st.none(), EVENTS),
        st.integers(-1, 3),
        st.sampled_from(["", "magic"]),
    ),
    st.tuples(st.just(lambda items: PutItems(tuple(Item(*one) for one in items))), st.lists(ITEMS, max_size=3)),
    st.tuples(st.just(lambda ids: DeleteItems(tuple(ids))), st.lists(IDS, max_size=3)),
    st.tuples(st.just(lambda user_id, events: PutUser(User(user_id, events_of(events)))), IDS, EVENTS),
    st.tuples(
        st.just(lambda user_id, events: AppendEvents(user_id, events_of(events))),
        st.sampled_from(["u", "", "x"]),
        EVENTS,
    ),
    st.tuples(st.just(DeleteUser), IDS),
)


@pytest.fixture(scope="module")
def planner():
    planner = new_planner()
    write_to(planner, PutItems(tuple(Item(f"i{i}", "mug") for i in (1, 2, 3))))
    write_to(planner, PutUser(User("u", (Event("e", "cup"),))))
    return planner


def error_of(planner, call):
    """What planning the call raises, if it does; nothing is changed."""
    versions = planner.library.versions
    try:
        if isinstance(call, RecommendRequest):
            versions.end_read(planner.plan(call).version)
        else:
            versions.end_write(planner.plan_write(call).version)
    except RcjaxError as error:
        return error
    return None


@settings(max_examples=600)
@given(drawn=CALLS)
def test_the_field_of_an_error_exists(planner, drawn):
    make, *values = drawn
    call = make(*values)
    error = error_of(planner, call)
    if error is not None:
        assert error.field
        assert_exists(error.field, call)


@pytest.mark.parametrize("name", BAD)
def test_the_fields_of_known_errors_exist(planner, name):
    call, *_, field, _ = BAD[name]
    assert_exists(field, call)


def test_a_field_that_does_not_exist_is_noticed():
    for field in ("candidates.item_id", "candidates[0].itm", "user", "user_id[0]", "history[0].events", "arm.name"):
        with pytest.raises(AssertionError):
            assert_exists(field, RecommendRequest(()))
