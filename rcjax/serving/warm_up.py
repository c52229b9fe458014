"""Warm-up: compiles every program of the settings, and runs each to learn what it takes."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from rcjax.config import Settings
from rcjax.engine.cost import CostModel, Program
from rcjax.engine.executor import TRANSFER_PAGES, Executor, Pending
from rcjax.engine.full_batch import full_batch
from rcjax.engine.generation import Generator
from rcjax.engine.offline import DEVIATION
from rcjax.engine.selector import Selector
from rcjax.engine.shape import Shape
from rcjax.engine.worker import SliceWorker
from rcjax.model.selection import Measure
from rcjax.serving.slices import Progress, SliceParts, measures_of

_RUNS = 5  # of a program that is timed
_RUNS_S = 0.25  # one that took so long is not run again


@dataclass(frozen=True, slots=True)
class Job:
    """A program: how it is compiled for all slices, and how one of them runs it."""

    text: str
    compile: Callable[[], None]
    run: Callable[[Executor], Pending[Any]]


def warm_up(settings: Settings, parts: SliceParts, workers: Sequence[SliceWorker], progress: Progress) -> None:
    """Compiles every program of the settings, runs each on every slice, and computes the instruction.

    As many programs are compiled at once as there are slices, each for all slices, and are timed once that is over.
    """
    first = workers[0].cache
    jobs = [*_jobs(parts, first.passes.no_writes), *_probe_jobs(settings, parts, first.executor)]
    parts.programs.compile_transfer(TRANSFER_PAGES)
    with _cancelling(ThreadPoolExecutor(len(workers), "rcjax-compiling")) as pool:
        compiled = [pool.submit(job.compile) for job in jobs]
        for job, done in zip(jobs, compiled, strict=True):
            progress(f"compiling {job.text}")
            done.result()
    for worker in workers:
        for job in jobs:
            _time(parts.cost, partial(job.run, worker.cache.executor))
        worker.cache.build_instruction()


def _jobs(parts: SliceParts, no_writes: Callable[[Shape], Any]) -> Iterator[Job]:
    for shape in parts.shapes["build"]:
        yield _build_job(parts, shape, *no_writes(shape))
    for shape in parts.rank_shapes:
        yield _rank_job(parts, shape)
    for shape in parts.shapes.get("generate", ()):
        yield _decode_job(parts, shape)


def _build_job(parts: SliceParts, shape: Shape, source: Any, destination: Any) -> Job:
    batch = full_batch(shape, parts.page_tokens, 1)
    return Job(
        f"build {shape}",
        lambda: parts.programs.compile_build(Program("build", shape), batch, source),
        lambda executor: executor.build(batch, source, destination, shape),
    )


def _rank_job(parts: SliceParts, shape: Shape) -> Job:
    batch = full_batch(shape, parts.page_tokens, parts.num_reads)
    return Job(
        f"rank {shape}",
        lambda: parts.programs.compile_rank(Program("rank", shape), batch),
        lambda executor: executor.rank(batch, shape),
    )


def _decode_job(parts: SliceParts, shape: Shape) -> Job:
    batch = full_batch(shape, parts.page_tokens, 1)
    source, destination = Generator.no_writes(shape.fresh_tokens, parts.page_tokens)
    return Job(
        f"generate {shape}",
        lambda: parts.programs.compile_decode(Program("decode", shape), batch, source),
        lambda executor: executor.decode(batch, source, destination, shape),
    )


def _probe_jobs(settings: Settings, parts: SliceParts, executor: Executor) -> Iterator[Job]:
    """ValueError, which names the arm, where its policy probes in a way that this model or these shapes have not."""
    selector = Selector(executor, parts.rank_shapes, parts.page_tokens)
    known: set[Program] = set()
    for name, measure in measures_of(settings):
        probe = measure if measure.is_probe else DEVIATION
        with _naming(name, settings):
            shapes = selector.shapes(probe)
        for shape in shapes:
            program = Program("probe", shape, probe)
            if program not in known:
                known.add(program)
                yield _probe_job(parts, selector, program, probe, partial(_naming, name, settings))


def _probe_job(
    parts: SliceParts, selector: Selector, program: Program, measure: Measure, naming: Callable[[], Any]
) -> Job:
    shape = program.shape
    _, known, asks = selector.probe_arrays([], [], shape)
    batch = full_batch(shape, parts.page_tokens, 1)

    def compile_probe() -> None:
        with naming():
            parts.programs.compile_probe(program, batch, known, asks)

    return Job(
        f"the probe for {measure.quantity} in layer {measure.layer}, {shape}",
        compile_probe,
        lambda executor: executor.probe(batch, known, asks, shape, measure),
    )


@contextmanager
def _naming(arm: str, settings: Settings) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"arm {arm!r}, selection {settings.arms[arm].selection!r}: {error}") from error


@contextmanager
def _cancelling(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """The pool, which on an error does not begin what waits."""
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _time(cost: CostModel, run: Callable[[], Pending[Any]]) -> None:
    """Observes the fastest of a few runs.

    A first run can take many times what those to come do (42 ms instead of 6), and of two shapes the dearer is not
    chosen.
    """
    seconds: list[float] = []
    while len(seconds) < _RUNS and sum(seconds) < _RUNS_S:
        pending = run()
        pending.result()
        seconds.append(time.monotonic() - pending.start_s)
    program = pending.program
    cost.observe(program.purpose, program.shape, min(seconds), program.measure)
