"""`rcjax train`: its options."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rcjax.commands.cli.options import Config, friendly_errors


@friendly_errors()
def train(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FOLDER", help="Model, curve, checkpoints; resumed if they are there."),
    ],
    config: Config = None,
    model: Annotated[str | None, typer.Option(help="The checkpoint; the settings' model by default.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the optimizer; the settings' train.num_steps.")
    ] = None,
    num_layers: Annotated[int | None, typer.Option(min=1, help="Keep only the checkpoint's first layers.")] = None,
) -> None:
    """Fine-tune a checkpoint to rank, as the settings' train section says, under the mask it will be served with."""
    from rcjax.config import load_settings
    from rcjax.engine.compilation import use_compilation_cache
    from rcjax.training.command import run_training

    settings = load_settings(config)
    given = {"num_steps": steps, "num_layers": num_layers}
    changed = {name: value for name, value in given.items() if value is not None}
    training = type(settings.train).model_validate(settings.train.model_dump() | changed)
    use_compilation_cache(settings.compilation_cache_dir())
    run_training(Console(), settings if model is None else settings.model_copy(update={"model": model}), training, out)
