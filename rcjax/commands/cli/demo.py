"""`rcjax demo`: its options."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rcjax.commands.cli.options import Adapter, Config, friendly_errors, read_settings


@friendly_errors()
def demo(
    requests: Annotated[int, typer.Option(min=1, max=60, help="How many requests to show, in every arm.")] = 3,
    html: Annotated[Path | None, typer.Option(metavar="FILE.html", help="Write a page of what is found.")] = None,
    config: Config = None,
    adapter: Adapter = None,
) -> None:
    """See it work: build the caches of a small shop, serve them, rank requests in every arm, and measure how well that
    ranks. Under three minutes.

    With settings of a mesh of several slices it shows which of them answers, and what each has.
    """
    from rcjax.commands.demo.run import demo_settings, run_demo
    from rcjax.commands.mesh_demo import run_mesh_demo

    settings = (read_settings(config) if config else demo_settings()).with_weights(None, adapter)
    if settings.mesh.slices == 1:
        run_demo(Console(), settings, requests, html=html)
        return
    if html is not None:
        raise typer.BadParameter("--html goes with a mesh of one slice")
    run_mesh_demo(Console(), settings, requests)
