"""Held-out requests ask for what came next, from what was seen, and do not depend on who else is asked."""

import dataclasses
import hashlib
from collections import Counter

import numpy as np
import pytest

from rcjax.catalog import Catalogue, Event, Item, Request, User
from rcjax.catalog.holdout import NextItem, hold_out, split_users
from rcjax.catalog.negatives import Negatives, NegativeSampler

NUM_ITEMS = 30
TASK = NextItem(history_len=3, num_candidates=5)


def shop(num_users: int = 40) -> Catalogue:
    """User `n` bought items n to n + 4, modulo the number of items."""
    items = {f"i{n}": Item(f"i{n}", f"Thing {n}") for n in range(NUM_ITEMS)}
    users = {f"u{n}": User(f"u{n}", tuple(bought(n + k) for k in range(5))) for n in range(num_users)}
    return Catalogue(items, users)


def bought(number: int) -> Event:
    return Event(f"i{number % NUM_ITEMS}", f"Thing {number % NUM_ITEMS}")


def test_the_target_came_next_and_the_history_is_what_came_before() -> None:
    catalogue = shop()
    held_out = hold_out(catalogue, TASK)
    assert len(held_out.requests) == len(held_out.users) == len(catalogue.users)
    for request in held_out.requests:
        events = catalogue.users[request.user_id].events
        assert held_out.users[request.user_id].events == events[:3]
        assert request.target == events[3].item_id
        assert request.candidates.count(request.target) == 1
        assert len(set(request.candidates)) == 5
        others = set(request.candidates) - {request.target}
        assert not others & {event.item_id for event in events}
    assert held_out.items == catalogue.items


def test_targets_leave_out_what_the_history_has_and_what_is_no_longer_sold() -> None:
    gone = Event("gone", "no longer sold")
    user = User("u", (bought(1), bought(2), bought(3), bought(2), gone, bought(5), bought(6), bought(5)))
    assert TASK.targets(shop(), user) == ["i5"]
    assert dataclasses.replace(TASK, targets_per_user=9).targets(shop(), user) == ["i5", "i6"]
    catalogue = dataclasses.replace(shop(), users={"u": user, "v": User("v", user.events[:5])})
    (request,) = hold_out(catalogue, TASK).requests
    assert (request.user_id, request.target) == ("u", "i5")


@pytest.mark.parametrize("seed", [0, 7])
def test_a_split_is_a_number_made_of_the_seed_and_the_user_s_id(seed: int) -> None:
    """Written out: with other numbers a model would be tested on users that it was trained on before an upgrade."""
    splits = split_users(shop(200), {"train": 0.5, "none": 0.0, "test": 0.5}, seed)
    digests = {f"u{n}": hashlib.sha256(f"split\0{seed}\0u{n}".encode()).digest() for n in range(200)}
    assert set(splits["train"].users) == {user_id for user_id, digest in digests.items() if digest[0] < 128}
    assert set(splits["test"].users) == {user_id for user_id, digest in digests.items() if digest[0] >= 128}


def test_every_later_item_can_be_asked_for() -> None:
    catalogue = shop()
    both = hold_out(catalogue, dataclasses.replace(TASK, targets_per_user=2))
    assert len(both.requests) == 80
    assert len(both.users) == 40
    for first, second in zip(both.requests[::2], both.requests[1::2], strict=True):
        assert first.user_id == second.user_id
        events = catalogue.users[first.user_id].events
        assert (first.target, second.target) == (events[3].item_id, events[4].item_id)
        assert second.target not in first.candidates
        assert first.target not in second.candidates
    assert any(
        set(a.candidates) - {a.target} != set(b.candidates) - {b.target}
        for a, b in zip(both.requests[::2], both.requests[1::2], strict=True)
    )
    assert both.requests[::2] == hold_out(catalogue, TASK).requests


def test_the_target_may_stand_anywhere() -> None:
    held_out = hold_out(shop(1000), TASK)
    places = Counter(request.candidates.index(request.target) for request in held_out.requests)
    assert [places[place] for place in range(5)] == pytest.approx([200] * 5, abs=5 * np.sqrt(1000 * 0.2 * 0.8))


