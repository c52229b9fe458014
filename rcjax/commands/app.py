"""The `rcjax` command."""

import logging

import typer

from rcjax.commands.cli.bench import bench
from rcjax.commands.cli.build import build
from rcjax.commands.cli.demo import demo
from rcjax.commands.cli.evaluate import evaluate
from rcjax.commands.cli.rank import rank
from rcjax.commands.cli.serve import serve
from rcjax.commands.cli.train import train

app = typer.Typer(
    name="rcjax",
    help="Rank with a language model from cached KV blocks. New here? Run [bold]rcjax demo[/].",
    epilog="Exit codes: 0 done, 1 failed (the server refused or could not be reached), 2 wrong usage, file or setting, "
    "3 the gate of [bold]rcjax eval[/] did not pass.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
app.command()(demo)
app.command()(serve)
app.command()(build)
app.command()(rank)
app.command()(bench)
app.command()(train)
app.command("eval")(evaluate)


@app.callback()
def main() -> None:
    # transformers is here for its tokenizers, so that it finds no PyTorch is no news to anybody.
    advice = "PyTorch was not found"
    logging.getLogger("transformers").addFilter(lambda record: advice not in record.getMessage())


if __name__ == "__main__":
    app()
