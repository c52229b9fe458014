"""`rcjax simulate`: its options."""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from rcjax.commands.cli.options import friendly_errors

Items = Annotated[int, typer.Option(min=50, max=10_000_000, help="Of the catalogue, unless a log names them.")]
Requests = Annotated[int, typer.Option("--requests", "-n", min=100, help="How many come, unless a log has them.")]
PolicyName = Annotated[
    Literal["time", "affinity", "round_robin", "least_loaded", "hit_only", "all"],
    typer.Option(help="How slices are chosen; all: each of them, with the same requests."),
]
PlacementName = Annotated[
    str,
    typer.Option(metavar="hash|all|FILE", help="Where items stand: by hash, everywhere, or as rcjax place wrote."),
]
TraceName = Annotated[
    str,
    typer.Option(metavar="poisson|bursty|FILE", help="How requests come; a log has `candidates`, and may have `at_s`."),
]


@friendly_errors()
def simulate(
    slices: Annotated[int, typer.Option(min=1, max=1000, help="How many slices there are.")] = 40,
    items: Items = 20_000,
    requests: Requests = 10_000,
    load: Annotated[float, typer.Option(min=0.01, max=2.0, help="Requests over what the slices can answer.")] = 0.7,
    policy: PolicyName = "time",
    alpha: Annotated[float, typer.Option(min=0.0, help="Of affinity: the weight of hits.")] = 1.0,
    beta: Annotated[float, typer.Option(min=0.0, help="Of affinity: the weight of short queues.")] = 1.0,
    placement: PlacementName = "hash",
    trace: TraceName = "poisson",
    arm: Annotated[
        Literal["parallel", "rcjax", "prefix", "full"], typer.Option(help="How requests are ranked.")
    ] = "rcjax",
    costs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Passes that were timed. Without it: a model of an 8B on A100s.")
    ] = None,
    link_gbps: Annotated[float, typer.Option(min=0.0, help="Gbit/s from slice to slice; 0 for none.")] = 100.0,
    replica_share: Annotated[
        float, typer.Option(min=0.0, max=10.0, help="A slice's room for what others hold, over what is placed on it.")
    ] = 0.1,
    locality: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of candidates that one neighbourhood of 50 items gives.")
    ] = 0.9,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same figures.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the figures here.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw how TTFT is distributed.")] = None,
) -> None:
    """Simulate a cluster that serves requests, with the scheduler and placement that serve them for real."""
    from rcjax.disk import check_folder

    needed = {"simpy": "simulate"} | ({"matplotlib": "plot"} if plot else {})
    for module, extra in needed.items():
        if find_spec(module) is None:
            raise ValueError(f"this needs {module}; install rcjax[{extra}]")
    from rcjax.commands.simulate import SimulateOptions, run_simulate

    for path in (json_file, plot):
        if path is not None:
            check_folder(path.parent)  # before what takes long
    options = SimulateOptions(
        slices=slices,
        items=items,
        requests=requests,
        load=load,
        policies=None if policy == "all" else (policy,),
        alpha=alpha,
        beta=beta,
        placement=placement,
        trace=trace,
        arm=arm,
        costs=costs,
        link_gbps=link_gbps,
        replica_share=replica_share,
        locality=locality,
        seed=seed,
    )
    run_simulate(Console(), options, json_file=json_file, plot=plot)
