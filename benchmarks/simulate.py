"""Policies, arms, sizes and budgets of a simulated cluster: the paper's studies, with our scheduler and placement.

    python benchmarks/simulate.py --json simulate.json --plot simulate.png
    python benchmarks/simulate.py --validate validate.json      # against a real engine on 1, 2 and 4 fake devices

Passes take what a model of an 8B model on A100s says; none was timed. `policies`: each policy on the same requests,
for each load and seed; capacity is what slices could answer that never wait, each request where most of its items are
placed. What misses is computed, as in the paper; `linked` is the same with exact KV (`parallel`) and 100 Gbit/s between
slices. `greedy` is `time` with misses that count once, a policy of this benchmark alone (docs/simulation.md).
"""

import argparse
import multiprocessing
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import simulate_plot
from claims import Claim, show_claims, write_report
from rich.progress import track
from simulate_claims import policy_claims, ratios
from simulate_runs import Run, Setting, capacity_of, figures_of

from rcjax.cluster.simulation import (
    MODELLED_8B,
    Cluster,
    Link,
    Reuse,
    SimulatedArm,
    capacity_per_s,
    generated,
    poisson_gaps,
    simulate,
)
from rcjax.engine.origin import Origin
from rcjax.serving.owners import Hashed, ItemOwners
from rcjax.serving.scheduler import Time

LOADS = (0.1, 0.3, 0.5, 0.7, 0.85, 0.95)
ALPHAS = (0.5, 1.0, 1.5, 2.0, 4.0)
POLICIES = ("time", "greedy", "round_robin", "least_loaded", "hit_only")
BUDGETS = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
SIZES = (10, 20, 40, 100)
PARTS = ("policies", "linked", "arms", "scale", "budget")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, default=40)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=150, help="of each slice")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--large", action="store_true", help="also 1,000 slices and 10 million items, once")
    parser.add_argument("--json", type=Path, default=Path("simulate.json"))
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--validate", type=Path, metavar="JSON", help="only compare with a real engine")
    parser.add_argument("--computed", action="store_true", help="with --validate: passes that the cores compute")
    args = parser.parse_args()
    if args.validate:
        from simulate_validate import validate  # it starts engines, which the rest does without

        validate(args.validate, args.computed)
        return
    if unknown := set(args.parts.split(",")) - set(PARTS):
        parser.error(f"--parts: {', '.join(sorted(unknown))}: not of {', '.join(PARTS)}")
    setting = Setting(args.slices, args.items, args.requests * args.slices)
    report: dict[str, Any] = {"benchmark": "simulate", "setting": asdict(setting), "seeds": args.seeds}
    claims: list[Claim] = []
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool:
        for part in args.parts.split(","):
            if part == "policies":
                claims += study_policies(pool, setting, args.seeds, report, part)
            elif part == "linked":
                linked = replace(setting, reuse="parallel", link_gbps=100.0)
                claims += study_policies(pool, linked, args.seeds, report, part)
            else:
                report[part] = {"arms": study_arms, "scale": study_scale, "budget": study_budget}[part](pool, setting)
            write_report(args.json, report, claims)  # after each, as all of them take long
    if args.large:
        report["large"] = study_large()
        write_report(args.json, report, claims)
    show_claims(claims)
    if args.plot:
        simulate_plot.draw(report, args.plot)


def study_policies(
    pool: ProcessPoolExecutor, setting: Setting, num_seeds: int, report: dict[str, Any], name: str
) -> list[Claim]:
    """Fig. 10: each policy over load. Returns the claims of `time`."""
    names = {policy: (policy, 1.0) for policy in POLICIES}
    names |= {f"affinity {alpha:g}:1": ("affinity", alpha) for alpha in ALPHAS}
    keys = [(load, name, seed) for seed in range(num_seeds) for load in LOADS for name in names]
    runs = [Run(setting, *names[name][:1], seed, load, alpha=names[name][1]) for load, name, seed in keys]
    found = run_all(pool, runs, name)
    cells: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for (load, policy, _), figures in zip(keys, found, strict=True):
        cells.setdefault((load, policy), []).append(figures)
    show_cells(name, setting, cells)
    report[name] = {
        "setting": asdict(setting),
        "capacity_per_s": capacity_of(setting),
        "cells": [{"load": load, "policy": policy, "runs": short(some)} for (load, policy), some in cells.items()],
        "ratios": [row | {"ratio": asdict(row["ratio"])} for row in ratios(cells, "time")],
    }
    return policy_claims(cells, "time", f"{name}: time")


