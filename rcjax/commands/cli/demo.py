"""`rcjax demo`: its options."""

from typing import Annotated

import typer
from rich.console import Console

from rcjax.commands.cli.options import Config, friendly_errors, read_settings


@friendly_errors()
def demo(
    requests: Annotated[int, typer.Option(min=1, max=60, help="How many requests to rank.")] = 5,
    config: Config = None,
) -> None:
    """See it work: build the caches of a small shop, serve them, and rank requests in every arm. About two minutes."""
    from rcjax.commands.demo import demo_settings, run_demo

    run_demo(Console(), read_settings(config) if config else demo_settings(), requests)
