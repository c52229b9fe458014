"""Writes through the router over fake slices: what is built before what is swapped, and in which order."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from fake_router import Gate, ranked
from fake_slice import Slices, ask

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    RcjaxError,
    ResourceExhaustedError,
    UnavailableError,
)
from rcjax.request import AppendEvents, DeleteItems, DeleteUser, PutItems, PutUser, Write, WriteResult
from rcjax.serving.admission_limits import AdmissionLimits


def put(*numbers: int) -> PutItems:
    return PutItems(tuple(Item(f"item-{number}", "Text") for number in numbers))


def append(user_id: str, text: str) -> AppendEvents:
    return AppendEvents(user_id, (Event("item-1", text),))


def held(gate: Gate) -> Callable[[str], None]:
    """A worker's hook that holds its thread the first time."""
    return lambda at: None if gate.open.is_set() else gate()


def failure(future: "Future[Any]") -> BaseException | None:
    return future.exception(60)


def test_what_is_put_is_built_on_every_slice_before_it_is_swapped_in() -> None:
    with Slices(3) as slices:
        result = asyncio.run(slices.router.apply(put(11, 12)))
        assert result == WriteResult(num_built=6, num_tokens=8)
        assert slices.log == ["fill", "fill", "fill", "swap"]
        assert [worker.seen for worker in slices.workers] == [[["item-11", "item-12"]]] * 3
        assert slices.library.num_items == 12
        assert slices.router.submit(ask(11)).result(60) == ranked(ask(11))


@pytest.mark.parametrize(
    ("write", "dropped"),
    [(DeleteItems(("item-1", "item-none")), ["item-1", "item-none"]), (DeleteUser("ann"), ["ann"])],
)
def test_what_is_deleted_is_swapped_out_before_it_is_dropped_everywhere(write: Write, dropped: list[str]) -> None:
    with Slices(2) as slices:
        result = asyncio.run(slices.router.apply(write))
        assert result == WriteResult(num_deleted=1)
        assert slices.log == ["swap", "drop", "drop"]
        assert [worker.seen for worker in slices.workers] == [[dropped]] * 2


def test_appending_grows_what_is_there() -> None:
    with Slices() as slices:
        slices.router.submit_write(PutUser(User("bob", (Event("item-1", "one "),)))).result(60)
        assert slices.router.submit_write(append("bob", "two")).result(60) == WriteResult(1, num_tokens=7)
        assert slices.worker.seen == [["bob"], ("one ", "one two")]
        assert slices.library.texts["bob"] == "one two"
        assert slices.library.versions.alive == {}


def test_writes_of_one_user_are_serial_and_others_pass_them() -> None:
    gate = Gate()
    with Slices(2) as slices:
        slices.workers[1].before = held(gate)
        first = slices.router.submit_write(PutUser(User("bob", (Event("item-1", "a"),))))
        assert gate.entered.wait(60)
        following = [slices.router.submit_write(append("bob", letter)) for letter in "bcd"]
        last = slices.router.submit_write(DeleteUser("bob"))
        slices.workers[1].before = lambda name: None
        unknown = slices.router.submit_write(append("eve", "x"))
        assert isinstance(failure(unknown), NotFoundError)  # though bob's writes still wait
        assert not any(write.done() for write in (first, *following, last))
        gate.open.set()
        assert [write.result(60).num_built for write in (first, *following)] == [2, 2, 2, 2]
        assert last.result(60).num_deleted == 1
        assert slices.worker.seen == [["bob"], ("a", "ab"), ("ab", "abc"), ("abc", "abcd"), ["bob"]]
        assert "bob" not in slices.library.texts


def test_a_write_that_fails_lets_the_users_next_one_go_on() -> None:
    with Slices() as slices:
        gate = Gate()
        slices.worker.before = held(gate)
        first = slices.router.submit_write(put(11))
        assert gate.entered.wait(60)
        writes = [slices.router.submit_write(append(user_id, "x")) for user_id in ("eve", "ann", "eve", "ann")]
        gate.open.set()
        assert first.result(60).num_built == 1
        assert [type(failure(write)) for write in writes] == [NotFoundError, type(None), NotFoundError, type(None)]
        assert slices.library.texts["ann"] == "xx"


def test_a_slice_that_cannot_build_leaves_the_library_as_it_was() -> None:
    def refuse(name: str) -> None:
        raise ResourceExhaustedError("the pool is full")

    with Slices(2) as slices:
        slices.workers[1].before = refuse
        assert str(failure(slices.router.submit_write(put(11)))) == "the pool is full"
        assert slices.log == ["fill", "fill"]
        assert slices.library.num_items == 10
        assert slices.library.versions.alive == {}