def study_arms(pool: ProcessPoolExecutor, setting: Setting) -> list[dict[str, Any]]:
    """Fig. 6: TTFT of the arms at one rate, half of what full recompute can take."""
    rate = 0.5 * capacity_of(replace(setting, reuse="full"))
    arms = [("full", "least_loaded"), ("prefix", "least_loaded"), ("rcjax", "time"), ("parallel", "time")]
    runs = [Run(replace(setting, reuse=arm), policy, 0, rate_per_s=rate) for arm, policy in arms]
    found = run_all(pool, runs, "arms")
    return [{"arm": arm, "policy": policy} | one for (arm, policy), one in zip(arms, found, strict=True)]


def study_scale(pool: ProcessPoolExecutor, setting: Setting) -> list[dict[str, Any]]:
    """Fig. 8 and 9: more slices and as much more traffic, over one catalogue; prefix caching at the same rate."""
    each = setting.num_requests // setting.num_slices
    rows, runs = [], []
    for num_slices in SIZES:
        sized = replace(setting, num_slices=num_slices, num_requests=each * num_slices)
        rate = 0.7 * capacity_of(replace(sized, reuse="prefix"))
        for arm, policy in (("prefix", "least_loaded"), ("rcjax", "time")):
            rows.append({"num_slices": num_slices, "arm": arm, "policy": policy})
            runs.append(Run(replace(sized, reuse=arm), policy, 0, rate_per_s=rate))
    return [row | one for row, one in zip(rows, short(run_all(pool, runs, "scale")), strict=True)]


def study_budget(pool: ProcessPoolExecutor, setting: Setting) -> list[dict[str, Any]]:
    """Fig. 11: the share of cached tokens that is computed anew, at half of what a share of 0.3 can take."""
    rate = 0.5 * capacity_of(setting)
    runs = [
        Run(replace(setting, recomputed=share), "time", seed, rate_per_s=rate) for share in BUDGETS for seed in (0, 1)
    ]
    found = short(run_all(pool, runs, "budget"))
    return [{"recomputed": run.setting.recomputed} | one for run, one in zip(runs, found, strict=True)]


def study_large() -> dict[str, Any]:
    """A thousand slices and ten million items by hash: what the simulator itself takes."""
    start_s = time.process_time()
    workload = generated(10_000_000, 20_000, poisson_gaps)
    made_s = time.process_time() - start_s
    links = {Origin.SLICE: Link(12.5e9)}
    arm = SimulatedArm(Reuse.PARALLEL)
    cluster = Cluster(ItemOwners(Hashed(1000)), MODELLED_8B, arm, cache_tokens=100_000, links=links)
    outcome = simulate(cluster, workload, Time(), 0.7 * capacity_per_s(cluster, workload))
    used = {
        "workload_cpu_s": made_s,
        "simulation_cpu_s": time.process_time() - start_s - made_s,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    print(f"1,000 slices, 10 million items, {workload.num_requests:,} requests: {used}")
    return used | outcome.figures()


def run_all(pool: ProcessPoolExecutor, runs: Sequence[Run], name: str) -> list[dict[str, Any]]:
    return list(track(pool.map(figures_of, runs, chunksize=1), name, total=len(runs)))


def short(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without distributions."""
    return [{key: value for key, value in one.items() if key != "ttft_quantiles_s"} for one in found]


def show_cells(name: str, setting: Setting, cells: dict[tuple[float, str], list[dict[str, Any]]]) -> None:
    print(f"{name}: {setting}, capacity {capacity_of(setting):.1f} requests/s; means over seeds, ms")
    for (load, policy), found in cells.items():
        mean, p99 = (1e3 * sum(one["ttft_s"][which] for one in found) / len(found) for which in ("mean", "p99"))
        local = sum(one["hits"]["local"] for one in found) / len(found)
        busy = sum(one["utilisation"] for one in found) / len(found)
        print(f"  {load:4.0%} {policy:14s} mean {mean:9,.1f}  P99 {p99:9,.1f}  local {local:.3f}  busy {busy:.2f}")


if __name__ == "__main__":
    main()