def test_a_request_depends_on_the_seed_and_its_user_alone() -> None:
    sampler = NegativeSampler(shop(), Negatives.POPULARITY)
    by_user = {request.user_id: request for request in hold_out(shop(), TASK, sampler=sampler).requests}
    few = hold_out(shop(20), TASK, sampler=sampler).requests
    assert all(by_user[request.user_id] == request for request in few)
    other_seed = hold_out(shop(), TASK, seed=1, sampler=sampler).requests
    assert any(by_user[request.user_id] != request for request in other_seed)


def test_fewer_requests_are_the_first_of_more() -> None:
    few, more = (hold_out(shop(), TASK, num_requests=num) for num in (7, 20))
    assert few.requests == more.requests[:7]
    assert set(few.users) == {request.user_id for request in few.requests}
    assert {request.user_id for request in more.requests} != {f"u{n}" for n in range(20)}


def test_popular_items_stand_in_more_requests() -> None:
    fans = {f"fan{n}": User(f"fan{n}", tuple(map(bought, (25, 26, 27)))) for n in range(60)}
    catalogue = dataclasses.replace(shop(16), users=shop(16).users | fans)
    shares = {}
    for negatives in Negatives:
        requests = hold_out(catalogue, dataclasses.replace(TASK, negatives=negatives)).requests
        popular = [item_id in request.candidates for request in requests for item_id in ("i25", "i26", "i27")]
        shares[negatives] = float(np.mean(popular))
    # 4 of 25 items are drawn; 60 of about 130 events are with each popular one
    assert shares[Negatives.UNIFORM] == pytest.approx(4 / 25, abs=5 * np.sqrt(0.16 * 0.84 / 48))
    assert shares[Negatives.POPULARITY] > 0.6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hold_out(shop(), TASK, num_requests=41), "num_requests=41 exceeds the 40 targets"),
        (lambda: hold_out(shop(), NextItem(history_len=5), num_requests=1), "history_len=5"),
        (lambda: hold_out(shop(), NextItem(num_candidates=27)), "num_items=26 exceeds the 25"),
        (lambda: NextItem(history_len=0), "history_len=0"),
        (lambda: NextItem(num_candidates=1), "num_candidates=1"),
        (lambda: NextItem(targets_per_user=0), "targets_per_user=0"),
        (lambda: split_users(shop(), {"a": 0.5, "b": 0.4}), "sum to 1"),
        (lambda: split_users(shop(), {"a": 1.5, "b": -0.5}), "at least 0"),
        (lambda: split_users(shop(), {}), "sum to 1"),
    ],
)
def test_what_cannot_be_held_out(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_splits_have_their_shares_and_every_user_once() -> None:
    catalogue = shop(3000)
    shares = {"train": 0.7, "validation": 0.1, "test": 0.2}
    splits = split_users(catalogue, shares, seed=3)
    assert sum(len(split.users) for split in splits.values()) == 3000
    assert set().union(*(split.users for split in splits.values())) == set(catalogue.users)
    for name, share in shares.items():
        expected = pytest.approx(3000 * share, abs=5 * np.sqrt(3000 * share * (1 - share)))
        assert len(splits[name].users) == expected
        assert splits[name].items is catalogue.items


def test_a_user_stays_in_their_split_when_others_come_or_go() -> None:
    shares = {"train": 0.5, "test": 0.5}
    few, many = split_users(shop(20), shares), split_users(shop(500), shares)
    for name in shares:
        assert set(few[name].users) <= set(many[name].users)
    assert set(split_users(shop(500), shares, seed=1)["test"].users) != set(many["test"].users)


def test_a_share_of_zero_gets_nobody_and_requests_go_with_their_users() -> None:
    requests = tuple(Request(f"u{n}", ("i7", "i8")) for n in range(40))
    catalogue = dataclasses.replace(shop(), requests=requests)
    splits = split_users(catalogue, {"none": 0.0, "some": 0.5, "rest": 0.5, "nobody": 0.0})
    assert not splits["none"].users
    assert not splits["nobody"].users
    for split in splits.values():
        assert {request.user_id for request in split.requests} == set(split.users)
