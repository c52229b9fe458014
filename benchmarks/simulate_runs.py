"""The simulated clusters of benchmarks/simulate.py, and one run of one of them, in a process of its own."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.sparse as sp

from rcjax.cache.placement import OverlapMethod, PlacementInput
from rcjax.cache.placement.method import silent
from rcjax.cluster.simulation import (
    MODELLED_8B,
    Cluster,
    Link,
    Reuse,
    SimulatedArm,
    Workload,
    bursty_gaps,
    capacity_per_s,
    generated,
    poisson_gaps,
    simulate,
)
from rcjax.config import SchedulerSettings
from rcjax.engine.origin import Origin
from rcjax.serving.owners import ItemOwners, Placed
from rcjax.serving.routing import policy_of
from rcjax.serving.scheduler import Policy, Sight

LEARNT_SEED = 1_000_000  # of the requests that placements are learnt from, which no run has
BUDGET_FACTOR = 1.25  # bytes of all slices over the catalogue's
REPLICA_SHARE = 0.1
QUANTILES = tuple(np.linspace(0.0, 1.0, 201).tolist())


@dataclass(frozen=True, slots=True)
class Setting:
    """A cluster: `link_gbps` of 0 means that what misses is computed, as in the paper."""

    num_slices: int
    num_items: int
    num_requests: int
    reuse: str = "rcjax"
    recomputed: float = 0.3
    link_gbps: float = 0.0
    bursty: bool = False
    locality: float = 0.9


@dataclass(frozen=True, slots=True)
class Run:
    """One run: at `load` of the setting's capacity, or at `rate_per_s` where that is given."""

    setting: Setting
    policy: str
    seed: int
    load: float = 0.0
    rate_per_s: float = 0.0
    alpha: float = 1.0


class GreedyTime:
    """`time` with misses that count once under any load: each request where it alone is answered first.

    It does not serve: it shows why misses have to count for those behind, too.
    """

    name = "greedy"

    def choose(self, sight: Sight) -> int:
        return sight.least(sight.waiting_s - sight.held(sight.wants.miss_s))


@lru_cache(maxsize=4)
def cluster_of(setting: Setting) -> Cluster:
    placement = _placed(setting.num_slices, setting.num_items, setting.locality)
    item_tokens = generated(setting.num_items, 1, poisson_gaps).item_tokens
    placed_tokens = BUDGET_FACTOR * float(item_tokens.sum(dtype=np.int64)) / setting.num_slices
    return Cluster(
        ItemOwners(placement),
        MODELLED_8B,
        SimulatedArm(Reuse(setting.reuse), setting.recomputed),
        cache_tokens=int(REPLICA_SHARE * placed_tokens),
        links={Origin.SLICE: Link(setting.link_gbps * 1e9 / 8)} if setting.link_gbps else {},
    )


@lru_cache(maxsize=4)
def _placed(num_slices: int, num_items: int, locality: float) -> Placed:
    learnt = generated(num_items, 5 * num_items, poisson_gaps, locality=locality, seed=LEARNT_SEED)
    ones = np.ones(len(learnt.items), np.float32)
    requests = sp.csr_array((ones, learnt.items, learnt.starts), (learnt.num_requests, num_items))
    requests.sort_indices()
    ids = tuple(map(str, range(num_items)))
    given = PlacementInput(ids, learnt.item_tokens.astype(np.float64), requests, num_slices)
    return Placed(OverlapMethod(BUDGET_FACTOR).place(given, silent))


@lru_cache(maxsize=32)
def workload_of(setting: Setting, seed: int) -> Workload:
    gaps = bursty_gaps if setting.bursty else poisson_gaps
    return generated(setting.num_items, setting.num_requests, gaps, locality=setting.locality, seed=seed)


@lru_cache(maxsize=64)
def capacity_of(setting: Setting) -> float:
    """Of the requests of seed 0, for all seeds."""
    return capacity_per_s(cluster_of(setting), workload_of(setting, 0))


def new_policy(run: Run) -> Policy:
    if run.policy == GreedyTime.name:
        return GreedyTime()
    return policy_of(SchedulerSettings(policy=run.policy, alpha=run.alpha))


def figures_of(run: Run) -> dict[str, Any]:
    """What the run found, with its distribution of TTFT at `QUANTILES`."""
    cluster, workload = cluster_of(run.setting), workload_of(run.setting, run.seed)
    rate_per_s = run.rate_per_s or run.load * capacity_of(run.setting)
    outcome = simulate(cluster, workload, new_policy(run), rate_per_s)
    return outcome.figures() | {"rate_per_s": rate_per_s, "ttft_quantiles_s": outcome.quantiles_s(QUANTILES)}
