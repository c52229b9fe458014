"""`rcjax rank`: its options."""

import time
from functools import partial
from typing import Annotated

import typer
from rich.console import Console

from rcjax.commands.cli.channel import Ca, Cert, Key, TokenFile, channel_security
from rcjax.commands.cli.options import DEFAULT_TARGET, Config, OnError, Target, friendly_errors, read_settings


@friendly_errors()
def rank(
    user: Annotated[str, typer.Option(metavar="ID", help="A user that the server knows, such as test-00000.")],
    candidates: Annotated[str, typer.Option(metavar="ID,ID,...", help="Items that the server knows.")],
    arm: Annotated[str, typer.Option(help="How to rank; the server's default if not given.")] = "",
    top_k: Annotated[int, typer.Option(min=0, help="How many to return; 0 for all.")] = 0,
    target: Target = DEFAULT_TARGET,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    token_file: TokenFile = None,
    config: Config = None,
    on_error: OnError = None,
) -> None:
    """Ask a running server to rank candidates for a user. Titles are those of the settings' catalogue."""
    from rcjax.commands.report import asked, ranking_table, stage_line, tokens_line
    from rcjax.config import read_catalogue
    from rcjax.request import RecommendRequest
    from rcjax.serving.client import RecommenderClient
    from rcjax.serving.progress import noted
    from rcjax.serving.security import new_channel

    ids = tuple(part.strip() for part in candidates.split(",") if part.strip())
    settings = read_settings(config, on_error=on_error)
    items = read_catalogue(settings.catalogue, tell=noted(Console(stderr=True))).items
    connect = partial(new_channel, security=channel_security(ca, token_file, cert, key))
    with RecommenderClient(target, connect=connect) as client:
        answer = asked(client, RecommendRequest(ids, user, top_k=top_k, arm=arm), time.perf_counter)
    console = Console()
    console.print(ranking_table(answer.result.ranking, items, title=f"for {user}, by {answer.result.arm}"))
    console.print(tokens_line(answer.result), highlight=False)
    console.print(stage_line(answer), highlight=False)
