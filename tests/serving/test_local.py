"""The synchronous wrapper: what blocks, in which order answers come, and how many writes are under way."""

from dataclasses import replace

import fake_slice
import pytest
from fake_router import INFO, ranked
from fake_slice import FakeWorker, Slices, ask

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import InvalidRequestError, NotFoundError, RcjaxError
from rcjax.request import PutItems, PutUser, RecommendRequest, ServiceLimits, WriteResult
from rcjax.serving import local
from rcjax.serving.admission_limits import AdmissionLimits


def test_a_bad_request_yields_its_error_in_its_place() -> None:
    with Slices() as slices:
        good, bad, other = slices.local().recommend([ask(1, 2), ask(77), ask(3)])
        assert (good, other) == (ranked(ask(1, 2)), ranked(ask(3)))
        assert isinstance(bad, NotFoundError)


def test_more_requests_than_may_wait_are_no_matter() -> None:
    with Slices(limits=AdmissionLimits(max_queue_s=1e-9)) as slices:
        asks = [ask(n % 10) for n in range(20)]
        assert slices.local().recommend(asks) == [ranked(one) for one in asks]


def test_writes_say_what_they_did() -> None:
    with Slices() as slices:
        engine = slices.local()
        assert engine.put_items([Item("item-11", "Eleven"), Item("item-12", "Twelve")]) == 2
        assert engine.delete_items(["item-11", "item-none"]) == 1
        engine.put_user(User("bob", (Event("item-1", "a"),)))
        engine.append_events("bob", [Event("item-1", "b")])
        assert slices.library.texts["bob"] == "ab"
        assert (engine.delete_user("bob"), engine.delete_user("bob")) == (True, False)
        with pytest.raises(NotFoundError, match="bob"):
            engine.append_events("bob", [])
        with pytest.raises(InvalidRequestError):
            engine.put_items([])
        assert engine.stats().num_items == 11
        assert engine.info() == INFO


def test_many_writes_are_under_way_at_once_and_no_more_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MAX_WRITES_UNDER_WAY", 3)
    under_way: list[int] = []
    with Slices(limits=AdmissionLimits(max_writes_s=1e-9)) as slices:
        slices.worker.before = lambda name: under_way.append(len(slices.router._writer.calls))
        writes = [PutItems((Item(f"item-{n}", "T"),) if n % 4 else ()) for n in range(20)]
        outcomes = list(slices.local().apply_each(writes))
        for n, outcome in enumerate(outcomes):
            assert outcome == WriteResult(1, num_tokens=1) if n % 4 else isinstance(outcome, InvalidRequestError)
    assert max(under_way) <= 3


def test_what_is_more_than_one_call_may_carry_is_parted_or_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_slice, "INFO", replace(INFO, limits=ServiceLimits(max_items=2, max_events=3)))
    events = tuple(Event("item-1", letter) for letter in "abcde")
    with Slices() as slices:
        engine, asked = slices.local(), []
        slices.planner.before = asked.append
        assert engine.put_items(Item(f"item-{n}", "T") for n in range(11, 16)) == 5
        assert engine.delete_items(f"item-{n}" for n in range(11, 16)) == 5
        assert [len(write.items) for write in asked[:3]] == [2, 2, 1]
        assert [len(write.item_ids) for write in asked[3:6]] == [2, 2, 1]
        engine.put_user(User("bob", events))
        engine.put_users([User("joe", events)])
        engine.append_events("ann", events)
        assert [slices.library.texts[name] for name in ("bob", "joe", "ann")] == ["cde"] * 3
        engine.recommend([RecommendRequest(("item-1",), history=events)])
        assert asked[-1].history == events[-3:]


def test_users_are_put_each_on_its_own() -> None:
    def refuse_eve(write: object) -> None:
        if write == PutUser(User("eve")):
            raise InvalidRequestError("eve's history is too long", field="user.events")

    with Slices() as slices:
        slices.planner.before = refuse_eve
        outcomes = slices.local().put_users(User(name) for name in ("bob", "eve", "joe"))
        assert [isinstance(outcome, RcjaxError) for outcome in outcomes] == [False, True, False]
        assert slices.library.num_users == 3


def test_workers_are_called_on_their_threads_and_a_plan_is_given_back() -> None:
    with Slices(2) as slices:
        engine = slices.local()
        assert (engine.choose_orders(5), engine.build_semantic_pool(6)) == (20, 40)
        assert engine.generate("some text", None) == engine.generate(ask(1), None) == [1, 2, 3]
        assert [worker.seen[:2] for worker in slices.workers] == [[5, 6]] * 2
        assert engine.call_workers(lambda worker: isinstance(worker, FakeWorker)) == [True, True]
        assert engine.prompt(ask(1)).num_tokens == 0
        assert slices.library.versions.alive == {}


def test_closing_stops_the_router() -> None:
    slices = Slices()
    slices.router.start()
    with slices.local() as engine:
        assert engine.recommend([ask(1)]) == [ranked(ask(1))]
    assert slices.worker.stopped == [1.0]
