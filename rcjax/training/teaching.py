"""The lessons of a run: its teacher made from the settings, and what it says told to whoever watches."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rcjax.config import Settings, TeacherSettings, TrainSettings
from rcjax.model.spec import Model
from rcjax.prompt import PromptBuilder
from rcjax.prompt.template import load_template
from rcjax.training.devices import TrainDevices
from rcjax.training.distillation import VALIDATION_ORDERS, self_agreement, taught, taught_buckets
from rcjax.training.lessons import Lessons
from rcjax.training.sources import Sources
from rcjax.training.teacher import Teacher
from rcjax.training.trainer import BUCKETED_BATCHES

LESSONS_FOLDER = "teacher"


def taught_sources(
    console: Console, settings: Settings, train: TrainSettings, model: Model, sources: Sources, folder: Path
) -> Sources:
    """The same requests with the teacher's distributions as targets; prints how far the teacher agrees with itself.

    The teacher is gone from memory when this returns. ValueError where more requests are asked for than there are.
    """
    if train.teacher is None:
        raise ValueError("no train.teacher is set: there is nothing to learn from")
    own = train.teacher
    builder = PromptBuilder(load_template(own.template or settings.template), model.tokenizer, train.num_candidates)
    bucket_size = train.batch_size * BUCKETED_BATCHES
    num_requests = _num_requests(train, own, sources)
    lessons = Lessons(
        own.scores or folder / LESSONS_FOLDER,
        {
            "model": model.fingerprint,
            "template": builder.template.identity,
            "scoring": own.scoring,
            "dtype": train.dtype,
            "num_orders": own.num_orders,
        },
        cache(lambda: _teacher(model, builder, train, own)),
        batch_size=train.batch_size,
        seed=train.seed,
    )
    num_buckets = -(-num_requests // bucket_size)
    columns = ("teacher", BarColumn(), MofNCompleteColumn(), TextColumn("buckets of requests"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("teacher", total=num_buckets)
        buckets = taught_buckets(
            lessons,
            sources.train,
            num_buckets=num_buckets,
            bucket_size=bucket_size,
            num_orders=own.num_orders,
            label_share=own.label_share,
            seed=train.seed,
            advance=lambda: bar.advance(task),
        )
        scores = lessons.scores("validation", sources.validation, max(VALIDATION_ORDERS, own.num_orders))
    itself = self_agreement(sources.validation, scores)
    console.print(
        f"the teacher against itself in another order of candidates, {len(sources.validation):,} validation requests: "
        f"same top 1 {itself.top1_agreement:.3f}, KL {itself.kl_nats:.4f} nats, Kendall's tau {itself.kendall_tau:.3f}",
        markup=False,
        highlight=False,
    )
    return replace(sources, train=buckets, validation=taught(sources.validation, scores, label_share=0.0))


def _num_requests(train: TrainSettings, teacher: TeacherSettings, sources: Sources) -> int:
    available = sources.num_requests
    if teacher.num_requests is None:
        return train.num_steps * train.accumulate * train.batch_size if available is None else available
    if available is not None and teacher.num_requests > available:
        raise ValueError(f"train.teacher.num_requests={teacher.num_requests:,} exceeds the {available:,} there are")
    return teacher.num_requests


def _teacher(model: Model, builder: PromptBuilder, train: TrainSettings, own: TeacherSettings) -> Teacher:
    devices = TrainDevices(jax.devices(), train.tensor_parallel)
    return Teacher(model.params, model.config, builder, own.scoring, train.dtype, devices)
