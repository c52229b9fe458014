"""The `rcjax` command."""

import io
import logging
import sys

import typer

from rcjax.commands.cli.bench import bench
from rcjax.commands.cli.build import build
from rcjax.commands.cli.cluster import cluster
from rcjax.commands.cli.demo import demo
from rcjax.commands.cli.evaluate import evaluate
from rcjax.commands.cli.place import place
from rcjax.commands.cli.plan import plan
from rcjax.commands.cli.rank import rank
from rcjax.commands.cli.serve import serve
from rcjax.commands.cli.simulate import simulate
from rcjax.commands.cli.snapshot import restore, snapshot
from rcjax.commands.cli.train import train

app = typer.Typer(
    name="rcjax",
    help="Rank with a language model from cached KV blocks. New here? Run [bold]rcjax demo[/].",
    epilog="Exit codes: 0 done, 1 failed (a file, a setting, a model, or what the server said), 2 wrong usage, "
    "3 the gate of [bold]rcjax eval[/] did not pass.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
)
app.command()(demo)
app.command()(plan)
app.command()(serve)
app.command()(build)
app.command()(rank)
app.command()(bench)
app.command()(train)
app.command("eval")(evaluate)
app.command()(place)
app.command()(simulate)
app.command()(snapshot)
app.command()(restore)
app.add_typer(cluster, name="cluster")


@app.callback()
def main() -> None:
    # transformers is here for its tokenizers, so that it finds no PyTorch is no news to anybody.
    advice = "PyTorch was not found"
    logging.getLogger("transformers").addFilter(lambda record: advice not in record.getMessage())
    # Orbax logs the traceback of what it raises, once for each of its threads; the command says it in a line.
    logging.getLogger("absl").addFilter(lambda record: not record.exc_info)
    # It gives up at the first error of several arrays, and Python tells of the others that nobody listens for.
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _told_unless_loop_is_closed
    # Titles and paths may have characters that the terminal's encoding lacks.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _told_unless_loop_is_closed(unraisable: "sys.UnraisableHookArgs") -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    app()
