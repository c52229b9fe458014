"""A quick measurement: arms side by side in this process. `rcjax.commands.load` tests a running server."""

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from rcjax.catalog import Catalogue, Request
from rcjax.commands.report import Answer, arm_table, stage_table
from rcjax.config import Settings, read_catalogue
from rcjax.disk import write_whole
from rcjax.errors import RcjaxError
from rcjax.evaluation.arms import arm_order, baselines
from rcjax.evaluation.percentiles import percentiles
from rcjax.model.spec import Model
from rcjax.request import RecommendRequest
from rcjax.serving.filling import fill
from rcjax.serving.local import LocalEngine
from rcjax.serving.progress import announced, noted
from rcjax.serving.startup import start_engine

Clock = Callable[[], float]

# arm: how many times below prefix caching its P50 TTFT is to be
TARGETS = {"rcjax": 5.0, "parallel": 10.0}


def bench_requests(catalogue: Catalogue, num_requests: int) -> list[Request]:
    """The catalogue's requests, over and over where it has too few."""
    if not catalogue.requests:
        raise ValueError("the catalogue has no requests to send; name a `requests` file in catalogue.paths")
    return list(itertools.islice(itertools.cycle(catalogue.requests), num_requests))


def compare_arms(
    console: Console,
    settings: Settings,
    num_requests: int,
    *,
    model: Model | None = None,
    clock: Clock = time.perf_counter,
) -> dict[str, list[Answer]]:
    """Every arm ranks every request, interleaved and first in turn, with all blocks in cache; prints the tables."""
    catalogue = read_catalogue(settings.catalogue, tell=noted(console))
    requests = bench_requests(catalogue, num_requests)
    with announced(console) as announce:
        engine = start_engine(settings, model=model, progress=announce)
    with engine:
        fill(engine, _needed(catalogue, requests), console)
        answers = _rank_in_turns(console, engine, requests, arm_order(settings), clock)
    title = f"{engine.info().model} {engine.info().dtype} on {engine.info().device}, {num_requests} requests an arm"
    console.print(arm_table(answers, baselines(settings), title=title, tails=True))
    console.print(stage_table(answers, title="where the time went"))
    return answers


def _rank_in_turns(
    console: Console, engine: LocalEngine, requests: Sequence[Request], arms: Sequence[str], clock: Clock
) -> dict[str, list[Answer]]:
    answers: dict[str, list[Answer]] = {arm: [] for arm in arms}
    for number, request in enumerate(track([requests[0], *requests], "ranking", console=console)):
        shift = number % len(arms)
        for arm in (*arms[shift:], *arms[:shift]):
            answer = _rank(engine, request, arm, clock)
            if number:  # the first request only warms up
                answers[arm].append(answer)
    return answers


def claims(answers: Mapping[str, Sequence[Answer]]) -> list[dict[str, Any]]:
    """The speed-ups that the project promises, where the arms are there to measure them."""
    if "prefix" not in answers:
        return []
    p50 = {arm: percentiles([a.result.times.ttft_ms for a in of_arm])["p50"] for arm, of_arm in answers.items()}
    found = []
    for arm, target in TARGETS.items():
        if arm in p50:
            value = p50["prefix"] / p50[arm]
            name = f"{arm}: P50 TTFT, times below prefix"
            found.append({"name": name, "value": value, "target": target, "holds": value >= target})
    return found


def write_json(path: Path, answers: Mapping[str, Sequence[Answer]]) -> None:
    """Raw samples by arm, and the claims."""
    samples = {arm: [_sample(answer) for answer in of_arm] for arm, of_arm in answers.items()}
    report = {"benchmark": "rcjax bench", "samples": samples, "claims": claims(answers)}
    write_whole(path, json.dumps(report, indent=1) + "\n")


def _sample(answer: Answer) -> dict[str, Any]:
    return {"caller_ms": answer.caller_ms, "times": asdict(answer.result.times), "tokens": asdict(answer.result.tokens)}


def _needed(catalogue: Catalogue, requests: Sequence[Request]) -> Catalogue:
    """The part of a catalogue that requests name."""
    item_ids = dict.fromkeys(item_id for request in requests for item_id in request.candidates)
    user_ids = dict.fromkeys(request.user_id for request in requests)
    return Catalogue({i: catalogue.items[i] for i in item_ids}, {u: catalogue.users[u] for u in user_ids})


def _rank(engine: LocalEngine, request: Request, arm: str, clock: Clock) -> Answer:
    start_s = clock()
    (result,) = engine.recommend([RecommendRequest(request.candidates, request.user_id, arm=arm)])
    if isinstance(result, RcjaxError):
        raise result
    return Answer(result, (clock() - start_s) * 1e3)
