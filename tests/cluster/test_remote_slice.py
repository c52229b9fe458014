"""A slice of another host, as a router knows it: what is asked of it while a host has its place, and when one goes."""

import asyncio
from concurrent.futures import Future

import numpy as np
import pytest

from rcjax.cluster.ray.remote_slice import NO_STATS, RemoteSlice, Seats
from rcjax.engine.plan import PlannedBlock
from rcjax.errors import InvalidRequestError, UnavailableError
from rcjax.prompt import Block, BlockKind, Owner
from rcjax.serving.residency import Residency

KEYS = [bytes([number]) * 32 for number in range(1, 4)]
BLOCKS = [
    PlannedBlock(Block(BlockKind.ITEM, np.full(3, number, np.int32), 0, owner=Owner("", f"i{number}")), key)
    for number, key in enumerate(KEYS)
]


class FakeHost:
    """A host that answers when the test says so."""

    def __init__(self, name="host-0", incarnation="a"):
        self.name, self.incarnation = name, incarnation
        self.asked = []

    def ask(self, method, *args):
        future = Future()
        self.asked.append((method, args, future))
        return future


@pytest.fixture
def place():
    loop = asyncio.new_event_loop()
    yield RemoteSlice(0, Seats(), Residency(3), loop, lambda: 100.0)
    loop.close()


def test_a_place_that_nobody_has_is_unavailable(place):
    assert place.lost.done()
    assert place.lost.exception() is None, "which ends no router"
    with pytest.raises(UnavailableError, match="no host has this slice"):
        place.drop([], 1).result(0)
    assert place.stats == NO_STATS


def test_what_is_asked_goes_to_the_host_s_slice(place):
    host = FakeHost()
    place.attach(host, 1)
    assert not place.lost.done()
    future = place.drop([(BlockKind.ITEM, Owner("", "i1"))], 7)
    ((method, args, asked),) = host.asked
    assert (method, args) == ("drop", (1, ((BlockKind.ITEM, Owner("", "i1")),), 7))
    asked.set_result(3)
    assert future.result(0) == 3


def test_a_host_that_goes_fails_what_it_had_at_once(place):
    host = FakeHost()
    place.attach(host, 0)
    futures = [place.drop([], 1), place.choose_orders(0)]
    place.detach("the host has died")
    for future in futures:
        with pytest.raises(UnavailableError, match="the host has died"):
            future.result(0)
    host.asked[0][2].set_result(1)  # what it says after that counts for nothing
    assert place.lost.done()
    place.attach(FakeHost(), 0)
    assert not place.lost.done()


def test_a_call_that_is_cancelled_is_cancelled_there(place):
    host = FakeHost()
    place.attach(host, 0)
    assert place.drop([], 1).cancel()
    assert host.asked[0][2].cancelled()


def test_errors_of_a_host_are_the_caller_s(place):
    host = FakeHost()
    place.attach(host, 0)
    future = place.fill(BLOCKS, 1)
    host.asked[0][2].set_exception(InvalidRequestError("too long", field="items[0]"))
    with pytest.raises(InvalidRequestError, match="too long"):
        future.result(0)


def test_no_function_of_this_process_runs_there(place):
    with pytest.raises(InvalidRequestError, match="another process's"):
        place.call(lambda worker: 1).result(0)


def test_hints_are_of_what_others_hold_and_this_slice_does_not():
    residency, seats = Residency(3), Seats()
    mine, other = FakeHost("host-0"), FakeHost("host-1")
    seats.holders = {0: (mine, 0), 1: (mine, 1), 2: (other, 0)}
    residency.commit(0, KEYS[0])
    residency.commit(2, KEYS[0])
    residency.commit(2, KEYS[1])
    residency.commit(1, KEYS[2])
    found = seats.elsewhere(0, BLOCKS, residency)
    assert found.numbers == (1,), "it holds the first, and a slice of its own host the third"
    assert found.holders == (("host-1", "a", 0),)
    assert seats.elsewhere(2, BLOCKS, residency).holders == (("host-0", "a", 1),)
    assert seats.elsewhere(0, [], residency).numbers == ()


def test_what_a_host_has_been_filled_with_can_be_copied_from_it_at_once():
    residency, loop = Residency(3), asyncio.new_event_loop()
    place, host = RemoteSlice(1, Seats(), residency, loop, lambda: 100.0), FakeHost()
    place.attach(host, 0)
    future = place.fill(BLOCKS, 1)
    assert not residency.holders(KEYS).any()
    host.asked[0][2].set_result(2)
    assert future.result(0) == 2
    assert residency.holders(KEYS).tolist() == [[0, 1, 0]] * 3
    loop.close()
