"""`rcjax serve`: its options."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rcjax.commands.cli.options import Adapter, Config, OnError, friendly_errors, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from rcjax.config import Settings
    from rcjax.request import EngineInfo, RecommendRequest
    from rcjax.serving.local import LocalEngine
    from rcjax.serving.server import Addresses
    from rcjax.serving.starting import OwnedEngine

logger = logging.getLogger(__name__)


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
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|local:N", help="Hosts by Ray: the address of its head, or N on this machine."),
    ] = None,
) -> None:
    """Serve the settings' catalogue over gRPC until SIGTERM or Ctrl-C. Health says SERVING once it is ready."""
    from rcjax.serving.telemetry import console_for, logging_as

    settings = read_settings(config, adapter=adapter, on_error=on_error)
    listening_at = settings.server.changed(host=host, port=port, admin_port=admin_port)
    settings = settings.model_copy(update={"server": listening_at})
    with logging_as(settings.telemetry.log, sys.stderr):
        console = console_for(settings.telemetry.log)
        if cluster is None:
            _serve(settings, snapshot, config, console)
            return
        from rcjax.cluster.ray.runtime import cluster_start

        if snapshot is not None:
            raise ValueError("--snapshot is for one host; a cluster computes its KV, and has its library on every host")
        with cluster_start(cluster, settings) as start:
            _serve(settings, None, config, console, start)


def _serve(
    settings: "Settings",
    snapshot: Path | None,
    config: Path | None,
    console: Console,
    start: "Callable[[Callable[[str], None]], LocalEngine] | None" = None,
) -> None:
    from rcjax.commands.example_call import example_lines, example_request
    from rcjax.config import read_catalogue
    from rcjax.serving.deployment import deploy, new_server
    from rcjax.serving.fidelity_note import fidelity_note
    from rcjax.serving.progress import noted
    from rcjax.serving.server import serve as serve_until_asked

    catalogue = read_catalogue(settings.catalogue, tell=noted(console))
    main_address = ""
    example: RecommendRequest | None = None

    def factory() -> "OwnedEngine":
        nonlocal example
        engine = deploy(settings, catalogue, console, snapshot=snapshot, self_test=True, start=start)
        if (note := fidelity_note(settings)) is not None:
            logger.warning(note)
        if settings.telemetry.log == "rich":  # users' ids belong into no log
            items, users = engine.known()
            example = example_request(catalogue, items, users, settings.limits.max_candidates)
        return engine.router

    def on_listening(addresses: "Addresses") -> None:
        nonlocal main_address
        main_address = addresses.main
        metrics = addresses.metrics and f", metrics {addresses.metrics}"
        listening = f"listening on {addresses.main} (admin {addresses.admin}{metrics})"
        console.print(f"{listening}; health says SERVING once the model is ready", soft_wrap=True)

    def on_ready(info: "EngineInfo") -> None:
        arms = f"arms {', '.join(info.arms)} (default {info.default_arm})"
        console.print(f"ready: {info.model}, {info.dtype} ({info.dtype_reason}), {arms}", highlight=False)
        if example is not None:
            lines = example_lines(example, main_address, settings.server, config)
            console.print("\n  ".join(["to call it:", *lines]), markup=False, highlight=False, soft_wrap=True)

    asyncio.run(serve_until_asked(new_server(settings, factory), on_listening=on_listening, on_ready=on_ready))
    console.print("stopped")
