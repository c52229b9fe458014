"""`rcjax place`: its options."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from rcjax.commands.cli.options import Config, OnError, friendly_errors, read_settings


@friendly_errors()
def place(
    log: Annotated[
        Path, typer.Option(metavar="FILE", help="Requests, oldest first; each line has `candidates`, a list of ids.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.json", help="Where to write the placement.")],
    slices: Annotated[int, typer.Option(min=1, help="How many slices there are.")],
    method: Annotated[
        Literal["hash", "metis", "hypergraph", "streaming", "overlap"], typer.Option(help="How to place.")
    ] = "overlap",
    budget: Annotated[
        float | None, typer.Option(min=1.0, help="Bytes of all slices over the catalogue's; 2.0 if nothing is given.")
    ] = None,
    hot_count: Annotated[
        int | None, typer.Option(min=0, help="Instead of --budget: so many items on every slice.")
    ] = None,
    hot_share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Or those items that have this share of all references.")
    ] = None,
    held_out: Annotated[
        float,
        typer.Option(min=0.0, max=0.9, help="Last part of the log, on which a second placement is tested."),
    ] = 0.2,
    unknown: Annotated[
        Literal["refuse", "skip"], typer.Option(help="What an id in the log does that the catalogue lacks.")
    ] = "refuse",
    config: Config = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same placement.")] = 0,
    on_error: OnError = None,
) -> None:
    """Compute from logged requests which slices each item's block stands on. Prints what it reaches."""
    from rcjax.cache.placement import HotSet
    from rcjax.commands.place import method_of, run_place
    from rcjax.disk import check_folder

    if sum(limit is not None for limit in (budget, hot_count, hot_share)) > 1:
        raise typer.BadParameter("give one of --budget, --hot-count and --hot-share")
    if method == "overlap" and (hot_count is not None or hot_share is not None):
        raise typer.BadParameter("--hot-count and --hot-share are for the methods with a hot set; overlap has none")
    if budget is None and hot_count is None and hot_share is None:
        budget = 2.0
    check_folder(out.parent)  # before what takes long
    chosen = method_of(method, HotSet(hot_count, hot_share, budget))
    settings = read_settings(config, on_error=on_error)
    run_place(
        Console(), settings, chosen, log_file=log, out=out, slices=slices, held_out=held_out, unknown=unknown, seed=seed
    )
