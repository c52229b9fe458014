"""Ray itself: a cluster that is there, or one of this machine; it tells nobody of its use."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rcjax.cluster.ray.names import NAMESPACE
from rcjax.config import Settings
from rcjax.serving.local import LocalEngine

LOCAL = "local:"


def num_local_hosts(address: str) -> int | None:
    """N of `local:N`; None for the address of a cluster. ValueError for a `local:` that is none."""
    if not address.startswith(LOCAL):
        return None
    number = address.removeprefix(LOCAL)
    if not number.isdecimal() or not int(number):
        raise ValueError(f"--cluster {address!r}: after local: stands the number of hosts, as in local:4")
    return int(number)


def import_ray() -> Any:
    """The module; ValueError says what to install where there is none."""
    try:
        import ray
    except ImportError as error:
        raise ValueError("a cluster needs Ray; run: pip install 'rcjax[cluster]'") from error
    return ray


@contextmanager
def ray_runtime(address: str, *, num_cpus: float = 0.0) -> Iterator[None]:
    """Connects to the cluster at `address` (`auto`, or HOST:PORT of its head), or starts one on this machine.

    One that is started here is `local:N`, has `num_cpus` and ends with the block. ValueError where it cannot be had.
    """
    ray = import_ray()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # which is how Ray is told
    os.environ.setdefault("RAY_worker_niceness", "0")  # hosts are what the machine is for; Ray's own default is 15
    common = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.WARNING}
    try:
        if num_local_hosts(address) is not None:
            # Cores are what is set aside, not what there is: hosts of one machine share it.
            ray.init(num_cpus=max(1, round(num_cpus)), include_dashboard=False, **common)
        else:
            ray.init(address=address, **common)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"no Ray cluster can be had at {address!r}: {line}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def cluster_start(address: str, settings: Settings) -> Iterator[Callable[[Callable[[str], None]], LocalEngine]]:
    """For a `with` in which the cluster is connected to: what starts a front end of it, and hosts where they lack.

    ValueError where there is no Ray, no cluster at the address, or the settings do not go with one.
    """
    if settings.snapshot.where is not None:
        raise ValueError(
            "snapshot.where is set, and a cluster takes no snapshots: its library is on every host; set it to null"
        )
    num_hosts = num_local_hosts(address) or settings.cluster.hosts
    if num_hosts > settings.cluster.max_hosts:
        raise ValueError(
            f"{num_hosts} hosts are more than cluster.max_hosts={settings.cluster.max_hosts}; set it higher"
        )
    with ray_runtime(address, num_cpus=num_hosts * settings.cluster.cpus):
        from rcjax.cluster.ray.front import start_front
        from rcjax.cluster.ray.launch import keeper_of, launch_hosts

        def start(announce: Callable[[str], None]) -> LocalEngine:
            keeper = keeper_of(settings)
            launched = launch_hosts(settings, num_hosts)
            return start_front(settings, keeper, hosts=launched, progress=announce)

        yield start
