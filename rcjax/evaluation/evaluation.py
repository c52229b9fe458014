"""An evaluation from settings to figures: requests, arms, engine, run, summary."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rcjax.catalog.holdout import NextItem
from rcjax.config import ArmSettings, Settings, ShapeSize
from rcjax.errors import InvalidRequestError, RcjaxError
from rcjax.evaluation.arms import compared_arms
from rcjax.evaluation.baselines import Baseline, Popularity, WordOverlap, bounds
from rcjax.evaluation.dataset import Dataset, eval_dataset
from rcjax.evaluation.frame import summary_rows
from rcjax.evaluation.prompt_texts import PromptTexts
from rcjax.evaluation.runner import ArmRun, run_arms
from rcjax.evaluation.summary import ArmSummary, BaselineSummary, baseline_summary, summarise
from rcjax.evaluation.tables import (
    cost_table,
    difference_table,
    fidelity_table,
    plan_lines,
    position_table,
    quality_table,
)
from rcjax.model.selection import parse_policy
from rcjax.model.spec import Model
from rcjax.prompt import History
from rcjax.request import EngineInfo
from rcjax.serving.local import LocalEngine
from rcjax.serving.progress import announced, noted
from rcjax.serving.startup import model_of, start_engine
from rcjax.tables import frame_of

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_REFERENCE_SHAPES = 8
NUM_CONTEXT_USERS = 32
_SHAPE_STEP_TOKENS = 128


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What to evaluate on what: `arms` names some of the settings' (none: all), `split` the users held out."""

    num_requests: int | None = None
    arms: tuple[str, ...] = ()
    task: NextItem = field(default_factory=NextItem)
    split: str = "test"
    num_permutations: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that was found. `bounds` are metrics that no ranker was run for: chance, and the best possible if known."""

    info: EngineInfo
    dataset: Dataset
    seed: int
    left_out: int
    arms: dict[str, ArmSettings]
    summaries: dict[str, ArmSummary]
    baselines: dict[str, BaselineSummary]
    bounds: dict[str, dict[str, float]]

    @property
    def num_requests(self) -> int:
        return len(self.dataset.asked.requests)

    def to_pandas(self) -> "DataFrame":
        """A row for each arm, baseline and bound, as `summary_rows` says; ImportError where there is no pandas."""
        return frame_of(list(summary_rows(self.summaries, self.baselines, self.bounds))).set_index("name")


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
    arms, references = compared_arms(settings, options.arms)
    if model is None:
        with announced(console) as announce:
            announce(f"loading {settings.model}")
            model = model_of(settings)
    texts = PromptTexts(settings, model, arms)
    dataset, left_out, prompts = texts.fitting(dataset or _dataset(console, settings, options, texts))
    requests = dataset.asked.requests
    added = set(arms).difference(settings.arms)
    for line in plan_lines(dataset, references, added, options.seed, options.num_permutations):
        console.print(line, markup=False, highlight=False)
    if left_out:
        console.print(f"{len(left_out)} requests left out; first: {left_out[0]}", style="yellow", markup=False)
    settings = _eval_settings(settings, arms, prompts)
    with _started(console, settings, dataset, options.seed, model) as engine:
        info = engine.info()
        runs = _run(console, engine, settings, dataset, options)
    evaluation = Evaluation(
        info=info,
        dataset=dataset,
        seed=options.seed,
        left_out=len(left_out),
        arms=arms,
        summaries=summarise(runs, references, requests, seed=options.seed),
        baselines=_baselines(dataset, options.seed),
        bounds=bounds(dataset),
    )
    _show(console, evaluation)
    return evaluation


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


def _eval_settings(settings: Settings, arms: dict[str, ArmSettings], prompts: Sequence[int]) -> Settings:
    """The settings with the arms to compare, and shapes that full recompute fits without much padding.

    A deployment has no need to recompute in full, so its own shapes may not hold that.
    """
    steps = {-(-num_tokens // _SHAPE_STEP_TOKENS) for num_tokens in prompts}
    stride = -(-(max(steps) - min(steps) + 1) // MAX_REFERENCE_SHAPES)
    lengths = (step * _SHAPE_STEP_TOKENS for step in range(max(steps), min(steps) - 1, -stride))
    full = tuple(ShapeSize(fresh_tokens=length, num_pages=0) for length in lengths)
    rank = tuple(dict.fromkeys((*settings.shapes.rank, *full)))
    shapes = settings.shapes.model_copy(update={"rank": rank, "generate": ()})
    return settings.model_copy(update={"arms": arms, "default_arm": next(iter(arms)), "shapes": shapes})


def _started(console: Console, settings: Settings, dataset: Dataset, seed: int, model: Model) -> LocalEngine:
    with announced(console) as announce:
        engine = start_engine(settings, model=model, progress=announce)
        measures = [measure for arm in settings.arms.values() for measure in parse_policy(arm.selection).measures]
        is_offline = any(not measure.is_probe for measure in measures)
        num_sampled = settings.semantic.num_sampled_users if settings.semantic_arms else 0
        num_prototypes = 0
        if is_offline or num_sampled:
            announce("learning from users who are not asked about")
            _put_others(engine, dataset, max(num_sampled, NUM_CONTEXT_USERS if is_offline else 0))
            engine.choose_orders(seed)
            num_prototypes = engine.build_semantic_pool(seed)
    if num_sampled and not num_prototypes:
        arms = ", ".join(settings.semantic_arms)
        console.print(f"nobody is left to fill the semantic pool; histories are computed in {arms}", style="yellow")
    info = engine.info()
    console.print(
        f"{info.model}, {info.dtype} ({info.dtype_reason}), is ready on {info.device}", markup=False, highlight=False
    )
    return engine


def _put_others(engine: LocalEngine, dataset: Dataset, num_users: int) -> None:
    """Puts all candidates, and users who are not asked about, where there are any."""
    asked = dataset.asked
    engine.put_items([asked.items[i] for i in dict.fromkeys(i for r in asked.requests for i in r.candidates)])
    asked_ids = {request.user_id for request in asked.requests}
    others = [user for user_id, user in dataset.source.users.items() if user_id not in asked_ids]
    for outcome in engine.put_users(others[:num_users]):
        if isinstance(outcome, RcjaxError) and not isinstance(outcome, InvalidRequestError):
            raise outcome  # one whose history is over the limits is left out: others will do


def _run(
    console: Console, engine: LocalEngine, settings: Settings, dataset: Dataset, options: EvalOptions
) -> dict[str, ArmRun]:
    arms = settings.arms
    num_answers = len(dataset.asked.requests) * len(arms) * (1 + options.num_permutations)
    columns = (TextColumn("ranking"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=num_answers)
        runs = run_arms(
            engine,
            dataset.asked,
            list(arms),
            unseen=[name for name, arm in arms.items() if arm.history is History.SEMANTIC],
            num_permutations=options.num_permutations,
            batch=max(shape.batch for shape in settings.shapes.rank),
            seed=options.seed,
            advance=lambda: bar.advance(task),
        )
    errors = [error for run in runs.values() for error in run.errors]
    if errors:
        console.print(
            f"{len(errors)} of {num_answers} answers were refused; first: {errors[0]}", style="yellow", markup=False
        )
    return runs


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
    tables = [quality_table(arms, evaluation.baselines, evaluation.bounds, evaluation.num_requests)]
    if any(summary.reference for summary in arms.values()):
        tables += [difference_table(arms), fidelity_table(arms)]
    tables.append(cost_table(arms))
    if any(summary.position_bias for summary in arms.values()):
        tables.append(position_table(arms))
    for table in tables:
        console.print()
        console.print(table)
    console.print()
