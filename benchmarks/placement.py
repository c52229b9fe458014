"""Placement: how many of a request's items its best slice has, by method, bytes and locality of the requests.

    python benchmarks/placement.py --data FOLDER --json placement.json --plot placement.png

Every figure is of requests that were held out (a fifth), at the bytes of one catalogue times a factor: the methods with
a hot set replicate the most popular items on every slice until these are used up. FOLDER has items.jsonl and
interactions.jsonl, plain or gzipped; each user's items count as one request, and figures are means over random splits
of the users. Without it there are the generated requests alone. `bounded` is the share where no slice answers more than
1.2 times the mean. `--parts scale` places a million items by ten million references, in a process of its own.
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from claims import Claim, show_claims, write_report
from placement_plot import draw
from placement_traces import Trace, beauty, large, local, three_categories
from rich.console import Console
from rich.table import Table

from rcjax.cache.placement import HotSet, PlacementInput, PlacementMethod, evaluate
from rcjax.cache.placement.method import silent
from rcjax.commands.place import method_of

NUM_SLICES, NUM_LOCAL_SLICES = 40, 100
FACTORS = {"beauty": (1.04, 1.25, 2.0, 3.0), "generated": (1.1, 1.4, 2.0, 3.0), "local": (1.25,)}
CLAIMED = {"beauty": (1.25, 2.0, 3.0), "generated": (1.4, 3.0)}
LOCALITIES = (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)
PAPER_LOCALITY = 0.9
METHODS = ("hash", "streaming", "metis", "overlap")  # hypergraph takes a hundred times as long
PARTS = ("beauty", "generated", "local", "scale")
MAX_SCALE_S, MAX_SCALE_GIB = 600, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with items.jsonl and interactions.jsonl, or .gz of them")
    parser.add_argument("--json", type=Path, help="write figures and claims here")
    parser.add_argument("--plot", type=Path, help="draw hit share over bytes and locality here, as PNG")
    parser.add_argument("--parts", default="beauty,generated,local", help="some of " + ", ".join(PARTS))
    parser.add_argument("--methods", default=",".join(METHODS), help="some of " + ", ".join(METHODS) + ", hypergraph")
    parser.add_argument("--splits", type=int, default=5, help="of the data set's users")
    parser.add_argument("--requests", type=int, default=40_000, help="of each generated trace")
    parser.add_argument("--items", type=int, default=1_000_000, help="of scale; ten references for each of them")
    parser.add_argument("--scale-method", help=argparse.SUPPRESS)  # the process of `scale`
    args = parser.parse_args()
    if args.scale_method:
        print(json.dumps(place_large(args.scale_method, args.items)))
        return
    parts, methods = args.parts.split(","), _installed(args.methods.split(","))
    rows: list[dict[str, Any]] = []
    report: dict[str, Any] = {"benchmark": "placement", "num_slices": NUM_SLICES, "methods": methods, "rows": rows}
    if "beauty" in parts and args.data:
        rows += of_beauty(beauty(args.data, args.splits), methods)
    elif "beauty" in parts:
        print("beauty: left out, as --data names no folder")
    if "generated" in parts:
        for related in (False, True):
            rows += measure(three_categories(5_000, args.requests, related=related), methods, FACTORS["generated"])
    if "local" in parts:
        rows += of_local(args.requests, methods)
    if "scale" in parts:
        report["scale"] = [measure_scale(name, args.items) for name in methods if name in ("metis", "overlap")]
    claims = claims_of(report)
    show(Console(width=150), report)
    show_claims(claims)
    if args.json:
        write_report(args.json, report, claims)
    if args.plot:
        draw(rows, args.plot)


def _installed(methods: list[str]) -> list[str]:
    if "hypergraph" in methods and importlib.util.find_spec("mtkahypar") is None:
        print("hypergraph: left out, as mtkahypar is not installed")
        return [name for name in methods if name != "hypergraph"]
    return methods


def of_beauty(splits: Sequence[Trace], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Means over the splits, with titles and without; the share's values of each split are kept."""
    found = []
    for trace in (splits, [replace(split, name="beauty, no text", similarity=None) for split in splits]):
        runs = [measure(split, methods, FACTORS["beauty"]) for split in trace]
        for same in zip(*runs, strict=True):
            means = {key: float(np.mean([row[key] for row in same])) for key in same[0] if key not in TEXT_KEYS}
            values = {"hit_shares": [row["hit_share"] for row in same]}
            found.append({key: same[0][key] for key in TEXT_KEYS} | means | values)
    return found


def of_local(num_requests: int, methods: Sequence[str]) -> list[dict[str, Any]]:
    fast = [name for name in methods if name != "hypergraph"]
    rows = []
    for locality in LOCALITIES:
        for row in measure(local(20_000, num_requests, locality), fast, FACTORS["local"], NUM_LOCAL_SLICES):
            rows.append(row | {"locality": locality, "kind": "groups"})
    trace = local(20_000, num_requests, PAPER_LOCALITY, overlapping=True)
    for row in measure(trace, fast, (*FACTORS["local"], 2.0, 3.0), NUM_LOCAL_SLICES):
        rows.append(row | {"locality": PAPER_LOCALITY, "kind": "overlapping"})
    return rows


