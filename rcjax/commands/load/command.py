"""A load test from its options to its report: a rate after the other, each with the same requests and gaps."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from rich.console import Console

from rcjax.catalog import Catalogue
from rcjax.commands.load import schedule
from rcjax.commands.load.figures import LoadFigures, figures_of, show
from rcjax.commands.load.open_loop import Sample, run_open_loop
from rcjax.commands.load.plot import write_plot
from rcjax.commands.load.schedule import Arrival
from rcjax.config import Settings, read_catalogue
from rcjax.disk import write_whole
from rcjax.errors import RcjaxError
from rcjax.serving.async_client import AsyncRecommenderClient
from rcjax.serving.progress import noted
from rcjax.serving.retries import NO_RETRIES

READY_S = 5.0  # for the server to say SERVING, before each rate
Connect = Callable[[str], grpc.aio.Channel]


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What a load test is asked. `arrivals` is `poisson`, `bursty` or the path of a trace.

    `rates_per_s` are run one after the other; empty: the trace as it was recorded.
    """

    target: str
    rates_per_s: tuple[float, ...]
    duration_s: float = 30.0
    arrivals: str = "poisson"
    slo_ms: float = 1000.0
    arm: str = ""
    seed: int = 0
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        if any(rate <= 0 for rate in self.rates_per_s):
            raise ValueError(f"rates are {self.rates_per_s}; each must be above 0")
        if not self.rates_per_s and self.arrivals in schedule.GAPS:
            raise ValueError(f"{self.arrivals} arrivals need a rate: give --rate, as in --rate 1,2,4")


def run_load_test(
    console: Console,
    options: LoadOptions,
    settings: Settings,
    *,
    connect: Connect = grpc.aio.insecure_channel,
    json_file: Path | None = None,
    plot: Path | None = None,
) -> list[LoadFigures]:
    """Runs and reports; `RcjaxError`, after the report, where not one request was answered."""
    runs = planned(options, read_catalogue(settings.catalogue, tell=noted(console)))
    found, samples = [], []
    for rate, arrivals in runs:
        console.print(f"{len(arrivals):,} requests at {rate:.3g}/s ...", highlight=False)
        samples.append(asyncio.run(_run(options, arrivals, connect)))
        found.append(figures_of(samples[-1], rate, options.slo_ms))
    title = f"{options.target}, {options.arrivals} arrivals, {options.arm or 'default'} arm, seed {options.seed}"
    show(console, found, slo_ms=options.slo_ms, title=title)
    if json_file is not None:
        write_json(json_file, options, found, samples)
    if plot is not None:
        write_plot(plot, found, slo_ms=options.slo_ms, title=title)
    if not any(one.num_answered for one in found):
        raise RcjaxError(f"no request was answered by {options.target}")
    return found


def planned(options: LoadOptions, catalogue: Catalogue) -> list[tuple[float, list[Arrival]]]:
    """The arrivals of each rate; ValueError where there is nothing to send."""
    if not catalogue.requests:
        raise ValueError("the catalogue has no requests to send; name a `requests` file in catalogue.paths")
    gaps = schedule.GAPS.get(options.arrivals)
    if gaps is not None:
        return [
            (
                rate,
                schedule.drawn(catalogue.requests, gaps, rate, options.duration_s, arm=options.arm, seed=options.seed),
            )
            for rate in options.rates_per_s
        ]
    trace = schedule.read_trace(Path(options.arrivals), catalogue.requests, arm=options.arm, seed=options.seed)
    if not options.rates_per_s:
        return [(schedule.mean_rate(trace), trace)]
    return [(rate, schedule.at_rate(trace, rate)) for rate in options.rates_per_s]


async def _run(options: LoadOptions, arrivals: Sequence[Arrival], connect: Connect) -> list[Sample]:
    # Without retries: what a server refuses is to be seen, and a retry would be load that nobody scheduled.
    async with AsyncRecommenderClient(
        options.target, timeout_s=options.timeout_s, retry=NO_RETRIES, connect=connect
    ) as client:
        await client.wait_ready(min(options.timeout_s, READY_S))  # so that no request waits for the connection
        return await run_open_loop(client.recommend, arrivals, clock=time.perf_counter)


def write_json(
    path: Path, options: LoadOptions, found: Sequence[LoadFigures], samples: Sequence[Sequence[Sample]]
) -> None:
    """The options, the figures of each rate, and what became of each request."""
    report = {
        "benchmark": "rcjax bench --target",
        "target": options.target,
        "arrivals": options.arrivals,
        "duration_s": options.duration_s,
        "slo_ms": options.slo_ms,
        "arm": options.arm,
        "seed": options.seed,
        "latency": "from when a request was due, not from when it was sent: no coordinated omission",
        "claims": [],
        "rates": [
            one.to_json() | {"samples": [_sample(sample) for sample in of_rate]}
            for one, of_rate in zip(found, samples, strict=True)
        ],
    }
    write_whole(path, json.dumps(report, indent=1) + "\n")


def _sample(sample: Sample) -> dict[str, Any]:
    return {
        "due_s": sample.due_s,
        "latency_ms": sample.latency_ms,
        "late_ms": sample.late_ms,
        "ttft_ms": sample.ttft_ms,
        "error": sample.error,
    }
