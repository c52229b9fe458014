"""Memory balance of a partition: no slice may have more than its share of the bytes and 3%."""

import numpy as np
import scipy.sparse as sp
from jaxtyping import Float64, Int64

MAX_MEMORY_IMBALANCE = 1.03


def levelled(
    part: Int64[np.ndarray, "N"], item_bytes: Float64[np.ndarray, "N"], num_slices: int, graph: sp.csr_array
) -> Int64[np.ndarray, "N"]:
    """The partition with items moved from slices that have too much, those first that the graph ties least to them.

    Partitioners keep to a balance only about. An item moves to the emptiest slice that can take it; where items are so
    large that none can, the partition stays as uneven as they make it.
    """
    part = part.copy()
    limit = MAX_MEMORY_IMBALANCE * item_bytes.sum() / num_slices
    used = np.bincount(part, item_bytes, minlength=num_slices)
    for crowded in np.flatnonzero(used > limit):
        members = np.flatnonzero(part == crowded)
        ties = graph[members][:, members].sum(axis=1)
        for item in members[np.argsort(np.asarray(ties).reshape(-1) / item_bytes[members], kind="stable")]:
            if used[crowded] <= limit:
                break
            emptiest = int(used.argmin())
            if used[emptiest] + item_bytes[item] <= limit:
                part[item] = emptiest
                used[crowded] -= item_bytes[item]
                used[emptiest] += item_bytes[item]
    return part
