"""`rcjax snapshot` and `rcjax restore`: their options."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rcjax.commands.cli.channel import Ca, TokenFile, channel_security
from rcjax.commands.cli.options import DEFAULT_TARGET, friendly_errors

if TYPE_CHECKING:
    from rcjax.serving.client import RecommenderClient

DEFAULT_ADMIN_TARGET = "127.0.0.1:50052"

AdminTarget = Annotated[str, typer.Option("--target", metavar="HOST:PORT", help="The server's admin port.")]
Timeout = Annotated[float, typer.Option(min=1.0, help="Seconds to wait; the server goes on if they pass.")]


@friendly_errors()
def snapshot(
    target: AdminTarget = DEFAULT_ADMIN_TARGET,
    timeout_s: Timeout = 3600.0,
    ca: Ca = None,
    token_file: TokenFile = None,
) -> None:
    """Have a running server save its KV, items and users where its settings (snapshot.where) say, while it serves."""
    with _client(target, timeout_s, ca, token_file) as client:
        taken = client.take_snapshot()
    Console().print(
        f"snapshot {taken.number}: {taken.num_blocks:,} blocks ({taken.num_bytes / 1e6:,.1f} MB), "
        f"{taken.num_written:,} of them new ({taken.written_bytes / 1e6:,.1f} MB), {taken.num_items:,} items, "
        f"{taken.num_users:,} users, in {taken.took_s:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


@friendly_errors()
def restore(
    target: AdminTarget = DEFAULT_ADMIN_TARGET,
    number: Annotated[int, typer.Option(min=0, help="Of the snapshot; 0 for the newest.")] = 0,
    timeout_s: Timeout = 3600.0,
    ca: Ca = None,
    token_file: TokenFile = None,
) -> None:
    """Have a running server restore one of its snapshots into free pages, while it serves; what is there stays."""
    with _client(target, timeout_s, ca, token_file) as client:
        done = client.restore_snapshot(number)
    Console().print(
        f"snapshot {done.number}: {done.num_blocks:,} blocks ({done.num_bytes / 1e6:,.1f} MB) restored, "
        f"{done.num_present:,} were there, {done.num_skipped:,} did not fit, {done.num_corrupt:,} are corrupt; "
        f"{done.num_items:,} items and {done.num_users:,} users are new here; in {done.took_s:.1f} s",
        highlight=False,
        soft_wrap=True,
    )


@contextmanager
def _client(target: str, timeout_s: float, ca: Path | None, token_file: Path | None) -> "Iterator[RecommenderClient]":
    from rcjax.serving.client import RecommenderClient
    from rcjax.serving.security import new_channel

    connect = partial(new_channel, security=channel_security(ca, token_file))
    with RecommenderClient(DEFAULT_TARGET, target, timeout_s=timeout_s, connect=connect) as client:
        yield client
