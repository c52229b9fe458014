"""What the commands have in common: options, and errors that a person can act on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rcjax.errors import RcjaxError

DEFAULT_TARGET = "127.0.0.1:50051"

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Settings in YAML. Without it: the embedded model and shop."),
]
Target = Annotated[str, typer.Option(metavar="HOST:PORT", help="The server's main port.")]


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Ends the command with a line instead of a traceback where the user can act on what went wrong."""
    try:
        yield
    except (ValueError, RcjaxError, OSError) as error:
        field = f" (field {error.field})" if isinstance(error, RcjaxError) and error.field else ""
        Console(stderr=True, soft_wrap=True).print(f"error: {error}{field}", style="red", markup=False, highlight=False)
        raise typer.Exit(2 if isinstance(error, ValueError) else 1) from error
