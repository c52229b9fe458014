"""Where the milliseconds of a request go: linear layers, attention, host, each beside what the machine allows.

    python benchmarks/profile_pass.py --json profile.json      # --dtype, --requests, --rounds, --markdown

Requests of benchmarks/ttft.py in one engine, all blocks in cache: each arm one at a time and `parallel` in batches too,
in turn. The pass is timed as it is served. Linear layers are the same pass with an attention that attends to nothing;
attention is the rest, of which `view` is worked out once a pass and not in every layer. A limit is the larger of bytes
over memory bandwidth and FLOPs over the matmul rate of the same run; padding, and what lies between two products, has
none. The host's time is a request's: all that is not its pass; in a batch without the queue.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import ttft
from claims import write_report
from profiler import TIMES, TOKENS, Profiler, Sample
from rich.console import Console
from rich.progress import track
from rich.table import Table
from roofline import Peaks, Work

from rcjax.config import Settings, ShapeSettings
from rcjax.model.spec import load_model
from rcjax.request import RecommendRequest
from rcjax.serving.local import LocalEngine
from rcjax.serving.startup import start_engine

ARMS = ("full", "prefix", "rcjax", "parallel")
INSTRUCTION_PAGES = 16  # of the shapes for an arm that is not profiled
BATCHES = (2, 4, 8)  # of `parallel`, beside 1
CELLS = (*((arm, 1) for arm in ARMS), *(("parallel", batch) for batch in BATCHES))
HEADER = (
    *("arm", "batch", "tokens", "pass", "linear", "limit", "reached"),
    *("attention", "view", "limit", "reached", "host"),
)
TABLE_WIDTH = 124  # of characters, at least: so many figures do not fit 80


def settings(dtype: str) -> Settings:
    wanted = ttft.settings()
    alone = [shape for shape in wanted.shapes.rank if shape.num_pages != INSTRUCTION_PAGES]
    batched = [shape.model_copy(update={"batch": batch}) for shape in alone if shape.tiles for batch in BATCHES]
    shapes = ShapeSettings(rank=(*alone, *batched), build=wanted.shapes.build)
    arms = {arm: wanted.arms[arm] for arm in ARMS}
    return wanted.model_copy(update={"dtype": dtype, "arms": arms, "shapes": shapes})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write samples and limits here")
    parser.add_argument("--markdown", action="store_true", help="print the table as docs/performance.md has it, too")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with Console().status("starting") as status:
        wanted = settings(args.dtype)
        model = load_model(wanted.model, dtype=jnp.dtype(args.dtype))
        engine = start_engine(wanted, model=model, progress=status.update)
    with engine:
        profiler = Profiler(engine, wanted, model)
        asks = fill(engine, profiler, args.requests, args.seed)
        samples, peaks = run(profiler, asks, args.requests, args.rounds)
        report = summarise(samples, peaks, args.dtype) | {"model": engine.info().model}
    show(report)
    if args.markdown:
        print_markdown(report)
    if args.json:
        write_report(args.json, report, [])


def fill(engine: LocalEngine, profiler: Profiler, num_requests: int, seed: int) -> list[RecommendRequest]:
    """As many requests as are asked for, and no fewer than the largest batch takes."""
    num_wanted = max(num_requests, *BATCHES)
    found = ttft.fill(engine, num_wanted + BATCHES[0], seed)  # a request in fifty has too many pages for tiles
    asks = [RecommendRequest(one.candidates, one.user_id, arm="parallel") for one in found]
    usable = [ask for ask in asks if profiler.fits_batches(ask)][:num_wanted]
    if len(usable) < num_wanted:
        raise RuntimeError(f"only {len(usable)} of {num_wanted} requests fit the shapes with tiles")
    return usable


def run(
    profiler: Profiler, asks: Sequence[RecommendRequest], num_requests: int, num_rounds: int
) -> tuple[dict[tuple[str, int], list[Sample]], Peaks]:
    """Samples of each cell for each request and those after it, cells in turn, the machine's peaks between rounds."""
    samples: dict[tuple[str, int], list[Sample]] = {cell: [] for cell in CELLS}
    for cell in CELLS:
        profiler.sample(of_cell(asks, cell, 0))  # warm-up
    peaks = Peaks.measured()
    for _ in range(num_rounds):
        for number in track(range(num_requests), "requests"):
            for cell in in_turn(number):
                samples[cell].append(profiler.sample(of_cell(asks, cell, number)))
        peaks = peaks.best(Peaks.measured())
    return samples, peaks


