"""`rcjax bench`: its options."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rcjax.commands.cli.channel import channel_security
from rcjax.commands.cli.options import Adapter, Config, OnError, friendly_errors, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from rcjax.config import Settings

_LOAD = "With --target"
Rates = Annotated[
    str | None,
    typer.Option("--rate", metavar="N,N,...", help=f"{_LOAD}: requests a second, one rate after the other."),
]
Arrivals = Annotated[
    str | None,
    typer.Option(
        metavar="poisson|bursty|FILE",
        help=f"{_LOAD}: how requests come. A trace has a JSON line each: `at_s`, and perhaps `user_id`, `candidates`.",
    ),
]

SloMs = Annotated[
    float | None,
    typer.Option("--slo-ms", min=0.0, help=f"{_LOAD}: goodput counts what was answered within (1000)."),
]
TimeoutS = Annotated[
    float | None, typer.Option("--timeout-s", min=0.1, help=f"{_LOAD}: the deadline of each request (30).")
]
DurationS = Annotated[
    float | None, typer.Option("--duration-s", min=0.1, help=f"{_LOAD}: how long each rate is sent (30).")
]
TokenFile = Annotated[
    Path | None, typer.Option("--token-file", metavar="FILE", help=f"{_LOAD}: holds the token to send, alone.")
]


@friendly_errors()
def bench(
    config: Config = None,
    adapter: Adapter = None,
    requests: Annotated[
        int | None, typer.Option("--requests", "-n", min=1, help="Without --target: how many to rank (10).")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write figures and samples.")] = None,
    target: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Load-test this server instead of comparing arms here.")
    ] = None,
    rate: Rates = None,
    duration_s: DurationS = None,
    arrivals: Arrivals = None,
    slo_ms: SloMs = None,
    arm: Annotated[str | None, typer.Option(help=f"{_LOAD}: how to rank; the server's default if not given.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help=f"{_LOAD}: of requests and gaps (0).")] = None,
    timeout_s: TimeoutS = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help=f"{_LOAD}: draw times over rates.")] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"{_LOAD}: TLS, with the certificates its own follows from.")
    ] = None,
    token_file: TokenFile = None,
    on_error: OnError = None,
) -> None:
    """Measure: the arms side by side in this process, or, with --target, a running server under load.

    The load is an open loop: requests are sent when they are due, and their times count from then. Their users and
    candidates are those of the settings' catalogue, which is to be the server's too.
    """
    of_load = {
        "duration_s": duration_s,
        "arrivals": arrivals,
        "slo_ms": slo_ms,
        "arm": arm,
        "seed": seed,
        "timeout_s": timeout_s,
    }
    given: dict[str, Any] = {name: value for name, value in of_load.items() if value is not None}
    if target is None and (given or any(value is not None for value in (rate, plot, ca, token_file))):
        raise typer.BadParameter("--rate, --plot and what else is for a load test go with --target")
    if target is not None and requests is not None:
        raise typer.BadParameter("--requests goes without --target; a load test has --rate and --duration-s")
    if target is not None and adapter is not None:
        raise typer.BadParameter("--adapter goes without --target: the server has loaded its model")
    settings = _checked_settings(config, adapter, on_error, json_file, plot)
    if target is None:
        from rcjax.commands import bench as measure

        answers = measure.compare_arms(Console(), settings, requests or 10)
        if json_file is not None:
            measure.write_json(json_file, answers)
        return
    from rcjax.commands.load.command import LoadOptions, run_load_test

    options = LoadOptions(target, _rates(rate), **given)
    run_load_test(Console(), options, settings, connect=_connect(ca, token_file), json_file=json_file, plot=plot)


def _checked_settings(
    config: Path | None, adapter: str | None, on_error: str | None, json_file: Path | None, plot: Path | None
) -> "Settings":
    """The settings, once it is known that what is measured can be written."""
    from rcjax.disk import check_folder
    from rcjax.evaluation.plot import check_plot

    for path in (json_file, plot):
        if path is not None:
            check_folder(path.parent)
    if plot is not None:
        check_plot(plot)
    return read_settings(config, adapter=adapter, on_error=on_error)


def _connect(ca: Path | None, token_file: Path | None) -> "Callable[[str], grpc.aio.Channel]":
    from rcjax.serving.security import new_aio_channel

    return partial(new_aio_channel, security=channel_security(ca, token_file))


def _rates(text: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",")) if text else ()
    except ValueError as error:
        raise typer.BadParameter(f"--rate {text!r} is not numbers with commas between them, as in 1,2,4") from error
