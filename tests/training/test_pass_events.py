"""A run's scalars by pass, also of one that was killed and goes on, as TensorBoard reads them."""

from contextlib import closing

import pytest
from event_reader import scalars_of

from rcjax.config import TrainSettings
from rcjax.training.curve import CurvePoint
from rcjax.training.pass_events import PassEvents

SETTINGS = TrainSettings(num_steps=3, accumulate=2, learning_rate=1.0, warmup_steps=2)


def run(folder, passes, scale, settings=SETTINGS):
    """Passes with a loss of their number times `scale`, each second one validated."""
    with closing(PassEvents(folder, settings)) as events:
        for number in passes:
            if number % 2 == 0:
                events.validated(CurvePoint(number, number / 2, 9.0, number / 16))
            events.passed(number, number * scale)


def test_a_run_that_goes_on_shows_no_pass_twice(tmp_path):
    run(tmp_path, range(1, 6), 1.0)  # killed in pass 6, with a checkpoint after pass 2
    run(tmp_path, range(3, 7), 0.5)
    run(tmp_path, (), 0.0)  # has nothing left to do
    shown = scalars_of(tmp_path)
    assert shown["train/loss"] == [(1, 1.0), (2, 2.0), (3, 1.5), (4, 2.0), (5, 2.5), (6, 3.0)]
    assert shown["validation/ndcg_at_10"] == [(2, 0.125), (4, 0.25), (6, 0.375)]
    assert shown["train/seconds"] == [(2, 1.0), (4, 2.0), (6, 3.0)]
    assert len(list(tmp_path.iterdir())) == 2


def test_the_learning_rate_is_that_of_the_step_that_a_pass_is_of(tmp_path):
    """A warm-up of two steps from 0, then the peak; two passes a step."""
    run(tmp_path, range(1, 7), 1.0)
    rates = scalars_of(tmp_path)["train/learning_rate"]
    assert [step for step, _ in rates] == [1, 2, 3, 4, 5, 6]
    assert [rate for _, rate in rates] == pytest.approx([0.0, 0.0, 0.5, 0.5, 1.0, 1.0])


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(None, range(1, 3), 1.0)
    assert list(tmp_path.iterdir()) == []
