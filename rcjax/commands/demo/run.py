"""A demo from settings to what was found: caches, a server, requests in every arm, and the quality over many."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rcjax.catalog import Catalogue
from rcjax.catalog.holdout import NextItem
from rcjax.commands.demo.page import page
from rcjax.commands.demo.quality import Quality, cached_and_full, measure
from rcjax.commands.demo.report import DemoReport, Shown
from rcjax.commands.demo.tables import introduction, show_report, show_request
from rcjax.commands.report import asked
from rcjax.config import Settings, ShapeSettings, ShapeSize
from rcjax.disk import check_folder, write_whole
from rcjax.evaluation.arms import arm_order
from rcjax.evaluation.dataset import Dataset, eval_dataset
from rcjax.model.spec import Model
from rcjax.request import RecommendRequest
from rcjax.serving.client import RecommenderClient
from rcjax.serving.deployment import new_server
from rcjax.serving.explanation import Explanation
from rcjax.serving.filling import fill
from rcjax.serving.local import LocalEngine
from rcjax.serving.progress import announced
from rcjax.serving.server import running_server
from rcjax.serving.startup import start_engine

NUM_QUALITY_REQUESTS, NUM_CANDIDATES = 200, 20
LIMIT_S = 150.0  # from the start; what is asked for the quality ends then, on a slow machine with fewer requests
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
    clock: Callable[[], float] = time.perf_counter,
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
    dataset = _dataset(settings, max(num_requests, num_quality_requests))
    shop, shown = dataset.asked, dataset.asked.requests[:num_requests]
    with announced(console) as announce:
        engine = start_engine(settings.model_copy(update={"arms": arms}), model=model, progress=announce)
    started_s, info = clock(), engine.info()
    console.print(f"{info.model} loaded and compiled for {info.device} in {started_s - start_s:.0f} s")
    console.print(f"weights in {info.dtype} ({info.dtype_reason})", highlight=False)
    users = {request.user_id: shop.users[request.user_id] for request in shown}
    filled = fill(engine, Catalogue(shop.items, users), console)
    console.print(
        f"KV of {filled.num_items} items and {filled.num_users} shoppers cached: {filled.num_tokens:,} tokens in "
        f"{clock() - started_s:.0f} s; once, for every prompt to come"
    )
    local = settings.model_copy(update={"server": settings.server.for_this_process()})
    server = new_server(local, lambda: engine.router)
    with running_server(server) as addresses, RecommenderClient(addresses.main, addresses.admin) as client:
        console.print(f"serving gRPC on {addresses.main} (admin {addresses.admin})\n", highlight=False)
        order = list(dict.fromkeys((*arm_order(settings), full)))
        answers = []
        for number, request in enumerate(shown, start=1):
            asks = {arm: RecommendRequest(request.candidates, request.user_id, arm=arm) for arm in order}
            answers.append(Shown(request, {arm: asked(client, ask, clock) for arm, ask in asks.items()}))
            title = f"request {number} of {len(shown)}"
            show_request(console, title, answers[-1], shop, settings, cached, full)
        prompts = _prompts(engine, answers[0], settings)
        left_s = max(start_s + LIMIT_S - clock(), MIN_QUALITY_S)
        quality = _measured(console, engine, dataset, num_quality_requests, cached, full, left_s, clock)
        num_compilations = client.stats().num_compilations
    report = DemoReport(
        settings, info, shop, tuple(answers), prompts, quality, num_compilations, seconds=clock() - start_s
    )
    show_report(console, report)
    if html is not None:
        write_whole(html, page(report))
        console.print(f"wrote {html}", markup=False, highlight=False, soft_wrap=True)
    console.print(NEXT, markup=False, highlight=False)
    return report


def _dataset(settings: Settings, num_requests: int) -> Dataset:
    """The embedded shop's test users, each with a request, whatever the settings' catalogue is."""
    catalogue = settings.catalogue.model_copy(update={"format": "embedded"})
    task = NextItem(num_candidates=min(NUM_CANDIDATES, settings.limits.max_candidates))
    return eval_dataset(settings.model_copy(update={"catalogue": catalogue}), task, num_requests=num_requests)


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
    num_requests: int,
    cached: str,
    full: str,
    seconds: float,
    clock: Callable[[], float],
) -> Quality:
    requests = dataset.asked.requests[:num_requests]
    asked_for = replace(dataset, asked=replace(dataset.asked, requests=requests))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        tasks = {arm: bars.add_task(f"ranking by {arm}", total=len(requests)) for arm in (cached, full)}
        return measure(
            engine, asked_for, cached, full, seconds=seconds, clock=clock, advance=lambda arm: bars.advance(tasks[arm])
        )
