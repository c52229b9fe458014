"""`rcjax train`: its options."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rcjax.commands.cli.options import Adapter, Config, EventFolder, OnError, friendly_errors, read_settings


@friendly_errors()
def train(
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FOLDER", help="Model, curve, checkpoints; resumed if they are there."),
    ],
    config: Config = None,
    model: Annotated[str | None, typer.Option(help="The checkpoint; the settings' model by default.")] = None,
    adapter: Adapter = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the optimizer; the settings' train.num_steps.")
    ] = None,
    distil: Annotated[
        bool,
        typer.Option("--distil", help="Learn the checkpoint's own full-recompute rankings, as train.teacher says."),
    ] = False,
    num_layers: Annotated[int | None, typer.Option(min=1, help="Keep only the checkpoint's first layers.")] = None,
    tensorboard: EventFolder = None,
    on_error: OnError = None,
) -> None:
    """Fine-tune a checkpoint to rank, as the settings' train section says, under the mask it will be served with."""
    from rcjax.config import TeacherSettings
    from rcjax.engine.compilation import use_compilation_cache
    from rcjax.training.command import run_training

    settings = read_settings(config, model=model, adapter=adapter, on_error=on_error)
    teacher = TeacherSettings() if distil and settings.train.teacher is None else None
    training = settings.train.changed(num_steps=steps, num_layers=num_layers, teacher=teacher)
    use_compilation_cache(settings.compilation_cache_dir())
    run_training(Console(), settings, training, out, tensorboard)
