"""The library: limits, windows of history, and whose block a text is."""

import pytest
from tiny_engine import LIMITS, event, item

from rcjax.catalog.types import Event, Item, User
from rcjax.engine.library import Library
from rcjax.errors import InvalidRequestError, NotFoundError
from rcjax.request import RecommendRequest


@pytest.fixture
def library(engine) -> Library:
    return engine.library


def put(library, user):
    library.store_events(user.user_id, library.recent_events(user))


class TestItems:
    def test_the_limit_is_inclusive(self, library):
        exact = Item("i", "x" * (LIMITS.max_item_tokens - 1))  # and the space before it
        assert len(library.checked_item(exact, "items[0]")) == LIMITS.max_item_tokens
        with pytest.raises(InvalidRequestError, match=r"'i' has 41 tokens; 1 to 40") as caught:
            library.checked_item(Item("i", "x" * LIMITS.max_item_tokens), "items[0]")
        assert caught.value.field == "items[0]"

    @pytest.mark.parametrize("item_id", ["", "a\0b", "\0"])
    def test_ids_that_are_none(self, library, item_id):
        with pytest.raises(InvalidRequestError, match="not an id") as caught:
            library.checked_item(Item(item_id, "mug"), "items[3]")
        assert caught.value.field == "items[3].item_id"

    def test_the_owner_is_the_id(self, library):
        library.items["i1"] = item(1)
        for candidate in ("i1", item(1)):
            (block,) = library.request_items(RecommendRequest((candidate,), history=()))
            assert block.owner == "i1"

    def test_inline_text_of_its_own_has_an_owner_of_its_own(self, library):
        library.items["i1"] = item(1)
        others = [item(1, text="new"), item(1, text="newer"), item(2, text="new")]
        owners = {library.request_items(RecommendRequest((one,), history=()))[0].owner for one in others}
        assert len(owners) == 3
        assert not owners & {"i1", "i2"}
        assert all(owner.startswith("\0") for owner in owners), "which no id may hold"

    def test_bad_candidates_name_the_place(self, library):
        library.items["i1"] = item(1)
        for candidates, error, field in [
            ((), InvalidRequestError, "candidates"),
            (("i1",) * (LIMITS.max_candidates + 1), InvalidRequestError, "candidates"),
            (("i1", "i1"), InvalidRequestError, "candidates[1]"),
            (("i1", item(1)), InvalidRequestError, "candidates[1]"),
            (("i1", "i2"), NotFoundError, "candidates[1]"),
            (("i1", Item("i2", "x" * 99)), InvalidRequestError, "candidates[1]"),
            (("i1", Item("", "mug")), InvalidRequestError, "candidates[1].item_id"),
        ]:
            with pytest.raises(error) as caught:
                library.request_items(RecommendRequest(candidates, history=()))
            assert caught.value.field == field
            assert library.items == {"i1": item(1)}


class TestHistory:
    def test_all_events_are_kept_while_they_fit(self, library, oracle):
        events = [event(0)]
        while len(oracle.history_ids([*events, event(len(events))])) <= LIMITS.max_history_tokens:
            events.append(event(len(events)))
            assert library.recent_events(User("u", tuple(events))) == tuple(events)
        assert len(events) > 3

    def test_then_the_oldest_go_and_room_is_left(self, library, oracle):
        events = tuple(event(i) for i in range(40))
        kept = library.recent_events(User("u", events))
        assert kept == events[-len(kept) :]
        used = len(oracle.history_ids(kept))
        assert LIMITS.max_history_tokens / 2 < used <= 0.75 * LIMITS.max_history_tokens

    def test_appending_drops_the_oldest_only_when_it_must(self, library, oracle):
        put(library, User("u"))
        former, num_shifts = (), 0
        for i in range(30):
            kept = library.with_appended("u", [event(i)])
            library.store_events("u", kept)
            assert kept[-1] == event(i)
            assert len(oracle.history_ids(kept)) <= LIMITS.max_history_tokens
            num_shifts += kept[: len(former)] != former
            former = kept
        assert 0 < num_shifts < 10, "a cut leaves room for several events"

    @pytest.mark.parametrize("num_chars", [60, 70, 80, 84])
    def test_a_long_event_is_taken_wherever_it_would_fit_alone(self, library, num_chars):
        """96 tokens are allowed, 72 are left after a cut: an event between the two still fits a history."""
        long = Event("i", "x" * num_chars)
        assert library.recent_events(User("u", (long,))) == (long,)
        put(library, User("u", tuple(event(i) for i in range(4))))
        assert library.with_appended("u", [long]) == (long,)

    def test_an_event_that_fits_no_history(self, library):
        long = Event("i", "x" * LIMITS.max_history_tokens)
        put(library, User("u", (event(1),)))
        for call, field in [
            (lambda: library.recent_events(User("u", (event(1), long))), "user.events"),
            (lambda: library.with_appended("u", [long]), "events"),
            (lambda: library.request_history(RecommendRequest(("i",), history=(long,))), "history"),
        ]:
            with pytest.raises(InvalidRequestError, match=f"a history may have {LIMITS.max_history_tokens}") as caught:
                call()
            assert caught.value.field == field

    def test_unknown_users_and_no_user(self, library):
        for call in (lambda: library.with_appended("u", []), lambda: library.history("u")):
            with pytest.raises(NotFoundError, match="'u'") as caught:
                call()
            assert caught.value.field == "user_id"
        with pytest.raises(InvalidRequestError, match="user_id or a history"):
            library.request_history(RecommendRequest(("i",)))

    def test_inline_history_is_the_users_own_block_only_if_it_is_the_stored_one(self, library):
        put(library, User("u", (event(1), event(2))))

        def owner(user_id, *numbers):
            events = tuple(event(i) for i in numbers)
            return library.request_history(RecommendRequest(("i",), user_id, events)).owner

        assert owner("u", 1, 2) == "u"
        strangers = [owner("u", 1), owner("u", 2, 1), owner("v", 1, 2), owner("", 1, 2), owner("v", 1)]
        assert len(set(strangers)) == len(strangers)
        assert all(stranger.startswith("\0") for stranger in strangers)

    def test_inline_history_is_cut_as_a_stored_one(self, library, oracle):
        events = tuple(event(i) for i in range(40))
        block = library.request_history(RecommendRequest(("i",), history=events))
        assert block.token_ids.tolist() == oracle.history_ids(library.recent_events(User("u", events))).tolist()

    def test_deleting(self, library):
        put(library, User("u", (event(1),)))
        assert library.num_users == 1
        assert library.delete_user("u")
        assert not library.delete_user("u")
        assert library.num_users == 0