def test_what_the_planner_refuses_reaches_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with Slices() as slices:
        error = failure(slices.router.submit_write(PutItems(())))
        assert isinstance(error, InvalidRequestError)
        assert error.field == "items"
        slices.planner.before = lambda write: 1 / 0
        assert type(failure(slices.router.submit_write(put(1)))) is RcjaxError
        assert slices.log == []
    assert "ZeroDivisionError" in caplog.text


def test_a_write_does_not_hold_up_requests_and_a_request_no_write() -> None:
    gate = Gate()
    with Slices() as slices:
        slices.planner.before = lambda asked: gate() if isinstance(asked, PutItems) else None
        write = slices.router.submit_write(put(11))
        assert gate.entered.wait(60)
        assert slices.router.submit(ask(1)).result(60) == ranked(ask(1))
        gate.open.set()
        assert write.result(60).num_built == 1


def test_a_write_is_dropped_before_it_starts_and_never_after() -> None:
    gate = Gate()
    with Slices() as slices:
        slices.worker.before = held(gate)
        started = slices.router.submit_write(PutUser(User("bob", (Event("item-1", "a"),))), deadline_s=1005.0)
        assert gate.entered.wait(60)
        given_up, expired, kept = (
            slices.router.submit_write(append("bob", letter), deadline_s=deadline_s)
            for letter, deadline_s in (("b", None), ("c", 1005.0), ("d", 1006.0))
        )
        assert given_up.cancel()
        slices.clock.now_s = 1005.0
        gate.open.set()
        assert started.result(60).num_built == 1
        assert isinstance(failure(expired), DeadlineExceededError)
        assert kept.result(60).num_built == 1
        assert slices.library.texts["bob"] == "ad"


def test_a_write_given_up_after_it_started_takes_effect() -> None:
    gate = Gate()
    with Slices() as slices:
        slices.worker.before = held(gate)
        given_up = slices.router.submit_write(put(11))
        assert gate.entered.wait(60)
        assert given_up.cancel()
        gate.open.set()
        assert slices.router.submit_write(put(12)).result(60).num_built == 1
        assert slices.library.num_items == 12


def test_so_many_seconds_of_writes_may_wait() -> None:
    gate = Gate()

    async def main(slices: Slices) -> None:
        writes = [asyncio.ensure_future(slices.router.apply(put(n))) for n in (11, 12)]
        await asyncio.to_thread(gate.entered.wait, 60)
        with pytest.raises(ResourceExhaustedError, match=r"0\.002 s of them this caller's") as caught:
            await slices.router.apply(put(13))
        assert caught.value.retry_after_s == 0.1
        gate.open.set()
        assert [(await write).num_built for write in writes] == [1, 1]
        assert (await slices.router.apply(put(13))).num_built == 1
        assert (len(slices.router.write_room), slices.router.write_room.num_rejected) == (0, 1)

    with Slices(limits=AdmissionLimits(max_writes_s=3e-3)) as slices:
        slices.worker.before = held(gate)
        asyncio.run(main(slices))


def test_slices_hear_which_versions_nobody_comes_back_to() -> None:
    with Slices(2) as slices:
        slices.router.submit_write(put(11)).result(60)
        slices.router.submit_write(put(12)).result(60)
        with slices.router.planned(ask(1)):
            slices.router.submit_write(put(13)).result(60)
            slices.router.submit_write(DeleteUser("ann")).result(60)
            assert [worker.forgotten for worker in slices.workers] == [[2, 3]] * 2  # the plan still reads version 3
        assert [worker.forgotten for worker in slices.workers] == [[2, 3, 5]] * 2


def test_a_lost_slice_fails_the_writes() -> None:
    gate = Gate()
    with Slices() as slices:
        slices.worker.before = held(gate)
        write = slices.router.submit_write(put(11))
        assert gate.entered.wait(60)
        slices.worker.lost.set_exception(RuntimeError("gone"))
        with pytest.raises(UnavailableError, match="lost its engine"):
            write.result(60)
        with pytest.raises(UnavailableError, match="lost its engine"):
            slices.router.submit_write(put(12))
        gate.open.set()


def test_stop_waits_for_writes() -> None:
    gate = Gate()

    async def main(slices: Slices) -> None:
        write = slices.router.submit_write(put(11))
        await asyncio.to_thread(gate.entered.wait, 60)
        stopping = asyncio.ensure_future(asyncio.to_thread(slices.router.stop, 60.0))
        await asyncio.sleep(0)
        gate.open.set()
        await stopping
        assert write.result(0).num_built == 1

    with Slices() as slices:
        slices.worker.before = held(gate)
        asyncio.run(main(slices))
