"""`rcjax plan`: its options."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rcjax.commands.cli.options import Config, friendly_errors, read_settings


@friendly_errors()
def plan(
    config: Config = None,
    model: Annotated[
        str | None, typer.Option(help="A checkpoint, or a folder with its config.json; the settings' by default.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="h100, h200, a100-40, a100-80, v5e, v5p, v6e, or cpu: this machine.")
    ] = "cpu",
    device_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory of a device, such as 80GiB, instead of the table's.")
    ] = None,
    memory_fraction: Annotated[
        float | None,
        typer.Option(min=0.05, max=1.0, help="XLA_PYTHON_CLIENT_MEM_FRACTION of the server; 0.75 on GPUs by default."),
    ] = None,
    item_tokens: Annotated[float | None, typer.Option(min=1, help="Mean tokens of an item's text.")] = None,
    history_tokens: Annotated[float | None, typer.Option(min=1, help="Mean tokens of a user's history.")] = None,
    items: Annotated[int | None, typer.Option(min=0, help="Items of the catalogue; as many as fit by default.")] = None,
    users: Annotated[int | None, typer.Option(min=0, help="Users with a history; none by default.")] = None,
    costs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Timed passes (docs/simulation.md), to build by.")
    ] = None,
    disk_rate: Annotated[str, typer.Option(metavar="SIZE", help="What the disk reads in a second.")] = "2GB",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures here.")] = None,
) -> None:
    """Say what a deployment takes and holds, before anything is started. Exits with 1 where it cannot work.

    Reads the settings and the model's config alone: no weights, no tokenizer, and no device is touched. Lengths of
    items and histories are by default the means of the embedded shop.
    """
    from rcjax.commands.plan import Given, run_plan
    from rcjax.disk import check_folder

    if json_file:
        check_folder(json_file.parent)
    given = Given(
        device=device,
        device_bytes=device_bytes,
        memory_fraction=memory_fraction,
        item_tokens=item_tokens,
        history_tokens=history_tokens,
        num_items=items,
        num_users=users,
        costs=costs,
        disk_bytes_per_s=disk_rate,
    )
    if not run_plan(Console(), read_settings(config, model=model), given, json_file=json_file):
        raise typer.Exit(1)
