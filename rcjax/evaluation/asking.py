"""One model asked all requests in its arms: settings to an engine to what each arm gave."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rcjax.config import Settings, ShapeSize, SnapshotSettings
from rcjax.errors import InvalidRequestError, RcjaxError
from rcjax.evaluation.dataset import Dataset
from rcjax.evaluation.runner import ArmRun, run_arms
from rcjax.model.selection import parse_policy
from rcjax.model.spec import Model
from rcjax.prompt import History, Reuse
from rcjax.request import EngineInfo
from rcjax.serving.local import LocalEngine
from rcjax.serving.progress import announced
from rcjax.serving.startup import start_engine

MAX_REFERENCE_SHAPES = 8
NUM_CONTEXT_USERS = 32
_SHAPE_STEP_TOKENS = 128


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model's engine is, and what each of its arms gave."""

    info: EngineInfo
    runs: dict[str, ArmRun]


def ask(
    console: Console,
    settings: Settings,
    dataset: Dataset,
    prompts: Sequence[int],
    model: Model,
    num_permutations: int,
    seed: int,
) -> Answers:
    """Ranks the requests in every arm of the settings; `prompts` are the lengths in tokens that the requests have."""
    # Without snapshots: they would take the place of a deployment's.
    settings = _with_reference_shapes(settings, prompts).model_copy(update={"snapshot": SnapshotSettings()})
    with _started(console, settings, dataset, seed, model) as engine:
        answers = Answers(engine.info(), _run(console, engine, settings, dataset, num_permutations, seed))
    del engine
    gc.collect()  # an engine's parts know each other; its pool and weights are to be gone before another is made
    return answers


def _with_reference_shapes(settings: Settings, prompts: Sequence[int]) -> Settings:
    """The settings with shapes that full recompute fits without much padding, and none for generating.

    A deployment has no need to recompute in full, so its own shapes may not hold that.
    """
    shapes = settings.shapes.model_copy(update={"generate": ()})
    if not any(arm.reuse is Reuse.NONE for arm in settings.arms.values()):
        return settings.model_copy(update={"shapes": shapes})
    steps = {-(-num_tokens // _SHAPE_STEP_TOKENS) for num_tokens in prompts}
    stride = -(-(max(steps) - min(steps) + 1) // MAX_REFERENCE_SHAPES)
    lengths = (step * _SHAPE_STEP_TOKENS for step in range(max(steps), min(steps) - 1, -stride))
    full = tuple(ShapeSize(fresh_tokens=length, num_pages=0) for length in lengths)
    rank = tuple(dict.fromkeys((*settings.shapes.rank, *full)))
    return settings.model_copy(update={"shapes": shapes.model_copy(update={"rank": rank})})


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
    console: Console, engine: LocalEngine, settings: Settings, dataset: Dataset, num_permutations: int, seed: int
) -> dict[str, ArmRun]:
    arms = settings.arms
    num_answers = len(dataset.asked.requests) * len(arms) * (1 + num_permutations)
    columns = (TextColumn("ranking"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=num_answers)
        runs = run_arms(
            engine,
            dataset.asked,
            list(arms),
            unseen=[name for name, arm in arms.items() if arm.history is History.SEMANTIC],
            num_permutations=num_permutations,
            batch=max(shape.batch for shape in settings.shapes.rank),
            seed=seed,
            advance=lambda: bar.advance(task),
        )
    errors = [error for run in runs.values() for error in run.errors]
    if errors:
        console.print(
            f"{len(errors)} of {num_answers} answers were refused; first: {errors[0]}", style="yellow", markup=False
        )
    return runs
