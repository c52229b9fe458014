"""Places: a worker that is lost, stalls, leaves or comes, and what becomes of the requests that it had."""

import threading

import numpy as np
import pytest
from fake_router import INFO
from fake_slice import FakeLibrary, FakePlanner, FakeWorker

from rcjax.catalog.types import Item
from rcjax.errors import UnavailableError
from rcjax.request import DeleteItems, PutItems, RecommendRequest
from rcjax.serving.dispatch import Dispatcher
from rcjax.serving.owners import Hashed
from rcjax.serving.residency import Residency
from rcjax.serving.router import Router
from rcjax.serving.scheduler import LeastLoaded, Wants

NOTHING = Wants((), np.zeros(0, bool), np.zeros(0))
KEY = b"k" * 32


def new(num_slices):
    residency = Residency(num_slices)
    return Dispatcher(residency, LeastLoaded(), lambda: 100.0), residency


def states(dispatcher):
    return [str(one.state) for one in dispatcher.work()]


def test_what_a_stalled_slice_had_is_for_others_and_its_own_answers_count_no_more():
    dispatcher, residency = new(2)
    residency.commit(0, KEY)
    first, second = dispatcher.dispatch(NOTHING, 1.0), dispatcher.dispatch(NOTHING, 1.0)
    assert (first.index, second.index) == (0, 1)
    assert dispatcher.stall(0) == (first,)
    assert states(dispatcher) == ["stalled", "open"]
    assert dispatcher.alive() == (0, 1), "writes wait for it"
    assert residency.holders([KEY]).tolist() == [[1, 0]], "it holds what it held"
    dispatcher.retry(first)
    assert first.index == 1
    assert not dispatcher.end(first, 0)
    assert dispatcher.end(first, 1)
    assert dispatcher.dispatch(NOTHING, 1.0).index == 1, "it gets nothing new"
    dispatcher.resume(0)
    assert states(dispatcher) == ["open", "open"]
    assert dispatcher.dispatch(NOTHING, 1.0).index == 0


def test_the_only_open_slice_keeps_what_it_has_however_late_it_is():
    dispatcher, _ = new(2)
    dispatcher.drain(1)
    given = dispatcher.dispatch(NOTHING, 1.0)
    assert dispatcher.stall(0) == ()
    assert states(dispatcher) == ["open", "draining"]
    assert dispatcher.end(given, 0)


def test_a_draining_slice_that_stalls_goes_on_draining():
    dispatcher, _ = new(2)
    given = dispatcher.dispatch(NOTHING, 1.0)
    dispatcher.drain(0)
    assert dispatcher.stall(0) == (given,)
    dispatcher.resume(0)
    assert states(dispatcher) == ["draining", "open"]


def test_a_place_is_left_and_taken_again():
    dispatcher, residency = new(2)
    residency.commit(0, KEY)
    given = dispatcher.dispatch(NOTHING, 1.0)
    assert dispatcher.vacate(0) == (given,)
    assert states(dispatcher) == ["absent", "open"]
    assert dispatcher.alive() == (1,)
    assert not residency.holders([KEY]).any(), "whoever comes next holds nothing yet"
    assert dispatcher.vacate(0) == dispatcher.lose(0) == dispatcher.stall(0) == ()
    with pytest.raises(ValueError, match="slice 0 is absent"):
        dispatcher.drain(0)
    dispatcher.occupy(0)
    assert states(dispatcher) == ["open", "open"]


def test_a_dead_worker_s_place_is_taken_by_another():
    dispatcher, _ = new(2)
    dispatcher.lose(1)
    dispatcher.resume(1)
    assert states(dispatcher) == ["open", "dead"], "who is dead does not resume"
    dispatcher.occupy(1)
    assert states(dispatcher) == ["open", "open"]


@pytest.fixture
def mesh():
    log = []
    library = FakeLibrary(log)
    workers = [FakeWorker(log) for _ in range(2)]
    router = Router(FakePlanner(library), workers, library, INFO)
    router.start()
    yield router, workers
    router.stop(1.0)


def test_requests_of_a_worker_that_stalls_are_answered_by_another(mesh):
    router, workers = mesh
    gate = threading.Event()
    workers[0].before = lambda name: gate.wait(30)
    router.places.vacate(1)
    future = router.submit(RecommendRequest(("item-1",), "ann"))
    router.places.occupy(1)
    while not router.current_stats().slices[0].num_under_way:
        pass
    router.places.stall(0)
    assert future.result(30).slice_index == 1
    gate.set()
    router.places.resume(0)
    assert [one.state for one in router.current_stats().slices] == ["open", "open"]


def test_writes_leave_absent_places_out_and_come_to_those_that_are_taken(mesh):
    router, workers = mesh
    router.places.vacate(1)
    router.submit_write(PutItems((Item("item-20", "new"),))).result(30)
    assert workers[1].seen == []
    router.places.occupy(1)
    router.submit_write(DeleteItems(("item-20",))).result(30)
    assert workers[1].seen == [["item-20"]]


def test_a_router_without_workers_refuses_and_goes_on_once_one_is_there(mesh):
    router, _ = mesh
    for place in (0, 1):
        router.places.vacate(place)
    with pytest.raises(UnavailableError):
        router.submit(RecommendRequest(("item-1",), "ann")).result(30)
    assert not router.lost.done()
    router.places.occupy(0)
    assert router.submit(RecommendRequest(("item-1",), "ann")).result(30).slice_index == 0


def test_items_go_where_a_rule_says(mesh):
    router, workers = mesh
    done = router.rebalance(Hashed(2)).result(30)
    assert done.num_arriving == 0, "all stood everywhere"
    assert done.num_leaving == 10
    assert sorted(one for worker in workers for names in worker.seen for one in names) == sorted(
        f"item-{n}" for n in range(10)
    )
    with pytest.raises(ValueError, match="a placement on 3 slices"):
        router.rebalance(Hashed(3))


def test_writes_that_are_begun_can_be_waited_for(mesh):
    router, workers = mesh
    assert router.after_writes().result(30) is None, "none is"
    gate = threading.Event()
    workers[0].before = lambda name: gate.wait(30)
    first = router.submit_write(PutItems((Item("item-21", "new"),)))
    while not router._writer._under_way:
        pass
    ended = router.after_writes()
    assert not ended.done()
    gate.set()
    ended.result(30)
    assert first.done()
