"""A small cluster of Ray on this machine for measurements, and what it is asked."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from rcjax.catalog import EmbeddedWorld
from rcjax.cluster.ray.front import start_front
from rcjax.cluster.ray.host import HostActor
from rcjax.cluster.ray.launch import keeper_of, launch_host
from rcjax.cluster.ray.runtime import ray_runtime
from rcjax.config import CacheSettings, ClusterSettings, MeshSettings, Settings, ShapeSettings, load_settings
from rcjax.errors import RcjaxError
from rcjax.request import RecommendRequest
from rcjax.serving.local import LocalEngine

CONFIG = Path(__file__).parent.parent / "configs" / "mesh-4.yaml"
NUM_ITEMS, NUM_USERS, NUM_CANDIDATES = 80, 8, 20  # all of them fit a host
POOL_BYTES = 2**29
WAIT_S = 600.0


def settings(num_hosts: int) -> Settings:
    """One row a pass, so that a host answers as many requests a second as its passes have room for."""
    wanted = load_settings(CONFIG)
    tiled = next(shape for shape in wanted.shapes.rank if shape.tiles and shape.batch == 1)
    return wanted.model_copy(
        update={
            "adapter": None,
            "dtype": "float32",
            "mesh": MeshSettings(placement="hash", replica_share=0.5),
            "cluster": ClusterSettings(max_hosts=num_hosts, cpus=0, stall_s=30.0),
            "cache": CacheSettings(pool_bytes=POOL_BYTES),
            "shapes": ShapeSettings(rank=(tiled,), build=wanted.shapes.build),
        }
    )


@dataclass
class Running:
    """A cluster, a front end of this process, and what it is asked."""

    settings: Settings
    keeper: Any
    engine: LocalEngine
    asks: list[RecommendRequest]

    def hosts(self) -> Any:
        return ray.get(self.keeper.status.remote(), timeout=WAIT_S).hosts

    def wait_whole(self, number: int) -> None:
        end_s = time.monotonic() + WAIT_S
        while not (
            [one.state for one in self.hosts()] == ["open"] * number
            and [one.state for one in self.engine.stats().slices].count("open") == number
        ):
            if time.monotonic() > end_s:
                raise TimeoutError(f"{number} hosts are not open after {WAIT_S:.0f} s")
            time.sleep(0.2)


@contextmanager
def running(num_hosts: int, host: type[HostActor], num_requests: int) -> Iterator[Running]:
    wanted = settings(num_hosts)
    with ray_runtime(f"local:{num_hosts}"):
        keeper = keeper_of(wanted)
        for _ in range(num_hosts):
            launch_host(wanted, host)
        with start_front(wanted, keeper, progress=print) as engine:
            found = Running(wanted, keeper, engine, [])
            found.wait_whole(num_hosts)
            found.asks = fill(engine, num_requests)
            yield found


def fill(engine: LocalEngine, num_requests: int) -> list[RecommendRequest]:
    world = EmbeddedWorld(0, num_items=NUM_ITEMS)
    shop = world.catalogue(num_users=NUM_USERS, num_requests=0, num_candidates=NUM_CANDIDATES)
    engine.put_items(shop.items.values())
    for outcome in engine.put_users(shop.users.values()):
        if isinstance(outcome, RcjaxError):
            raise outcome
    rng = np.random.default_rng(0)
    users, asks = list(shop.users), []
    while len(asks) < num_requests:
        items = tuple(map(str, rng.choice(list(shop.items), NUM_CANDIDATES, replace=False)))
        ask = RecommendRequest(items, str(rng.choice(users)))
        try:
            engine.prompt(ask)
        except RcjaxError:
            continue  # longer than the shape holds
        asks.append(ask)
    return asks
