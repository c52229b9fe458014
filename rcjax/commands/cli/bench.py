"""`rcjax bench`: its options."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rcjax.commands.cli.options import Config, OnError, friendly_errors, read_settings


@friendly_errors()
def bench(
    config: Config = None,
    requests: Annotated[int, typer.Option("--requests", "-n", min=1, help="How many requests to rank.")] = 10,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write samples here.")] = None,
    target: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Load-test this server instead of comparing arms here.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="With --target: requests under way at once.")] = 1,
    arm: Annotated[str, typer.Option(help="With --target: how to rank; the server's default if not given.")] = "",
    on_error: OnError = None,
) -> None:
    """Measure: the arms side by side in this process, or, with --target, a running server under load."""
    from rcjax.commands import bench as measure
    from rcjax.config import read_catalogue
    from rcjax.disk import check_folder
    from rcjax.serving.client import RecommenderClient
    from rcjax.serving.progress import noted

    if target is None and (arm or concurrency != 1):
        raise typer.BadParameter("--arm and --concurrency go with --target")
    if json_file:
        check_folder(json_file.parent)  # before what takes long
    console = Console()
    settings = read_settings(config, on_error=on_error)
    if target is None:
        answers = measure.compare_arms(console, settings, requests)
        if json_file:
            measure.write_json(json_file, answers, claims=measure.claims(answers))
        return
    asks = measure.bench_requests(read_catalogue(settings.catalogue, tell=noted(console)), requests)
    with RecommenderClient(target) as client:
        report = measure.load_test(client, asks, arm, concurrency)
    measure.show_load(console, report)
    if json_file:
        more = {"failures": dict(report.failures), "wall_s": report.wall_s, "requests_per_s": report.requests_per_s}
        measure.write_json(json_file, {arm or "default": report.answers}, claims=[], concurrency=concurrency, **more)
