"""The demo: a real model ranks the embedded shop's requests over gRPC, in every arm, from cached blocks."""

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape

from rcjax.catalog import Catalogue, EmbeddedWorld, User
from rcjax.catalog.types import Request
from rcjax.commands.report import Answer, arm_table, asked, ranking_table, stage_table
from rcjax.config import Settings, ShapeSettings, ShapeSize
from rcjax.evaluation.arms import arm_order, baselines
from rcjax.evaluation.bayes import bayes_optimal
from rcjax.evaluation.ranking import Rank, ndcg_at
from rcjax.model.spec import Model
from rcjax.request import RecommendRequest
from rcjax.serving.client import RecommenderClient
from rcjax.serving.deployment import new_server
from rcjax.serving.filling import fill
from rcjax.serving.local import LocalEngine
from rcjax.serving.progress import announced
from rcjax.serving.server import running_server
from rcjax.serving.startup import start_engine

NUM_ITEMS, NUM_USERS, NUM_CANDIDATES = 120, 12, 20
TOP_K = 5
SHOWN_EVENTS = 4

# What 20 candidates of this shop need and no more, as compiling a shape takes seconds. Baselines get two or three
# shapes each, so that padding costs them little.
_TILED = ShapeSize(fresh_tokens=NUM_CANDIDATES, num_pages=48, tiles=NUM_CANDIDATES, tile_pages=8)
DEMO_SHAPES = ShapeSettings(
    rank=(_TILED, (160, 160), (1440, 48), (1536, 48), (1664, 48), (1984, 0), (2176, 0)),
    build=((512, 16),),
)
INTRODUCTION = """\
A shop asks a language model to rank 20 candidates for a shopper. The prompt is an instruction, the shopper's history
and the candidates' texts, about 2,000 tokens. Four ways ("arms") to the first answer, in the same engine:
  [bold]full[/]      computes every token, as without any cache
  [bold]prefix[/]    reuses the KV of instruction and history, and computes all items
  [bold]rcjax[/]     also reuses each item's KV, computed once for all prompts; recomputes only 4 tokens of each
  [bold]parallel[/]  reuses all blocks as they are: items do not see each other; a token after each scores it"""
HONESTY = """\
Read the times, not the taste: {model} was never trained to recommend. Zero-shot, it is here as a parity check (do
cached blocks give what full recompute gives?), not as a recommender, and a few requests measure no quality."""


def demo_settings() -> Settings:
    return Settings(shapes=DEMO_SHAPES)


