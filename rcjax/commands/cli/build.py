"""`rcjax build`: its options."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rcjax.commands.cli.options import Adapter, Config, OnError, friendly_errors, read_settings


@friendly_errors()
def build(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where to write the snapshot.")],
    config: Config = None,
    adapter: Adapter = None,
    on_error: OnError = None,
) -> None:
    """Compute the KV of the settings' items and users, and save it for [bold]rcjax serve --snapshot[/]."""
    from rcjax.serving.deployment import build_snapshot

    build_snapshot(Console(), read_settings(config, adapter=adapter, on_error=on_error), out)
