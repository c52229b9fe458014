"""`rcjax eval`: its options."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from rcjax.commands.cli.options import Adapter, Config, EventFolder, OnError, friendly_errors, read_settings


@friendly_errors()
def evaluate(
    config: Config = None,
    model: Annotated[str | None, typer.Option(help="A checkpoint; the settings' model by default.")] = None,
    adapter: Adapter = None,
    teacher: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Compare with this checkpoint, recomputed in full as train.teacher says."),
    ] = None,
    teacher_adapter: Annotated[
        str | None, typer.Option(metavar="FOLDER|NAME", help="A LoRA adapter on the teacher.")
    ] = None,
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
    tensorboard: EventFolder = None,
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
    on_error: OnError = None,
) -> None:
    """Measure ranking quality, and what each arm loses against full recompute.

    Requests with a target are taken from the catalogue where it has some; else each user's next event is held out. With
    --teacher, arms are compared with the checkpoint that the model was distilled from.
    """
    from rcjax.catalog.holdout import NextItem
    from rcjax.catalog.negatives import Negatives
    from rcjax.evaluation.command import run_eval
    from rcjax.evaluation.evaluation import EvalOptions

    settings = read_settings(config, model=model, adapter=adapter, on_error=on_error)
    options = EvalOptions(
        num_requests=requests,
        arms=tuple(name.strip() for name in arms.split(",") if name.strip()),
        task=NextItem(history_len, candidates, Negatives(negatives), targets_per_user),
        split=split,
        num_permutations=permutations,
        seed=seed,
        teacher=teacher,
        teacher_adapter=teacher_adapter,
    )
    passed = run_eval(
        Console(),
        settings,
        options,
        json_file=json_file,
        plot_file=plot,
        event_folder=tensorboard,
        gate=gate,
    )
    if not passed:
        raise typer.Exit(3)
