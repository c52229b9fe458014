"""`rcjax build`: its options."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rcjax.commands.cli.options import Config, friendly_errors


@friendly_errors()
def build(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where to write the snapshot.")],
    config: Config = None,
) -> None:
    """Compute the KV of the settings' items and users, and save it for [bold]rcjax serve --snapshot[/]."""
    from rcjax.config import load_settings
    from rcjax.serving.deployment import build_snapshot

    build_snapshot(Console(), load_settings(config), out)
