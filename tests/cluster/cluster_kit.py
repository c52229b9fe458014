"""Small clusters and workloads whose outcomes can be worked out by hand."""

import numpy as np

from rcjax.cluster.simulation import Cluster, CostTable, Reuse, SimulatedArm, Workload, generated, poisson_gaps
from rcjax.config import SchedulerSettings
from rcjax.serving.owners import Everywhere, Hashed, ItemOwners
from rcjax.serving.routing import policy_of
from rcjax.serving.scheduler import Policy

POLICIES = ("time", "affinity", "round_robin", "least_loaded", "hit_only")
# A pass takes a second and a token of a block that is built a hundredth.
COSTS = CostTable("by hand", token_bytes=1000.0, begin_s=1.0, token_s=0.01, read_s=0.0, pair_s=0.0)
ARM = SimulatedArm(Reuse.PARALLEL)


def cluster(num_slices: int, *, everywhere: bool = False, **fields: object) -> Cluster:
    rule = Everywhere(num_slices) if everywhere else Hashed(num_slices)
    return Cluster(**({"owners": ItemOwners(rule), "costs": COSTS, "arm": ARM} | fields))


def workload(num_items: int = 500, num_requests: int = 400, **fields: object) -> Workload:
    return generated(num_items, num_requests, poisson_gaps, **({"num_candidates": 8} | fields))


def uniform(num_requests: int, seed: int) -> Workload:
    """Poisson arrivals, of a mean that is 1 to the last digit, of requests that are all alike: the same single item."""
    gaps = poisson_gaps(num_requests, np.random.default_rng(seed))
    return Workload(
        item_tokens=np.full(1, 100, np.uint16),
        starts=np.arange(num_requests + 1, dtype=np.int64),
        items=np.zeros(num_requests, np.int32),
        history_tokens=np.full(num_requests, 100, np.int32),
        gaps=gaps / gaps.mean(),
    )


def policy(name: str) -> Policy:
    return policy_of(SchedulerSettings(policy=name))
