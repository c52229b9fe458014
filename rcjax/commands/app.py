"""The `rcjax` command. What takes long to import is imported by the command that needs it, so that help is quick."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from rcjax.errors import RcjaxError

DEFAULT_TARGET = "127.0.0.1:50051"

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

Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="Settings in YAML. Without it: the embedded model and shop."),
]
Target = Annotated[str, typer.Option(metavar="HOST:PORT", help="The server's main port.")]


@app.callback()
def main() -> None:
    # transformers is here for its tokenizers, so that it finds no PyTorch is no news to anybody.
    advice = "PyTorch was not found"
    logging.getLogger("transformers").addFilter(lambda record: advice not in record.getMessage())


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Ends the command with a line instead of a traceback where the user can act on what went wrong."""
    try:
        yield
    except (ValueError, RcjaxError, OSError) as error:
        field = f" (field {error.field})" if isinstance(error, RcjaxError) and error.field else ""
        Console(stderr=True, soft_wrap=True).print(f"error: {error}{field}", style="red", markup=False, highlight=False)
        raise typer.Exit(2 if isinstance(error, ValueError) else 1) from error


@app.command()
@friendly_errors()
def demo(
    requests: Annotated[int, typer.Option(min=1, max=60, help="How many requests to rank.")] = 5,
    config: Config = None,
) -> None:
    """See it work: build the caches of a small shop, serve them, and rank requests in every arm. About two minutes."""
    from rcjax.commands.demo import demo_settings, run_demo
    from rcjax.config import load_settings

    run_demo(Console(), load_settings(config) if config else demo_settings(), requests)


@app.command()
@friendly_errors()
def serve(
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="Where to listen; the settings' server.host by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Recommender and Catalog; 0: a free one.")] = None,
    admin_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Info and statistics; 0 likewise.")] = None,
    snapshot: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="KV that [bold]rcjax build[/] wrote, not to compute it again.")
    ] = None,
) -> None:
    """Serve the settings' catalogue over gRPC until SIGTERM or Ctrl-C. Health says SERVING once it is ready."""
    from rcjax.config import load_settings, read_catalogue
    from rcjax.serving.deployment import deploy, new_server
    from rcjax.serving.server import serve as serve_until_asked

    console = Console()
    settings = load_settings(config)
    catalogue = read_catalogue(settings.catalogue)
    defaults = settings.server
    server = new_server(
        settings,
        lambda: deploy(settings, catalogue, console, snapshot=snapshot),
        host=defaults.host if host is None else host,
        ports=(defaults.port if port is None else port, defaults.admin_port if admin_port is None else admin_port),
    )
    listening = "listening on {0.main} (admin {0.admin}); health says SERVING once the model is ready"
    ready = "ready: {0.model}, arms {1} (default {0.default_arm})"
    asyncio.run(
        serve_until_asked(
            server,
            on_listening=lambda addresses: console.print(listening.format(addresses), soft_wrap=True),
            on_ready=lambda info: console.print(ready.format(info, ", ".join(info.arms)), highlight=False),
        )
    )
    console.print("stopped")


@app.command()
@friendly_errors()
def build(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where to write the snapshot.")],
    config: Config = None,
) -> None:
    """Compute the KV of the settings' items and users, and save it for [bold]rcjax serve --snapshot[/]."""
    from rcjax.config import load_settings
    from rcjax.serving.deployment import build_snapshot

    build_snapshot(Console(), load_settings(config), out)


@app.command()
@friendly_errors()
def rank(
    user: Annotated[str, typer.Option(metavar="ID", help="A user that the server knows, such as test-00000.")],
    candidates: Annotated[str, typer.Option(metavar="ID,ID,...", help="Items that the server knows.")],
    arm: Annotated[str, typer.Option(help="How to rank; the server's default if not given.")] = "",
    top_k: Annotated[int, typer.Option(min=0, help="How many to return; 0 for all.")] = 0,
    target: Target = DEFAULT_TARGET,
    config: Config = None,
) -> None:
    """Ask a running server to rank candidates for a user. Titles are those of the settings' catalogue."""
    from rcjax.commands.report import asked, ranking_table, stage_line, tokens_line
    from rcjax.config import load_settings, read_catalogue
    from rcjax.request import RecommendRequest
    from rcjax.serving.client import RecommenderClient

    ids = tuple(part.strip() for part in candidates.split(",") if part.strip())
    items = read_catalogue(load_settings(config).catalogue).items
    with RecommenderClient(target) as client:
        answer = asked(client, RecommendRequest(ids, user, top_k=top_k, arm=arm), time.perf_counter)
    console = Console()
    console.print(ranking_table(answer.result.ranking, items, title=f"for {user}, by {answer.result.arm}"))
    console.print(tokens_line(answer.result), highlight=False)
    console.print(stage_line(answer), highlight=False)


