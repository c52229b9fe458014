"""`rcjax cluster`: its commands, and their options."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from rcjax.commands.cli.options import friendly_errors

if TYPE_CHECKING:
    from rcjax.cluster.ray.update import ClusterStatus

cluster = typer.Typer(no_args_is_help=True, help="Look at the hosts of a cluster, add some, take some away.")

Address = Annotated[str, typer.Option("--cluster", metavar="ADDRESS", help="Of Ray's head; auto: of this node's.")]


@cluster.command()
@friendly_errors()
def status(address: Address = "auto") -> None:
    """Show the hosts: what state they are in, what they hold, and how often that was what was asked for."""
    with _keeper(address) as keeper:
        import ray

        _show(ray.get(keeper.status.remote()))


@cluster.command()
@friendly_errors()
def add(
    number: Annotated[int, typer.Argument(min=1, help="How many.")] = 1,
    address: Address = "auto",
) -> None:
    """Start more hosts: each joins once it has loaded the model, and is filled while the others serve."""
    with _keeper(address) as keeper:
        import ray

        from rcjax.cluster.ray.launch import launch_host

        settings = ray.get(keeper.settings.remote())
        names = [launch_host(settings) for _ in range(number)]
    Console().print(f"started {', '.join(names)}; [bold]rcjax cluster status[/] shows when they are open")


@cluster.command()
@friendly_errors()
def remove(
    name: Annotated[str, typer.Argument(metavar="HOST", help="As status calls it.")],
    grace_s: Annotated[float, typer.Option(min=0.0, help="What requests that are there get to finish.")] = 60.0,
    now: Annotated[bool, typer.Option("--now", help="End it at once, as if it had died: for one that hangs.")] = False,
    address: Address = "auto",
) -> None:
    """Take a host away: what it holds goes to others, requests go elsewhere, then it ends."""
    with _keeper(address) as keeper:
        import ray

        ray.get(keeper.remove.remote(name, None if now else grace_s)).result()
    Console().print(f"removed {name}")


@cluster.command()
@friendly_errors()
def stop(address: Address = "auto") -> None:
    """End all hosts, and with them the library; servers in front answer UNAVAILABLE from then on."""
    with _keeper(address):
        from rcjax.cluster.ray.launch import stop_cluster

        names = stop_cluster()
    Console().print(f"stopped {len(names)} hosts")


@contextmanager
def _keeper(address: str) -> Iterator[Any]:
    """The keeper of the cluster at an address; ValueError where there is none."""
    from rcjax.cluster.ray.runtime import ray_runtime

    with ray_runtime(address):
        from rcjax.cluster.ray.launch import find_keeper

        yield find_keeper()


def _show(found: "ClusterStatus") -> None:
    console = Console()
    console.print(
        f"{found.model or 'no host has joined yet'}: {found.num_items:,} items, {found.num_users:,} users, "
        f"{found.num_routers} servers in front",
        highlight=False,
    )
    host = Column("host", no_wrap=True)  # whole in a narrow terminal too, as `remove` takes it
    table = Table(host, Column("node", overflow="fold"), "pid", "state", "slices", "items", "hits", "misses", "pages")
    for one in found.hosts:
        places = f"{one.places[0]}-{one.places[-1]}" if len(one.places) > 1 else str(one.places[0])
        counts = (one.num_items, one.num_hits, one.num_misses)
        pages = f"{one.pages_used:,} of {one.pages_total:,}"
        table.add_row(one.name, one.node, str(one.pid), one.state, places, *(f"{n:,}" for n in counts), pages)
    console.print(table)
    for name, why in found.refused.items():
        console.print(f"{name} was refused: {why}", style="red", markup=False, highlight=False)
