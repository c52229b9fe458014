"""`rcjax serve`: its options."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rcjax.commands.cli.options import Adapter, Config, OnError, friendly_errors, read_settings

if TYPE_CHECKING:
    from rcjax.config import Settings


@friendly_errors()
def serve(
    config: Config = None,
    adapter: Adapter = None,
    host: Annotated[str | None, typer.Option(help="Where to listen; the settings' server.host by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Recommender and Catalog; 0: a free one.")] = None,
    admin_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Info and statistics; 0 likewise.")] = None,
    snapshot: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="KV that [bold]rcjax build[/] wrote, not to compute it again.")
    ] = None,
    on_error: OnError = None,
) -> None:
    """Serve the settings' catalogue over gRPC until SIGTERM or Ctrl-C. Health says SERVING once it is ready."""
    from rcjax.serving.telemetry import console_for, logging_as

    settings = read_settings(config, adapter=adapter, on_error=on_error)
    listening_at = settings.server.changed(host=host, port=port, admin_port=admin_port)
    settings = settings.model_copy(update={"server": listening_at})
    with logging_as(settings.telemetry.log, sys.stderr):
        _serve(settings, snapshot, console_for(settings.telemetry.log))


def _serve(settings: "Settings", snapshot: Path | None, console: Console) -> None:
    from rcjax.config import read_catalogue
    from rcjax.serving.deployment import deploy, new_server
    from rcjax.serving.progress import noted
    from rcjax.serving.server import serve as serve_until_asked

    catalogue = read_catalogue(settings.catalogue, tell=noted(console))
    server = new_server(
        settings, lambda: deploy(settings, catalogue, console, snapshot=snapshot, self_test=True).router
    )
    listening = "listening on {0.main} (admin {0.admin}{1}); health says SERVING once the model is ready"
    ready = "ready: {0.model}, {0.dtype} ({0.dtype_reason}), arms {1} (default {0.default_arm})"
    asyncio.run(
        serve_until_asked(
            server,
            on_listening=lambda addresses: console.print(
                listening.format(addresses, addresses.metrics and f", metrics {addresses.metrics}"), soft_wrap=True
            ),
            on_ready=lambda info: console.print(ready.format(info, ", ".join(info.arms)), highlight=False),
        )
    )
    console.print("stopped")
