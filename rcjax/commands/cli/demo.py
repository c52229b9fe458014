"""`rcjax demo`: its options."""

from typing import Annotated

import typer
from rich.console import Console

from rcjax.commands.cli.options import Adapter, Config, friendly_errors, read_settings, with_adapter


@friendly_errors()
def demo(
    requests: Annotated[int, typer.Option(min=1, max=60, help="How many requests to rank.")] = 5,
    config: Config = None,
    adapter: Adapter = None,
) -> None:
    """See it work: build the caches of a small shop, serve them, and rank requests in every arm. About two minutes.

    With settings of a mesh of several slices it shows which of them answers, and what each has.
    """
    from rcjax.commands.demo import demo_settings, run_demo
    from rcjax.commands.mesh_demo import run_mesh_demo

    settings = with_adapter(read_settings(config) if config else demo_settings(), adapter)
    run = run_demo if settings.mesh.slices == 1 else run_mesh_demo
    run(Console(), settings, requests)
