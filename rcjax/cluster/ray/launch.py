"""Launching: the keeper and the hosts of a cluster as Ray actors, which outlive whoever started them."""

from typing import Any

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rcjax.cluster.ray.host import HostActor
from rcjax.cluster.ray.keeper import KeeperActor
from rcjax.cluster.ray.membership import actor_of, end_host
from rcjax.cluster.ray.names import HOST_PREFIX, KEEPER, NAMESPACE
from rcjax.cluster.ray.recovery import host_names
from rcjax.config import Settings

MAX_CALLS = 10_000  # under way at a time, of one actor

LASTING = {"namespace": NAMESPACE, "lifetime": "detached", "max_restarts": -1, "max_concurrency": MAX_CALLS}


def find_keeper() -> Any:
    """ValueError where the Ray cluster has none."""
    try:
        return ray.get_actor(KEEPER, namespace=NAMESPACE)
    except ValueError as error:
        raise ValueError("no rcjax runs on this Ray cluster; start one with rcjax serve --cluster") from error


def keeper_of(settings: Settings) -> Any:
    """The keeper, which is started where there is none."""
    actor = ray.remote(KeeperActor)
    return actor.options(name=KEEPER, get_if_exists=True, num_cpus=0, **LASTING).remote(settings)


def launch_hosts(settings: Settings, wanted: int) -> list[str]:
    """Has Ray start as many hosts as lack; returns their names. They join by themselves."""
    known = host_names()
    return [launch_host(settings) for _ in range(wanted - len(known))]


def launch_host(settings: Settings, host: type[HostActor] = HostActor) -> str:
    """Has Ray start one more host, on a node that has what the settings ask for, and returns its name.

    `host` is another class than that of all others only where benchmarks measure.
    """
    name = _free_name(host_names())
    asked = host_resources(settings)
    options: dict[str, Any] = {"num_cpus": 0}
    if asked:
        # One bundle is one node. It stays the host's while Ray starts it anew.
        group = placement_group([asked], strategy="STRICT_PACK", name=name, lifetime="detached")
        options = {
            "num_cpus": asked.get("CPU", 0),
            "num_gpus": asked.get("GPU", 0),
            "resources": {key: number for key, number in asked.items() if key not in ("CPU", "GPU")},
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0),
        }
    ray.remote(host).options(name=name, **LASTING, **options).remote(settings, name)
    return name


def host_resources(settings: Settings) -> dict[str, float]:
    """What a host takes of a node, by Ray's names."""
    cluster = settings.cluster
    asked = {"CPU": cluster.cpus, **cluster.resources}
    if cluster.device is not None:
        asked[cluster.device] = float(settings.mesh.num_devices)
    return {name: number for name, number in asked.items() if number}


def _free_name(known: list[str]) -> str:
    number = next(number for number in range(len(known) + 1) if f"{HOST_PREFIX}{number}" not in known)
    return f"{HOST_PREFIX}{number}"


def stop_cluster() -> list[str]:
    """Ends the keeper and every host, and with them the library; returns the names of the hosts."""
    names = host_names()
    ray.kill(find_keeper(), no_restart=True)
    for name in names:
        end_host(actor_of(name), name)
    return names