TEXT_KEYS = ("trace", "shape", "method")


def measure(
    trace: Trace, methods: Sequence[str], factors: Sequence[float], num_slices: int = NUM_SLICES
) -> list[dict[str, Any]]:
    print(trace.described(), f"on {num_slices} slices", flush=True)
    given = PlacementInput(trace.item_ids, trace.item_bytes, trace.learnt, num_slices, trace.similarity)
    rows = []
    for factor in factors:
        for name in methods:
            start_s, start_cpu_s = time.perf_counter(), time.process_time()
            placement = method(name, factor).place(given, silent)
            times = {"wall_s": time.perf_counter() - start_s, "cpu_s": time.process_time() - start_cpu_s}
            reached = evaluate(placement, trace.held, trace.item_bytes)
            on_log = evaluate(placement, trace.learnt, trace.item_bytes)
            of_log = {"log_hit_share": on_log.hit_share, "log_load_imbalance": on_log.load_imbalance}
            of_run = {"trace": trace.name, "shape": trace.described(), "method": name, "factor": factor}
            rows.append(of_run | asdict(reached) | of_log | times)
    return rows


def method(name: str, factor: float) -> PlacementMethod:
    return method_of(name, HotSet(budget_factor=factor))


def measure_scale(name: str, num_items: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--scale-method", name, "--items", str(num_items)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def place_large(name: str, num_items: int) -> dict[str, Any]:
    trace = large(num_items, num_items // 2 * 5 // 4)  # a fifth is held out
    given = PlacementInput(trace.item_ids, trace.item_bytes, trace.learnt, NUM_SLICES)
    steps: list[tuple[str, float]] = []
    start_s, start_cpu_s = time.perf_counter(), time.process_time()
    placement = method(name, 2.0).place(given, lambda step, share: steps.append((step, time.perf_counter() - start_s)))
    times = {"wall_s": time.perf_counter() - start_s, "cpu_s": time.process_time() - start_cpu_s}
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    reached = evaluate(placement, trace.held[:50_000], trace.item_bytes)
    of_run = {"method": name, "num_items": num_items, "num_references": int(trace.learnt.nnz), "peak_rss_gib": peak_gib}
    return of_run | times | asdict(reached) | {"steps": [step for step in steps if not step[0].startswith("streaming")]}


def claims_of(report: dict[str, Any]) -> list[Claim]:
    rows = {(row["trace"], row["method"], row["factor"]): row for row in report["rows"] if row.get("kind") is None}
    claims = []
    for trace in dict.fromkeys(key[0] for key in rows):
        of_beauty = trace == "beauty"
        if trace == "beauty, no text" or not {"metis", "overlap"} <= set(report["methods"]):
            continue
        least = 4.0 if of_beauty else -1.0
        for factor in CLAIMED["beauty" if of_beauty else "generated"]:
            ours, theirs = rows[trace, "overlap", factor], rows[trace, "metis", factor]
            for key, what in (("hit_share", "best slice"), ("bounded_hit_share", "load imbalance held to 1.2")):
                name = f"{trace}, {factor:g}x, {what}: overlap less metis, points"
                claims.append(Claim(name, 100 * (ours[key] - theirs[key]), least))
            name = f"{trace}, {factor:g}x: overlap's load imbalance at best slices, held out"
            claims.append(Claim(name, ours["load_imbalance"], 1.2, at_least=False))
    for row in report["rows"]:
        if row.get("locality") == PAPER_LOCALITY and row["method"] == "overlap" and row["factor"] == 1.25:
            claims.append(
                Claim(f"{row['trace']}, 100 slices, 1.25x: overlap's hit share, %", 100 * row["hit_share"], 75)
            )
    for row in report.get("scale", []):
        name = f"{row['method']}: {row['num_items']:,} items, {row['num_references']:,} references"
        claims.append(Claim(f"{name}, s", row["wall_s"], MAX_SCALE_S, at_least=False))
        claims.append(Claim(f"{name}, peak GiB", row["peak_rss_gib"], MAX_SCALE_GIB, at_least=False))
    return claims


def show(console: Console, report: dict[str, Any]) -> None:
    table = Table(title="held-out requests", title_justify="left")
    for heading in ("trace", "bytes", "method"):
        table.add_column(heading)
    for heading in ("hit share", "bounded", "touched", "load", "log load", "memory", "CPU s"):
        table.add_column(heading, justify="right")
    for row in report["rows"]:
        table.add_row(
            row["trace"],
            f"{row['factor']:g}x",
            row["method"],
            *(f"{row[key]:.3f}" for key in ("hit_share", "bounded_hit_share")),
            *(f"{row[key]:.2f}" for key in ("slices_touched", "load_imbalance", "log_load_imbalance")),
            f"{row['memory_imbalance']:.3f}",
            f"{row['cpu_s']:.1f}",
        )
    console.print(table)
    for row in report.get("scale", []):
        console.print({key: value for key, value in row.items() if key != "steps"})


if __name__ == "__main__":
    main()
