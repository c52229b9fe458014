"""The training run: examples to steps to a model, resumable, with a curve to look at."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp

from rcjax.config import TrainSettings
from rcjax.disk import DiskError, writing
from rcjax.training.collation import Collator
from rcjax.training.curve import CURVE, CurvePoint, curve_until, write_curve
from rcjax.training.examples import Buckets, Example, bucket_rng
from rcjax.training.identity import check_identity
from rcjax.training.step import Trainee, TrainState
from rcjax.training.validation import Validation, validation_of

_log = logging.getLogger(__name__)
_CHECKPOINTS, _IDENTITY = "checkpoints", "run.json"
_KEPT_CHECKPOINTS = 2
# So many batches' examples are a bucket, sorted by length, so that a batch's are alike and little is padding.
BUCKETED_BATCHES = 4


class Trainer:
    """Trains in `folder`, which holds the curve and the checkpoints; continues where a killed run stopped.

    A pass's examples depend on the seed and the number of the pass alone, so a resumed run continues to the same
    losses. `run_identity` says what the run depends on; ValueError where `folder` holds a run of another.
    """

    def __init__(
        self,
        trainee: Trainee,
        collator: Collator,
        source: Buckets,
        validation: Sequence[Example],
        settings: TrainSettings,
        folder: Path,
        run_identity: str,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._trainee = trainee
        self._collator = collator
        self._source = source
        self._validation = validation
        self._settings = settings
        self._folder = folder.resolve()  # Orbax takes absolute paths only
        self._clock = clock
        advice = f"a run of other settings ({_IDENTITY}); give another folder or those settings"
        check_identity(self._folder / _IDENTITY, run_identity, advice)

    @property
    def num_passes(self) -> int:
        return self._settings.num_steps * self._settings.accumulate

    def run(
        self,
        state: TrainState,
        on_pass: Callable[[int, float, Validation], None] = lambda step, loss, last: None,
        on_point: Callable[[CurvePoint], None] = lambda point: None,
    ) -> TrainState:
        """Trains to the end and returns the last state; `on_pass` takes a pass's number, its loss, and what
        the last validation found.

        `on_point` takes each point of the curve once it is there, before `on_pass` takes its pass.

        Takes `state` over, as a step does: it is where a new run starts, and gives way to what a killed one left.
        """
        settings = self._settings
        with _opened(self._folder / _CHECKPOINTS) as checkpointer:
            state, done = _restored(checkpointer, state)
            curve = curve_until(self._folder / CURVE, done)
            validation = _validation(curve[-1]) if curve else Validation()
            before_s = curve[-1].train_s if curve else 0.0
            start_s, validation_s, losses = self._clock(), 0.0, []
            for number, examples in self._passes(done):
                state, loss = self._trainee.step(state, self._collator(examples))
                losses.append(float(loss))
                if not np.isfinite(losses[-1]):
                    raise FloatingPointError(f"the loss of pass {number} is {losses[-1]}; lower learning_rate")
                is_last = number == self.num_passes
                if number % (settings.validate_every * settings.accumulate) == 0 or is_last:
                    at_s = self._clock()
                    validation = self.validation(state)
                    train_s = before_s + at_s - start_s - validation_s
                    validation_s += self._clock() - at_s
                    curve.append(CurvePoint(number, train_s, float(np.mean(losses)), *astuple(validation)))
                    losses = []
                    write_curve(self._folder / CURVE, curve)
                    on_point(curve[-1])
                on_pass(number, float(loss), validation)
                if number % (settings.checkpoint_every * settings.accumulate) == 0 or is_last:
                    with writing(self._folder / _CHECKPOINTS, ValueError):  # Orbax's word for a full disk
                        checkpointer.save(number, _saved(state))
        return state

    def validation(self, state: TrainState) -> Validation:
        """How the model ranks the validation examples."""
        size = self._settings.batch_size
        scores: list[np.ndarray] = []
        for at in range(0, len(self._validation), size):
            group = self._validation[at : at + size]
            # The last group is filled up, so that it needs no program of its own.
            padded = [*group, *[group[0]] * (size - len(group))]
            rows = self._trainee.scores(state, self._collator(padded))
            scores += [row[: len(example.candidates)] for example, row in zip(group, rows, strict=False)]
        return validation_of(self._validation, scores)

    def _passes(self, done: int) -> Iterator[tuple[int, list[Example]]]:
        """The number, from 1, and the examples of each pass that is left."""
        size = self._settings.batch_size
        for bucket in range(done // BUCKETED_BATCHES, -(-self.num_passes // BUCKETED_BATCHES)):
            rng = bucket_rng(self._settings.seed, bucket)
            drawn = self._source.bucket(bucket, size * BUCKETED_BATCHES, rng)
            groups = _by_length(drawn, self._settings.requests_per_user)
            examples = [example for group in groups for example in group]
            order = rng.permutation(BUCKETED_BATCHES)
            for i, part in enumerate(order):
                number = bucket * BUCKETED_BATCHES + i + 1
                if done < number <= self.num_passes:
                    yield number, examples[part * size : (part + 1) * size]


def _validation(point: CurvePoint) -> Validation:
    return Validation(point.validation_ndcg_at_10, point.validation_kl_nats, point.validation_top1_agreement)


@contextmanager
def _opened(folder: Path) -> Iterator[ocp.training.Checkpointer]:
    """The checkpoints in a folder, closed at the end."""
    policy = ocp.training.preservation_policies.LatestN(_KEPT_CHECKPOINTS)
    with writing(folder):
        checkpointer = ocp.training.Checkpointer(folder, preservation_policy=policy)
    try:
        yield checkpointer
    except DiskError:
        with suppress(ValueError, OSError):  # closing raises again what the save has raised
            checkpointer.close()
        raise
    except BaseException:
        checkpointer.close()
        raise
    checkpointer.close()


def _restored(checkpointer: ocp.training.Checkpointer, start: TrainState) -> tuple[TrainState, int]:
    """The newest checkpoint that can be read and its number, or `start` where there is none.

    Newer ones that cannot be read go, as the run will save others of their number. ValueError where none can be read.
    """
    saved = list(reversed(checkpointer.checkpoints))
    if not saved:
        return start, 0
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), start)
    jax.tree.map(lambda x: x.delete(), start)  # before its like is read: both would be twice the memory
    failures = []
    for checkpoint in saved:
        try:
            loaded = checkpointer.load(checkpoint.step, _saved(shapes))
        except Exception as error:  # Orbax makes many kinds of damage
            failures.append(f"{checkpoint.path}: {type(error).__name__}")
            _log.warning("checkpoint %s cannot be read (%s)", checkpoint.path, type(error).__name__)
            continue
        for damaged in saved[: len(failures)]:
            checkpointer.delete(damaged.step)
        return jax.tree.unflatten(jax.tree.structure(start), jax.tree.leaves(loaded["state"])), checkpoint.step
    raise ValueError(f"no checkpoint can be read ({'; '.join(failures)}); remove them to train from the start")


def _by_length(examples: Sequence[Example], requests_per_user: int) -> list[list[Example]]:
    """Examples by the length of their history's text; those of one user, which come in a row, stay together."""
    groups = [[example] for example in examples]
    if requests_per_user > 1:
        groups = [list(group) for _, group in groupby(examples, key=lambda example: example.history)]
    return sorted(groups, key=lambda group: sum(len(e.title) + len(e.text) for e in group[0].history))


def _saved(state: TrainState) -> dict[str, list[Any]]:
    """The state as Orbax keeps it: its leaves in order, which needs no knowledge of the optimizer's types."""
    return {"state": jax.tree.leaves(state)}
