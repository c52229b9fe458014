"""Warm-up: what the cost model is told of a program, whose first run takes longer than those to come."""

from types import SimpleNamespace

import pytest

from rcjax.engine.cost import Program
from rcjax.engine.shape import Shape
from rcjax.serving import warm_up

PROGRAM = Program("rank", Shape(64, 8))


@pytest.mark.parametrize(
    ("took_s", "told_s", "num_runs"),
    [
        ([0.042, 0.006, 0.007, 0.005, 0.006, 0.001], 0.005, 5),
        ([2.6, 2.5], 2.6, 1),  # a start does not wait for many long passes
    ],
)
def test_the_cost_model_is_told_the_fastest_of_a_few_runs(monkeypatch, took_s, told_s, num_runs):
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(warm_up, "time", SimpleNamespace(monotonic=lambda: clock.now_s))
    runs, told = iter(took_s), []

    def run():
        def result():
            clock.now_s += next(runs)

        return SimpleNamespace(program=PROGRAM, start_s=clock.now_s, result=result)

    warm_up._time(SimpleNamespace(observe=lambda *args: told.append(args)), run)
    assert told == [("rank", PROGRAM.shape, pytest.approx(told_s), None)]
    assert len(took_s) - len(list(runs)) == num_runs
