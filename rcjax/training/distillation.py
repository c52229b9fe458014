"""Distillation: the requests of a run with what its checkpoint, as their teacher, says of them."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rcjax.config import Settings, TeacherSettings, TrainSettings
from rcjax.model.spec import Model
from rcjax.prompt import PromptBuilder
from rcjax.prompt.template import Template, load_template
from rcjax.training.devices import TrainDevices
from rcjax.training.soft_targets import scored_buckets, self_agreement, with_soft_targets
from rcjax.training.sources import Sources
from rcjax.training.teacher import Teacher
from rcjax.training.teacher_scores import TeacherScores
from rcjax.training.trainer import BUCKETED_BATCHES

SCORES_FOLDER = "teacher"
VALIDATION_ORDERS = 2  # at least: the teacher's agreement with itself is told from them


def teacher_template(settings: Settings, teacher: TeacherSettings) -> Template:
    """The template of the prompt that the teacher is shown."""
    return load_template(teacher.template or settings.template)


def distilled_sources(
    console: Console,
    settings: Settings,
    train: TrainSettings,
    model: Model,
    sources: Sources,
    folder: Path,
    tell: Callable[[str], None],
) -> Sources:
    """The same requests with the teacher's distributions as targets; prints how far the teacher agrees with itself.

    `tell` gets a line for what the settings ask for in vain. The teacher is gone from memory when this returns.
    ValueError where more requests are asked for than there are.
    """
    if train.teacher is None:
        raise ValueError("no train.teacher is set: there is nothing to learn from")
    own = train.teacher
    if own.label_share and not sources.has_choices:
        tell(f"train.teacher.label_share={own.label_share} has no effect: of no request it is known what was chosen")
    builder = PromptBuilder(teacher_template(settings, own), model.tokenizer, train.num_candidates)
    bucket_size = train.batch_size * BUCKETED_BATCHES
    num_requests = _num_requests(train, own, sources)
    scores = TeacherScores(
        own.scores or folder / SCORES_FOLDER,
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
        buckets = scored_buckets(
            scores,
            sources.train,
            num_buckets=num_buckets,
            bucket_size=bucket_size,
            num_orders=own.num_orders,
            label_share=own.label_share,
            seed=train.seed,
            advance=lambda: bar.advance(task),
        )
        of_validation = scores.of("validation", sources.validation, max(VALIDATION_ORDERS, own.num_orders))
    itself = self_agreement(sources.validation, of_validation)
    console.print(
        f"the teacher against itself in another order of candidates, {len(sources.validation):,} validation requests: "
        f"same top 1 {itself.top1_agreement:.3f}, KL {itself.kl_nats:.4f} nats, Kendall's tau {itself.kendall_tau:.3f}",
        markup=False,
        highlight=False,
    )
    return replace(
        sources, train=buckets, validation=with_soft_targets(sources.validation, of_validation, label_share=0.0)
    )


def _num_requests(train: TrainSettings, teacher: TeacherSettings, sources: Sources) -> int:
    """How many requests are scored: what is asked for, or all, but no more than the student sees."""
    available, seen = sources.num_requests, train.num_steps * train.accumulate * train.batch_size
    if teacher.num_requests is None:
        return seen if available is None else min(available, seen)
    if available is not None and teacher.num_requests > available:
        raise ValueError(f"train.teacher.num_requests={teacher.num_requests:,} exceeds the {available:,} there are")
    return teacher.num_requests


def _teacher(model: Model, builder: PromptBuilder, train: TrainSettings, own: TeacherSettings) -> Teacher:
    devices = TrainDevices(jax.devices(), train.tensor_parallel)
    return Teacher(model.params, model.config, builder, own.scoring, train.dtype, devices)