def run_demo(
    console: Console,
    settings: Settings,
    num_requests: int,
    *,
    model: Model | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Builds the caches, serves on free ports, ranks `num_requests` requests in every arm, and prints all of it."""
    start_s = clock()
    console.print(INTRODUCTION, highlight=False)
    console.print()
    world = EmbeddedWorld(settings.catalogue.seed, num_items=NUM_ITEMS)
    num_candidates = min(NUM_CANDIDATES, settings.limits.max_candidates)
    shop = world.catalogue(num_users=NUM_USERS, num_requests=num_requests, num_candidates=num_candidates)
    with announced(console) as announce:
        engine = start_engine(settings, model=model, progress=announce)
    started_s, info = clock(), engine.info()
    console.print(f"{info.model} loaded and compiled for {info.device} in {started_s - start_s:.0f} s")
    console.print(f"weights in {info.dtype} ({info.dtype_reason})", highlight=False)
    report = fill(engine, shop, console)
    filled_s = clock()
    console.print(
        f"KV of {report.num_items} items and {report.num_users} shoppers cached: {report.num_tokens:,} tokens in "
        f"{filled_s - started_s:.0f} s; once, for every prompt to come"
    )
    answers, num_compilations = _serve_and_ask(console, engine, shop, settings, clock)
    _show_summary(console, answers, settings)
    _show_quality(console, answers, shop.requests, world)
    if settings.adapter is None:
        console.print(HONESTY.format(model=engine.info().model), highlight=False)
    console.print(f"\n{num_compilations} compilations after start-up; the demo took {clock() - start_s:.0f} s.")


def _serve_and_ask(
    console: Console, engine: LocalEngine, shop: Catalogue, settings: Settings, clock: Callable[[], float]
) -> tuple[dict[str, list[Answer]], int]:
    """What each arm answered to each request over gRPC, and how many programs were compiled meanwhile."""
    local = settings.model_copy(update={"server": settings.server.for_this_process()})
    server = new_server(local, lambda: engine.router)
    with running_server(server) as addresses, RecommenderClient(addresses.main, addresses.admin) as client:
        console.print(f"serving gRPC on {addresses.main} (admin {addresses.admin})\n", highlight=False)
        answers: dict[str, list[Answer]] = {arm: [] for arm in arm_order(settings)}
        for number, request in enumerate(shop.requests, start=1):
            asks = {arm: RecommendRequest(request.candidates, request.user_id, arm=arm) for arm in answers}
            one = {arm: asked(client, ask, clock) for arm, ask in asks.items()}
            _show_request(console, f"request {number} of {len(shop.requests)}", request, shop, one, settings)
            for arm, answer in one.items():
                answers[arm].append(answer)
        return answers, client.stats().num_compilations


def _show_request(
    console: Console, name: str, request: Request, shop: Catalogue, answers: Mapping[str, Answer], settings: Settings
) -> None:
    console.rule(f"[bold]{name}[/]: shopper {request.user_id}", align="left")
    console.print(_history_text(shop.users[request.user_id]), highlight=False)
    best = settings.default_arm
    ranking = answers[best].result.ranking
    title = f"top {TOP_K} of {len(ranking)} candidates, by {best} (→ the one the shopper chose)"
    console.print(ranking_table(ranking[:TOP_K], shop.items, title=title, chosen=request.target))
    for ranked in ranking[TOP_K:]:
        if ranked.item_id == request.target:
            chosen = escape(shop.items[ranked.item_id].title)
            console.print(f" [green]→ chosen: {chosen}, which came {_ordinal(ranked.rank)}[/]", highlight=False)
    by_arm = {arm: [answer] for arm, answer in answers.items()}
    console.print(arm_table(by_arm, baselines(settings), title="time to the first ranked item, and tokens"))
    console.print()


def _history_text(user: User) -> str:
    recent = user.events[-SHOWN_EVENTS:]
    lines = [f"bought {len(user.events)} things, last:"]
    for event in reversed(recent):
        rating = f"{event.rating:g}/5 " if event.rating is not None else ""
        lines.append(f"  {rating}{escape(event.title)}")
    return "\n".join(lines)


def _show_summary(console: Console, answers: Mapping[str, Sequence[Answer]], settings: Settings) -> None:
    num = len(next(iter(answers.values())))
    console.rule(f"[bold]all of it[/]: {num} request{'s' if num > 1 else ''} in {len(answers)} arms", align="left")
    console.print(
        arm_table(answers, baselines(settings), title="time to the first ranked item; tokens of a prompt (mean)")
    )
    console.print(stage_table(answers, title="where the time went"))


def _show_quality(
    console: Console, answers: Mapping[str, Sequence[Answer]], requests: Sequence[Request], world: EmbeddedWorld
) -> None:
    ceiling = bayes_optimal(world, requests)
    parts = [f"{arm} {np.mean(list(map(_ndcg, of_arm, requests))):.2f}" for arm, of_arm in answers.items()]
    console.print(
        f"NDCG@10: {', '.join(parts)}; a random order {ceiling.chance.ndcg_at_10:.2f}, the best possible "
        f"{ceiling.bayes.ndcg_at_10:.2f}",
        highlight=False,
    )
    reference = next(iter(answers))
    for arm in list(answers)[1:]:
        pairs = zip(answers[arm], answers[reference], strict=True)
        shared = np.mean([len(_top(a) & _top(b)) for a, b in pairs])
        console.print(f"  {arm} shares {shared:.1f} of its top {TOP_K} with {reference}", highlight=False)
    console.print()


def _top(answer: Answer) -> set[str]:
    return {ranked.item_id for ranked in answer.result.ranking[:TOP_K]}


def _ndcg(answer: Answer, request: Request) -> float:
    place = next(ranked.rank for ranked in answer.result.ranking if ranked.item_id == request.target)
    return ndcg_at(10, Rank(place, place))


def _ordinal(number: int) -> str:
    suffix = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
