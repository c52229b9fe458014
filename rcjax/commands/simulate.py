"""Simulated runs of one cluster under one or more policies, and the table of what they find."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rcjax.cluster.simulation import (
    MODELLED_8B,
    Cluster,
    CostTable,
    Link,
    Outcome,
    Reuse,
    SimulatedArm,
    Workload,
    bursty_gaps,
    capacity_per_s,
    generated,
    poisson_gaps,
    recorded,
    simulate,
)
from rcjax.config import MeshSettings, SchedulerSettings
from rcjax.disk import write_whole
from rcjax.engine.origin import Origin
from rcjax.serving.owners import Everywhere, OwnerRule, Placed
from rcjax.serving.routing import owners_of, policy_of

PolicyName = Literal["time", "affinity", "round_robin", "least_loaded", "hit_only"]
_GAPS = {"poisson": poisson_gaps, "bursty": bursty_gaps}


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """What `rcjax simulate` is asked; `policies` of None are all there are."""

    slices: int
    items: int
    requests: int
    load: float
    policies: tuple[PolicyName, ...] | None
    alpha: float
    beta: float
    placement: str
    trace: str
    arm: str
    costs: Path | None
    link_gbps: float
    replica_share: float
    locality: float
    seed: int


def run_simulate(console: Console, options: SimulateOptions, *, json_file: Path | None, plot: Path | None) -> None:
    """Runs the same requests under each policy; prints the table, writes the figures, draws the distributions."""
    if options.alpha == options.beta == 0:
        raise ValueError("--alpha and --beta are both 0, so that every slice would be as good; make one larger")
    workload = workload_of(options)
    cluster = cluster_of(options, workload)
    capacity = capacity_per_s(cluster, workload)
    outcomes = {
        name: simulate(
            cluster,
            workload,
            policy_of(SchedulerSettings(policy=name, alpha=options.alpha, beta=options.beta)),
            options.load * capacity,
        )
        for name in track(options.policies or get_args(PolicyName), "simulating", console=console, transient=True)
    }
    figures = {name: outcome.figures() for name, outcome in outcomes.items()}
    console.print(figures_table(figures, title=_title(options, workload, capacity)))
    console.print(_costs_line(cluster.costs), markup=False, highlight=False)
    if json_file is not None:
        report = {
            "options": {name: str(v) if isinstance(v, Path) else v for name, v in asdict(options).items()},
            "costs": asdict(cluster.costs),
            "capacity_per_s": capacity,
            "policies": figures,
        }
        write_whole(json_file, json.dumps(report, indent=1) + "\n")
    if plot is not None:
        draw_distributions(outcomes, plot)


def workload_of(options: SimulateOptions) -> Workload:
    if options.trace in _GAPS:
        return generated(
            options.items, options.requests, _GAPS[options.trace], locality=options.locality, seed=options.seed
        )
    return recorded(Path(options.trace), seed=options.seed, gaps=poisson_gaps)


def cluster_of(options: SimulateOptions, workload: Workload) -> Cluster:
    costs = MODELLED_8B if options.costs is None else CostTable.load(options.costs)
    owners = owners_of(MeshSettings(slices=options.slices, placement=options.placement))
    num_copies = _copies(owners.rule)
    placed_tokens = num_copies * float(workload.item_tokens.sum(dtype=np.int64)) / options.slices
    links = {Origin.SLICE: Link(options.link_gbps * 1e9 / 8)} if options.link_gbps else {}
    return Cluster(
        owners,
        costs,
        SimulatedArm(Reuse(options.arm)),
        cache_tokens=int(options.replica_share * placed_tokens),
        links=links,
    )


def _copies(rule: OwnerRule) -> float:
    """Slices that hold an item, on average."""
    if isinstance(rule, Placed):
        return len(rule.placement.slices) / len(rule.placement.item_ids)
    return float(rule.num_slices if isinstance(rule, Everywhere) else 1)


def figures_table(figures: Mapping[str, Mapping[str, Any]], *, title: str) -> Table:
    """A column for each policy."""
    table = Table(title=title, title_justify="left")
    table.add_column("policy")
    for name in figures:
        table.add_column(name, justify="right")
    runs = figures.values()
    for which, label in (("mean", "mean TTFT, ms"), ("p50", "P50"), ("p90", "P90"), ("p99", "P99")):
        table.add_row(label, *(f"{1e3 * one['ttft_s'][which]:,.0f}" for one in runs))
    table.add_row("slices busy", *(f"{one['utilisation']:.2f}" for one in runs))
    table.add_row("busiest over mean", *(f"{one['imbalance']:.2f}" for one in runs))
    for where, label in (
        ("local", "items there"),
        ("replica", "replicas"),
        ("slice", "fetched"),
        ("built", "computed"),
    ):
        table.add_row(label, *(f"{one['hits'][where]:.1%}" for one in runs))
    table.add_row("requests a pass", *(f"{one['requests_per_pass']:.2f}" for one in runs))
    return table


def draw_distributions(outcomes: Mapping[str, Outcome], path: Path) -> None:
    """The share of requests that are answered within a time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(5.5, 3.8), layout="constrained")
    for name, outcome in outcomes.items():
        ttft_ms = 1e3 * np.sort(outcome.ttft_s)
        panel.plot(ttft_ms, np.arange(1, len(ttft_ms) + 1) / len(ttft_ms), label=name)
    panel.set(xscale="log", xlabel="TTFT, ms", ylabel="share of requests", ylim=(0, 1))
    panel.grid(alpha=0.25)
    panel.legend(frameon=False)
    figure.savefig(path, dpi=144)
    plt.close(figure)


def _title(options: SimulateOptions, workload: Workload, capacity: float) -> str:
    return (
        f"{options.slices} slices, {workload.num_items:,} items by {options.placement}, {workload.num_requests:,} "
        f"requests ({options.trace}) at {options.load:g} of {capacity:,.1f} requests/s, arm {options.arm}"
    )


def _costs_line(costs: CostTable) -> str:
    if not costs.errors:
        return f"costs: {costs.source}"
    errors = (
        f"fitted to {len(costs.errors)} passes, off by {costs.mean_error:.1%} on average, {costs.max_error:.1%} at most"
    )
    return f"costs: {costs.source}; {errors}"