def in_turn(number: int) -> Iterator[tuple[str, int]]:
    return (CELLS[(number + at) % len(CELLS)] for at in range(len(CELLS)))


def of_cell(asks: Sequence[RecommendRequest], cell: tuple[str, int], number: int) -> list[RecommendRequest]:
    arm, batch = cell
    some = [asks[(number + at) % len(asks)] for at in range(batch)]
    return [RecommendRequest(one.candidates, one.user_id, arm=arm) for one in some]


def summarise(samples: dict[tuple[str, int], list[Sample]], peaks: Peaks, dtype: str) -> dict[str, Any]:
    cells = [{"arm": arm, "batch": batch} | of_samples(some, peaks, dtype) for (arm, batch), some in samples.items()]
    return {"benchmark": "profile_pass", "dtype": dtype, "peaks": asdict(peaks), "cells": cells}


def of_samples(samples: list[Sample], peaks: Peaks, dtype: str) -> dict[str, Any]:
    found: dict[str, Any] = {"n": len(samples), "shapes": sorted({one["shape"] for one in samples})}
    found["tokens"] = {kind: float(np.mean([one["tokens"][kind] for one in samples])) for kind in TOKENS}
    for name in TIMES:
        values = [one[name] for one in samples]
        found[name] = {"p50": float(np.median(values)), "min": min(values), "max": max(values), "samples": values}
    for part in ("linear", "attention"):
        works: list[Work] = [one[part] for one in samples]
        work = Work(*(float(np.mean([getattr(one, name) for one in works])) for name in ("flops", "num_bytes")))
        limit_ms = work.limit_ms(peaks, dtype)
        found[part] = asdict(work) | {
            "limit_ms": limit_ms,
            "limited_by": work.limited_by(peaks, dtype),
            "reached": limit_ms / found[f"{part}_ms"]["p50"],
        }
    return found


def table_rows(report: dict[str, Any]) -> Iterator[list[str]]:
    for cell in report["cells"]:
        pass_ms, linear_ms, attention_ms, view_ms, host_ms = (rounded(cell[name]["p50"]) for name in TIMES)
        linear, attention = (
            [f"{rounded(cell[part]['limit_ms'])} {cell[part]['limited_by']}", f"{cell[part]['reached']:.2f}"]
            for part in ("linear", "attention")
        )
        num_computed = cell["batch"] * (cell["tokens"]["fresh"] + cell["tokens"]["selected"])
        row = [f"`{cell['arm']}`", str(cell["batch"]), f"{num_computed:,.0f}", pass_ms, linear_ms, *linear]
        yield [*row, attention_ms, view_ms, *attention, host_ms]


def rounded(milliseconds: float) -> str:
    return f"{milliseconds:,.0f}" if milliseconds >= 100 else f"{milliseconds:.1f}"


def show(report: dict[str, Any]) -> None:
    table = Table(title=f"P50 in ms, {report['model']} {report['dtype']}, n={report['cells'][0]['n']}")
    for column in HEADER:
        table.add_column(column, justify="left" if column == "arm" else "right")
    for row in table_rows(report):
        table.add_row(*(text.strip("`") for text in row))
    Console(width=max(Console().width, TABLE_WIDTH)).print(table)
    print(rates(report))


def rates(report: dict[str, Any]) -> str:
    peaks = report["peaks"]
    flops = ", ".join(f"{dtype} {peaks[dtype] / 1e9:.0f} GFLOP/s" for dtype in ("float32", "bfloat16"))
    return f"memory {peaks['bytes_per_s'] / 1e9:.1f} GB/s; matmul {flops}"


def print_markdown(report: dict[str, Any]) -> None:
    for row in (HEADER, ["---"] * len(HEADER), *table_rows(report)):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
