"""Completions: results are fetched in the order of starting, on a thread of their own."""

import threading
from queue import SimpleQueue

from driving import Done

from rcjax.engine.completion import Completions, Flight
from rcjax.engine.cost import Program
from rcjax.engine.shape import Shape
from rcjax.engine.tasks import Task

PROGRAM = Program("rank", Shape(1, 0))


class Gated(Done):
    """A pass whose result is there once the test says so."""

    def __init__(self, value):
        super().__init__(PROGRAM, value)
        self.gate = threading.Event()

    def result(self):
        self.gate.wait()
        return super().result()


def flight(value):
    return Flight(Task((_ for _ in ()), lambda value: None, lambda error: None, True), Gated(value))


def test_a_flight_keeps_what_came_of_it():
    good, bad = flight(7), flight(KeyError("gone"))
    for one in (good, bad):
        one.pending.gate.set()
        one.land()
    assert (good.value, good.error) == (7, None)
    assert bad.value is None
    assert isinstance(bad.error, KeyError)


def test_results_come_in_the_order_of_starting_whatever_is_ready_first():
    landed = SimpleQueue()
    completions = Completions("passes", landed.put)
    flights = [flight(i) for i in range(3)]
    completions.start()
    for one in flights:
        completions.watch(one)
    for one in reversed(flights):
        assert landed.empty()
        one.pending.gate.set()
    assert [landed.get().value for _ in flights] == [0, 1, 2]
    completions.stop()


def test_stopping_fetches_what_is_under_way_first():
    landed, is_over = SimpleQueue(), threading.Event()

    def note(one):
        landed.put(one)
        if one.value == "last":
            is_over.set()

    completions = Completions("passes", note)
    first, last = flight("first"), flight("last")
    completions.start()
    completions.watch(first)
    completions.watch(last)
    completions.stop()
    first.pending.gate.set()
    last.pending.gate.set()
    is_over.wait()
    assert [landed.get().value, landed.get().value] == ["first", "last"]
