"""A demo from settings to what was found: caches, a server, requests in every arm, and the quality over many."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rcjax.catalog import Catalogue, Request
from rcjax.catalog.holdout import NextItem
from rcjax.commands.demo.page import page
from rcjax.commands.demo.quality import Clock, Quality, cached_and_full, measure
from rcjax.commands.demo.report import DemoReport, Shown
from rcjax.commands.demo.tables import introduction, show_report, show_request
from rcjax.commands.report import asked
from rcjax.config import ArmSettings, Settings, ShapeSettings, ShapeSize
from rcjax.disk import check_folder, write_whole
from rcjax.evaluation.arms import arm_order
from rcjax.evaluation.dataset import Dataset, eval_dataset
from rcjax.evaluation.prompt_texts import PromptTexts
from rcjax.model.spec import Model
from rcjax.request import RecommendRequest
from rcjax.serving.client import RecommenderClient
from rcjax.serving.deployment import new_server
from rcjax.serving.explanation import Explanation
from rcjax.serving.filling import fill
from rcjax.serving.local import LocalEngine
from rcjax.serving.progress import announced
from rcjax.serving.server import running_server
from rcjax.serving.startup import model_of, start_engine

NUM_QUALITY_REQUESTS, NUM_CANDIDATES = 200, 20
LIMIT_S = 160.0  # from the start; what is asked for the quality ends then, on a slow machine with fewer requests
MIN_QUALITY_S = 15.0  # however late it is

# What 20 candidates of this shop need and no more, as compiling a shape takes seconds. Baselines get two or three
# shapes each, so that padding costs them little.
_TILED = ShapeSize(fresh_tokens=NUM_CANDIDATES, num_pages=48, tiles=NUM_CANDIDATES, tile_pages=8)
DEMO_SHAPES = ShapeSettings(
    rank=(_TILED, (160, 192), (1536, 48), (1792, 48), (2048, 48), (1920, 0), (2176, 0), (2560, 0)),
    build=((512, 16),),
)
NEXT = """\
What next? `rcjax serve` serves this shop and prints the line that calls it; docs/tutorial.md goes on to your own."""


def demo_settings() -> Settings:
    return Settings(shapes=DEMO_SHAPES)


def run_demo(
    console: Console,
    settings: Settings,
    num_requests: int,
    *,
    model: Model | None = None,
    html: Path | None = None,
    num_quality_requests: int = NUM_QUALITY_REQUESTS,
    clock: Clock = time.perf_counter,
) -> DemoReport:
    """Builds the caches, serves on free ports, ranks `num_requests` requests in every arm, measures the quality over
    more of them from cached blocks and in full, and prints all of it; `html` becomes a page of the same.

    `DiskError` where that could not be written, before anything is measured.
    """
    if html is not None:
        check_folder(html.parent)
    start_s = clock()
    cached, full, arms = cached_and_full(settings)
    console.print(introduction(settings), highlight=False)
    engine, dataset = _started(console, settings, arms, model, max(num_requests, num_quality_requests), clock)
    shop, info = dataset.asked, engine.info()
    shown_requests = shop.requests[:num_requests]
    _fill(console, engine, Catalogue(shop.items, {r.user_id: shop.users[r.user_id] for r in shown_requests}), clock)
    local = settings.model_copy(update={"server": settings.server.for_this_process()})
    with (
        running_server(new_server(local, lambda: engine.router)) as addresses,
        RecommenderClient(addresses.main, addresses.admin) as client,
    ):
        console.print(f"serving gRPC on {addresses.main} (admin {addresses.admin})\n", highlight=False)
        shown = []
        for number, request in enumerate(shown_requests, start=1):
            shown.append(_asked_in_every_arm(client, request, dict.fromkeys((*arm_order(settings), full)), clock))
            title = f"request {number} of {len(shown_requests)}"
            show_request(console, title, shown[-1], shop, settings, cached, full)
        prompts = _prompts(engine, shown[0], settings)
        left_s = max(start_s + LIMIT_S - clock(), MIN_QUALITY_S)
        quality = _measured(console, engine, _first(dataset, num_quality_requests), cached, full, left_s, clock)
        num_compilations = client.stats().num_compilations
    report = DemoReport(
        settings, info, shop, tuple(shown), prompts, quality, num_compilations, seconds=clock() - start_s
    )
    show_report(console, report)
    if html is not None:
        write_whole(html, page(report))
        console.print(f"wrote {html}", markup=False, highlight=False, soft_wrap=True)
    console.print(NEXT, markup=False, highlight=False)
    return report


def _started(
    console: Console,
    settings: Settings,
    arms: Mapping[str, ArmSettings],
    model: Model | None,
    num_requests: int,
    clock: Clock,
) -> tuple[LocalEngine, Dataset]:
    """An engine with these arms, and the embedded shop's test users with a request each, whatever the settings'
    catalogue is: those within the limits."""
    start_s = clock()
    catalogue = settings.catalogue.model_copy(update={"format": "embedded"})
    task = NextItem(num_candidates=min(NUM_CANDIDATES, settings.limits.max_candidates))
    dataset = eval_dataset(settings.model_copy(update={"catalogue": catalogue}), task, num_requests=num_requests)
    with announced(console) as announce:
        announce(f"loading {settings.weights}")
        model = model or model_of(settings)
        dataset, _, lengths = PromptTexts(settings, model, arms).fitting(dataset)
        shapes = _with_room(settings.shapes, max(lengths))
        engine = start_engine(
            settings.model_copy(update={"arms": arms, "shapes": shapes}), model=model, progress=announce
        )
    info = engine.info()
    console.print(f"{info.model} loaded and compiled for {info.device} in {clock() - start_s:.0f} s")
    console.print(f"weights in {info.dtype} ({info.dtype_reason})", highlight=False)
    return engine, dataset


def _with_room(shapes: ShapeSettings, num_tokens: int) -> ShapeSettings:
    """The shapes with one that holds a prompt of so many tokens in full: a deployment need not have one."""
    if any(shape.fresh_tokens >= num_tokens for shape in shapes.rank):
        return shapes
    return shapes.model_copy(update={"rank": (*shapes.rank, ShapeSize(fresh_tokens=num_tokens, num_pages=0))})


def _fill(console: Console, engine: LocalEngine, catalogue: Catalogue, clock: Clock) -> None:
    start_s = clock()
    filled = fill(engine, catalogue, console)
    console.print(
        f"KV of {filled.num_items} items and {filled.num_users} shoppers cached: {filled.num_tokens:,} tokens in "
        f"{clock() - start_s:.0f} s; once, for every prompt to come"
    )


def _asked_in_every_arm(client: RecommenderClient, request: Request, arms: Iterable[str], clock: Clock) -> Shown:
    asks = {arm: RecommendRequest(request.candidates, request.user_id, arm=arm) for arm in arms}
    return Shown(request, {arm: asked(client, ask, clock) for arm, ask in asks.items()})


def _first(dataset: Dataset, num_requests: int) -> Dataset:
    return replace(dataset, asked=replace(dataset.asked, requests=dataset.asked.requests[:num_requests]))


def _prompts(engine: LocalEngine, shown: Shown, settings: Settings) -> Mapping[str, Explanation]:
    """The prompt of a request in each arm of the settings, as it is served now."""
    request = shown.request
    return {
        arm: engine.explain(RecommendRequest(request.candidates, request.user_id, arm=arm))
        for arm in arm_order(settings)
    }


def _measured(
    console: Console,
    engine: LocalEngine,
    dataset: Dataset,
    cached: str,
    full: str,
    seconds: float,
    clock: Clock,
) -> Quality:
    """Both arms' quality, with a bar for each while they are asked."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        total = len(dataset.asked.requests)
        tasks = {arm: bars.add_task(f"ranking by {arm}", total=total) for arm in (cached, full)}
        return measure(
            engine, dataset, cached, full, seconds=seconds, clock=clock, advance=lambda arm: bars.advance(tasks[arm])
        )
