"""What a simulated cluster could answer at most, whichever policy chooses."""

import numpy as np

from rcjax.cluster.simulation.cluster import Cluster
from rcjax.cluster.simulation.workload import Workload
from rcjax.engine.origin import Origin


def capacity_per_s(cluster: Cluster, workload: Workload) -> float:
    """Requests a second of slices that never wait, in full passes, each request where most of its items are placed.

    What is missing there comes from its cheapest source; links and passes run side by side, and the slower of the two
    counts. No policy reaches it: requests would have to come evenly to the slices that hold their items.
    """
    costs = cluster.costs
    pass_s = np.array([costs.pass_s(size) for size in cluster.arm.sizes(workload).as_list()])
    busy_s = pass_s.mean() - costs.begin_s * (1 - 1 / cluster.max_batch)
    link = cluster.links.get(Origin.SLICE) if cluster.num_slices > 1 else None
    missing = _missing_tokens(cluster, workload) if cluster.arm.wants_items else np.zeros(1)
    if link is not None and costs.token_bytes / link.bytes_per_s < costs.build_s(1):
        link_s = float(np.where(missing > 0, link.begin_s + missing * (costs.token_bytes / link.bytes_per_s), 0).mean())
        return float(cluster.num_slices / max(busy_s, link_s))
    return float(cluster.num_slices / (busy_s + costs.build_s(1) * float(missing.mean())))


def _missing_tokens(cluster: Cluster, workload: Workload) -> np.ndarray:
    """Of each request the tokens of its items that are not on the slice with most of them."""
    slices_of: dict[int, tuple[int, ...]] = {}
    missing = workload.request_item_tokens.astype(np.float64)
    items, tokens = workload.items.tolist(), workload.item_tokens[workload.items].tolist()
    starts = workload.starts.tolist()
    for number in range(workload.num_requests):
        held: dict[int, int] = {}
        for at in range(starts[number], starts[number + 1]):
            item = items[at]
            if item not in slices_of:
                slices_of[item] = cluster.owners.slices_of(workload.id_of(item))
            for index in slices_of[item]:
                held[index] = held.get(index, 0) + tokens[at]
        missing[number] -= max(held.values())
    return missing