@app.command()
@friendly_errors()
def bench(
    config: Config = None,
    requests: Annotated[int, typer.Option("--requests", "-n", min=1, help="How many requests to rank.")] = 10,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write samples here.")] = None,
    target: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Load-test this server instead of comparing arms here.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=256, help="With --target: requests under way at once.")] = 1,
    arm: Annotated[str, typer.Option(help="With --target: how to rank; the server's default if not given.")] = "",
) -> None:
    """Measure: the arms side by side in this process, or, with --target, a running server under load."""
    from rcjax.commands import bench as measure
    from rcjax.config import load_settings, read_catalogue
    from rcjax.serving.client import RecommenderClient

    console = Console()
    settings = load_settings(config)
    if target is None:
        if arm or concurrency != 1:
            raise typer.BadParameter("--arm and --concurrency go with --target")
        answers = measure.compare_arms(console, settings, requests)
        if json_file:
            measure.write_json(json_file, answers, claims=measure.claims(answers))
        return
    asks = measure.bench_requests(read_catalogue(settings.catalogue), requests)
    with RecommenderClient(target) as client:
        report = measure.load_test(client, asks, arm, concurrency)
    measure.show_load(console, report)
    if json_file:
        more = {"failures": dict(report.failures), "wall_s": report.wall_s, "requests_per_s": report.requests_per_s}
        measure.write_json(json_file, {arm or "default": report.answers}, claims=[], concurrency=concurrency, **more)


@app.command()
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


@app.command("eval")
@friendly_errors()
def evaluate(
    config: Config = None,
    model: Annotated[str | None, typer.Option(help="A checkpoint; the settings' model by default.")] = None,
    requests: Annotated[
        int | None, typer.Option("--requests", "-n", min=1, help="How many; 100, or all if fewer, if not given.")
    ] = None,
    arms: Annotated[
        str, typer.Option(metavar="NAME,NAME,...", help="Some of the settings' arms; all by default.")
    ] = "",
    gate: Annotated[
        float | None,
        typer.Option(
            metavar="TOLERANCE", min=0.0, help="Exit with 3 if an arm's NDCG@10 may be off by more, such as 0.005."
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures here.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Plot quality over tokens computed.")] = None,
    permutations: Annotated[int, typer.Option(min=0, help="Rank in so many other orders of candidates too.")] = 0,
    split: Annotated[
        Literal["train", "validation", "test", "all"], typer.Option(help="Users whose events are held out.")
    ] = "test",
    history_len: Annotated[int, typer.Option(min=1, help="Events that are shown before the held-out one.")] = 3,
    candidates: Annotated[int, typer.Option(min=2, help="Items to rank, the held-out one among them.")] = 20,
    negatives: Annotated[
        Literal["popularity", "uniform"], typer.Option(help="How the other candidates are drawn.")
    ] = "popularity",
    targets_per_user: Annotated[int, typer.Option(min=1, help="Held-out events of a user, each a request.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of requests, permutations and intervals.")] = 0,
) -> None:
    """Measure ranking quality, and what each arm loses against full recompute.

    Requests with a target are taken from the catalogue where it has some; else each user's next event is held out.
    """
    from rcjax.catalog.holdout import NextItem
    from rcjax.catalog.negatives import Negatives
    from rcjax.config import load_settings
    from rcjax.evaluation.command import run_eval
    from rcjax.evaluation.evaluation import EvalOptions

    settings = load_settings(config)
    options = EvalOptions(
        num_requests=requests,
        arms=tuple(name.strip() for name in arms.split(",") if name.strip()),
        task=NextItem(history_len, candidates, Negatives(negatives), targets_per_user),
        split=split,
        num_permutations=permutations,
        seed=seed,
    )
    passed = run_eval(
        Console(),
        settings if model is None else settings.model_copy(update={"model": model}),
        options,
        json_file=json_file,
        plot_file=plot,
        gate=gate,
    )
    if not passed:
        raise typer.Exit(3)


if __name__ == "__main__":
    app()
