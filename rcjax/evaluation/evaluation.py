"""An evaluation from settings to figures: requests, arms, engine, run, summary."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console

from rcjax.catalog.holdout import NextItem
from rcjax.config import ArmSettings, Settings
from rcjax.errors import InvalidRequestError
from rcjax.evaluation.arms import References, chosen_arms, compared_arms
from rcjax.evaluation.asking import Answers, ask
from rcjax.evaluation.baselines import Baseline, Popularity, WordOverlap, bounds
from rcjax.evaluation.dataset import Dataset, eval_dataset
from rcjax.evaluation.frame import summary_rows
from rcjax.evaluation.prompt_texts import PromptTexts
from rcjax.evaluation.summary import ArmSummary, BaselineSummary, baseline_summary, summarise
from rcjax.evaluation.tables import (
    cost_table,
    difference_table,
    fidelity_table,
    plan_lines,
    position_table,
    quality_table,
    self_agreement_line,
)
from rcjax.evaluation.teacher import TEACHER, against_teacher, teacher_settings, with_room
from rcjax.model.spec import Model
from rcjax.request import EngineInfo
from rcjax.serving.progress import announced, noted
from rcjax.serving.startup import model_of
from rcjax.tables import frame_of

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What to evaluate on what: `arms` names some of the settings' (none: all), `split` the users held out.

    With a `teacher`, the spec of a model (and that of an adapter on it), arms are compared with its full recompute
    instead of with their own.
    """

    num_requests: int | None = None
    arms: tuple[str, ...] = ()
    task: NextItem = field(default_factory=NextItem)
    split: str = "test"
    num_permutations: int = 0
    seed: int = 0
    teacher: str | None = None
    teacher_adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that was found. `bounds` are metrics that no ranker was run for: chance, and the best possible if known.

    `teacher` is what the teacher ran as, where there was one: its arms come before the settings'.
    """

    info: EngineInfo
    dataset: Dataset
    seed: int
    left_out: int
    arms: dict[str, ArmSettings]
    summaries: dict[str, ArmSummary]
    baselines: dict[str, BaselineSummary]
    bounds: dict[str, dict[str, float]]
    teacher: EngineInfo | None = None

    @property
    def num_requests(self) -> int:
        return len(self.dataset.asked.requests)

    def to_pandas(self) -> "DataFrame":
        """A row for each arm, baseline and bound, as `summary_rows` says; ImportError where there is no pandas."""
        return frame_of(list(summary_rows(self.summaries, self.baselines, self.bounds))).set_index("name")


NO_TEACHER_SECTION = """\
The settings have no train.teacher, so the teacher is asked for a label, in their template: give those of the run that \
distilled."""


def evaluate(
    console: Console,
    settings: Settings,
    options: EvalOptions,
    *,
    model: Model | None = None,
    dataset: Dataset | None = None,
) -> Evaluation:
    """Ranks the requests in every arm, compares each with full recompute, and prints what it does and finds.

    A `dataset` of the caller's is asked instead of the one that the settings and options describe.
    """
    if options.teacher is not None:
        return _evaluate_student(console, settings, options, options.teacher, model, dataset)
    arms, references = compared_arms(settings, options.arms)
    model = model or _loaded(console, settings)
    texts = PromptTexts(settings, model, arms)
    dataset, left_out, prompts = texts.fitting(dataset or _dataset(console, settings, options, texts))
    added = set(arms).difference(settings.arms)
    _tell_plan(console, dataset, references, added, options, left_out)
    found = ask(console, _with_arms(settings, arms), dataset, prompts, model, options.num_permutations, options.seed)
    return _summarised(console, found, None, dataset, arms, references, options, len(left_out))


def _evaluate_student(
    console: Console,
    settings: Settings,
    options: EvalOptions,
    teacher: str,
    model: Model | None,
    dataset: Dataset | None,
) -> Evaluation:
    """Asks the teacher, then the student: the memory may not hold both."""
    if settings.train.teacher is None:
        noted(console)(NO_TEACHER_SECTION)
    arms = chosen_arms(settings, options.arms)
    teaching = teacher_settings(settings, teacher, options.teacher_adapter, arms)
    references = against_teacher(teaching.arms, arms)
    student = model or _loaded(console, settings)
    texts = PromptTexts(settings, student, arms)
    dataset, left_out, prompts = texts.fitting(dataset or _dataset(console, settings, options, texts))
    del student
    taught_by = _loaded(console, teaching)
    dataset, more, taught_prompts = PromptTexts(teaching, taught_by, teaching.arms).fitting(dataset)
    _tell_plan(console, dataset, references, (), options, [*left_out, *more])
    # In another order too, whatever is asked of the arms: a student can hardly agree with it more than it does itself.
    orders = max(1, options.num_permutations)
    teaching = with_room(teaching, taught_prompts)
    taught = ask(console, teaching, dataset, taught_prompts, taught_by, orders, options.seed)
    del taught_by
    student = model or _loaded(console, settings)
    found = ask(console, _with_arms(settings, arms), dataset, prompts, student, options.num_permutations, options.seed)
    every = {**teaching.arms, **arms}
    return _summarised(console, found, taught, dataset, every, references, options, len(left_out) + len(more))


def _summarised(
    console: Console,
    found: Answers,
    taught: Answers | None,
    dataset: Dataset,
    arms: dict[str, ArmSettings],
    references: References,
    options: EvalOptions,
    num_left_out: int,
) -> Evaluation:
    runs = {**(taught.runs if taught else {}), **found.runs}
    evaluation = Evaluation(
        info=found.info,
        dataset=dataset,
        seed=options.seed,
        left_out=num_left_out,
        arms=arms,
        summaries=summarise(runs, references, dataset.asked.requests, seed=options.seed),
        baselines=_baselines(dataset, options.seed),
        bounds=bounds(dataset),
        teacher=taught.info if taught else None,
    )
    _show(console, evaluation)
    return evaluation


def _with_arms(settings: Settings, arms: dict[str, ArmSettings]) -> Settings:
    return settings.model_copy(update={"arms": arms, "default_arm": next(iter(arms))})


def _loaded(console: Console, settings: Settings) -> Model:
    with announced(console) as announce:
        announce(f"loading {settings.weights}")
        return model_of(settings)


def _tell_plan(
    console: Console,
    dataset: Dataset,
    references: References,
    added: Collection[str],
    options: EvalOptions,
    left_out: Sequence[InvalidRequestError],
) -> None:
    for line in plan_lines(dataset, references, added, options.seed, options.num_permutations):
        console.print(line, markup=False, highlight=False)
    if left_out:
        console.print(f"{len(left_out)} requests left out; first: {left_out[0]}", style="yellow", markup=False)


def _dataset(console: Console, settings: Settings, options: EvalOptions, texts: PromptTexts) -> Dataset:
    return eval_dataset(
        settings,
        options.task,
        num_requests=options.num_requests,
        split=options.split,
        seed=options.seed,
        is_servable=texts.is_servable,
        tell=noted(console),
    )


def _baselines(dataset: Dataset, seed: int) -> dict[str, BaselineSummary]:
    requests = dataset.asked.requests
    rankers: dict[str, Baseline] = {
        "word overlap": WordOverlap(dataset.asked),
        "popularity": Popularity(dataset.source),
    }
    return {
        name: baseline_summary([ranker.scores(request) for request in requests], requests, seed=seed)
        for name, ranker in rankers.items()
    }


def _show(console: Console, evaluation: Evaluation) -> None:
    arms = evaluation.summaries
    reference = "the teacher" if evaluation.teacher else "full recompute"
    tables = [quality_table(arms, evaluation.baselines, evaluation.bounds, evaluation.num_requests)]
    if any(summary.reference for summary in arms.values()):
        tables += [difference_table(arms, reference), fidelity_table(arms, reference)]
    tables.append(cost_table(arms))
    if any(summary.position_bias for summary in arms.values()):
        tables.append(position_table(arms))
    for table in tables:
        console.print()
        console.print(table)
    console.print()
    if (bias := arms[TEACHER].position_bias if evaluation.teacher else None) is not None:
        console.print(self_agreement_line(bias), markup=False, highlight=False)
