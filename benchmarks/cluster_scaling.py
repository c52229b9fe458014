"""How requests scale with the hosts of a cluster, beside what the simulator predicts of the same requests."""

import threading
import time
from typing import Any

import numpy as np
import ray
from cluster_bed import Running, running
from paced_host import PacedHostActor
from simulate_validate import PaddedArm

from rcjax.cluster.ray.profile import Profile
from rcjax.cluster.simulation import Cluster, CostTable, Workload, simulate
from rcjax.engine.cost import CostModel
from rcjax.engine.shape import Shape
from rcjax.prompt import Owner
from rcjax.request import RecommendRequest
from rcjax.serving.local import LocalEngine
from rcjax.serving.owners import Hashed, ItemOwners
from rcjax.serving.routing import policy_of

UNDER_WAY = 4  # a host


def per_s(engine: LocalEngine, asks: list[RecommendRequest], under_way: int) -> float:
    """Requests a second with so many of them under way."""
    room, futures = threading.Semaphore(under_way), []
    start_s = time.monotonic()
    for ask in asks:
        room.acquire()
        future = engine.router.submit(ask)
        future.add_done_callback(lambda _: room.release())
        futures.append(future)
    for future in futures:
        future.result()
    return len(asks) / (time.monotonic() - start_s)


def scaling(num_hosts: int, num_requests: int, rounds: int) -> dict[str, Any]:
    with running(num_hosts, PacedHostActor, num_requests) as cluster:
        under_way = UNDER_WAY * num_hosts
        per_s(cluster.engine, cluster.asks, under_way)  # copies what hosts lack
        rates = [per_s(cluster.engine, cluster.asks, under_way) for _ in range(rounds)]
        profile = ray.get(cluster.keeper.profile.remote())
        predicted = predicted_per_s(cluster, profile, num_hosts)
        stats = cluster.engine.stats()
    return {
        "num_hosts": num_hosts,
        "per_s": rates,
        "predicted_per_s": predicted,
        "fetched_blocks": stats.num_fetched,
        "imbalance": stats.imbalance,
    }


def predicted_per_s(cluster: Running, profile: Profile, num_hosts: int) -> float:
    """What the simulator answers of the same requests, all of which are there from the start."""
    cost = CostModel(profile.config, profile.info.page_tokens, profile.page_bytes)
    cost.learn(profile.timed)
    token_bytes = profile.page_bytes / profile.info.page_tokens
    planner: Any = cluster.engine.router.planner
    number_of = {item: n for n, item in enumerate(dict.fromkeys(i for ask in cluster.asks for i in ask.candidates))}
    rows = [[number_of[str(item)] for item in ask.candidates] for ask in cluster.asks]
    workload = Workload(
        item_tokens=np.array([len(planner.item_block(Owner("", str(one))).block) for one in number_of], np.uint16),
        starts=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        items=np.array([item for row in rows for item in row], np.int32),
        history_tokens=np.full(len(rows), 250, np.int32),  # padded anyway
        gaps=np.ones(len(rows)),
        id_of=[str(one) for one in number_of].__getitem__,
    )
    (size,) = cluster.settings.shapes.rank
    fields = ("fresh_tokens", "num_pages", "batch", "tiles", "tile_tokens", "tile_pages")
    shape = Shape(**{name: getattr(size, name) for name in fields})
    simulated = Cluster(
        ItemOwners(Hashed(num_hosts)),
        CostTable.of_model("a host", cost, token_bytes, profile.info.page_tokens),
        PaddedArm(shape, profile.info.page_tokens, wants_items=False),  # all that is asked for has been copied
        max_batch=1,
    )
    outcome = simulate(simulated, workload, policy_of(cluster.settings.mesh.scheduler), 1e6)
    return len(rows) / float(np.max(outcome.done_s))
