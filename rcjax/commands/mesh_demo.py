"""The demo on a mesh: requests side by side over gRPC, which slice answered each, what it had and what it fetched."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rcjax.catalog import EmbeddedWorld
from rcjax.commands.report import Answer, asked
from rcjax.config import Settings
from rcjax.model.spec import Model
from rcjax.request import EngineStats, RecommendRequest
from rcjax.serving.client import RecommenderClient
from rcjax.serving.deployment import new_server
from rcjax.serving.filling import fill
from rcjax.serving.progress import announced
from rcjax.serving.server import running_server
from rcjax.serving.startup import start_engine

NUM_ITEMS, NUM_USERS, NUM_CANDIDATES = 120, 12, 20
INTRODUCTION = """\
The same shop on a mesh of {slices} slices, each with {devices} and a cache of its own. Every slice has the
shoppers' histories; which slices hold an item's KV is a matter of placement, here [bold]{placement}[/]. The scheduler,
[bold]{policy}[/], sends a request to the slice where it expects the answer first. What that slice lacks it copies
from another one, or computes it, whichever it has found to be faster."""


def run_mesh_demo(
    console: Console,
    settings: Settings,
    num_requests: int,
    *,
    model: Model | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Builds the caches, serves on free ports, ranks `num_requests` requests as many at once as there are slices."""
    mesh, start_s = settings.mesh, clock()
    devices = "one device" if mesh.tensor == 1 else f"{mesh.tensor} devices"
    introduction = INTRODUCTION.format(
        slices=mesh.slices, devices=devices, placement=escape(mesh.placement), policy=mesh.scheduler.policy
    )
    console.print(introduction + "\n", highlight=False)
    world = EmbeddedWorld(settings.catalogue.seed, num_items=NUM_ITEMS)
    num_candidates = min(NUM_CANDIDATES, settings.limits.max_candidates)
    shop = world.catalogue(num_users=NUM_USERS, num_requests=num_requests, num_candidates=num_candidates)
    with announced(console) as announce:
        engine = start_engine(settings, model=model, progress=announce)
    info = engine.info()
    where = f"{info.num_slices} x {info.tensor} devices ({info.device})"
    console.print(f"{info.model} loaded and compiled for {where} in {clock() - start_s:.0f} s", highlight=False)
    report = fill(engine, shop, console)
    cached = f"KV of {report.num_items} items and {report.num_users} shoppers cached"
    console.print(
        f"{cached}: {report.num_built} blocks computed, the others copied from slice to slice\n", highlight=False
    )
    asks = [RecommendRequest(request.candidates, request.user_id) for request in shop.requests]
    local = settings.model_copy(update={"server": settings.server.for_this_process()})
    server = new_server(local, lambda: engine.router)
    with running_server(server) as addresses, RecommenderClient(addresses.main, addresses.admin) as client:
        with ThreadPoolExecutor(mesh.slices) as callers:
            answers = list(callers.map(lambda ask: asked(client, ask, clock), asks))
        stats = client.stats()
    console.print(request_table(answers))
    console.print(slice_table(stats))
    console.print(f"\n{stats.num_compilations} compilations after start-up; the demo took {clock() - start_s:.0f} s.")


def request_table(answers: Sequence[Answer]) -> Table:
    """A line for each request: its slice, and its prompt's tokens by where they came from."""
    table = Table(title="prompt tokens by where the slice had them from", title_justify="left")
    table.add_column("request")
    for heading in ("slice", "had", "from another slice", "from host or disk", "computed blocks", "fresh", "TTFT"):
        table.add_column(heading, justify="right")
    for number, answer in enumerate(answers, start=1):
        tokens = answer.result.tokens
        kept = tokens.host + tokens.disk
        had = tokens.cached + tokens.selected - tokens.fetched - kept - tokens.built
        counts = (had, tokens.fetched, kept, tokens.built, tokens.fresh)
        ttft = f"{answer.result.times.ttft_ms:,.0f} ms"
        table.add_row(str(number), str(answer.result.slice_index), *(f"{count:,}" for count in counts), ttft)
    return table


def slice_table(stats: EngineStats) -> Table:
    """A line for each slice: what it was given, and what of it was there."""
    table = Table(title="blocks by slice", title_justify="left")
    for heading in ("slice", "requests", "hits", "misses", "fetched", "lent", "pages used"):
        table.add_column(heading, justify="right")
    for index, one in enumerate(stats.slices):
        counts = (one.num_requests, one.num_hits, one.num_misses, one.num_fetched)
        pages = f"{one.pages_used:,} of {one.pages_total:,}"
        table.add_row(str(index), *(f"{count:,}" for count in counts), f"{one.lent_bytes / 2**20:,.1f} MiB", pages)
    return table
