"""What the commands have in common: options, and errors that a person can act on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from rcjax.errors import RcjaxError

if TYPE_CHECKING:
    from rcjax.config import Settings

DEFAULT_TARGET = "127.0.0.1:50051"

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Settings in YAML. Without it: the embedded model and shop."),
]
OnError = Annotated[
    Literal["stop", "skip"] | None,
    typer.Option(help="What a record does that cannot be read; the settings' catalogue.on_error by default."),
]
EventFolder = Annotated[
    Path | None,
    typer.Option("--tensorboard", metavar="FOLDER", help="Scalars for TensorBoard; needs rcjax\\[tensorboard]."),
]
Adapter = Annotated[
    str | None,
    typer.Option(metavar="FOLDER|NAME", help="A LoRA adapter on the model; the settings' by default, '' for none."),
]
Target = Annotated[str, typer.Option(metavar="HOST:PORT", help="The server's main port.")]


def read_settings(
    config: Path | None, *, model: str | None = None, adapter: str | None = None, on_error: str | None = None
) -> "Settings":
    """The settings of a file, or the defaults, with what the command line says instead."""
    from rcjax.config import load_settings

    settings = load_settings(config)
    if on_error is not None:
        catalogue = settings.catalogue.model_copy(update={"on_error": on_error})
        settings = settings.model_copy(update={"catalogue": catalogue})
    return settings.with_weights(model, adapter)


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Ends the command with 1, and lines instead of a traceback, where the user can act on what went wrong.

    Wrong usage is not caught: it is click that ends the command then, with 2.
    """
    try:
        yield
    except (ValueError, RcjaxError, OSError, FloatingPointError) as error:
        field = f" (field {error.field})" if isinstance(error, RcjaxError) and error.field else ""
        console = Console(stderr=True, soft_wrap=True)
        for line in str(error).splitlines() or [type(error).__name__]:
            console.print(f"error: {line}{field}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from error
