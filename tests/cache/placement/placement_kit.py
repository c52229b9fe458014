"""Small placement problems, and the same figures from loops over sets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from rcjax.cache.placement import Placement, PlacementInput, request_matrix


def problem(
    requests: Sequence[Sequence[int]],
    num_items: int,
    num_slices: int,
    sizes: Sequence[float] | None = None,
    seed: int = 0,
) -> PlacementInput:
    """Items i0, i1, ...; sizes are 1 where none are given."""
    ids = tuple(f"i{n}" for n in range(num_items))
    row_of = {item_id: row for row, item_id in enumerate(ids)}
    matrix, _ = request_matrix([[ids[n] for n in request] for request in requests], row_of)
    item_bytes = np.ones(num_items) if sizes is None else np.array(sizes, np.float64)
    return PlacementInput(ids, item_bytes, matrix, num_slices, seed=seed)


@st.composite
def problem_sizes(draw: st.DrawFn, *, max_items: int = 30, max_size: int = 9) -> dict[str, Any]:
    """Arguments of `problem`, which a test calls itself: beartype's checks are random, which no strategy may be."""
    num_items = draw(st.integers(2, max_items))
    item = st.integers(0, num_items - 1)
    return {
        "requests": draw(st.lists(st.lists(item, min_size=1, max_size=8, unique=True), max_size=40)),
        "num_items": num_items,
        "num_slices": draw(st.integers(1, min(num_items, 5))),
        "sizes": draw(st.lists(st.integers(1, max_size), min_size=num_items, max_size=num_items)),
        "seed": draw(st.integers(0, 3)),
    }


def overlapping_topics(seed: int, num_requests: int) -> PlacementInput:
    """Requests of six from one of eight topics of 16 items, each topic sharing half of its items with the next."""
    rng = np.random.default_rng(seed)
    topics = [np.arange(8 * n, 8 * n + 16) % 64 for n in range(8)]
    requests = [rng.choice(topics[rng.integers(8)], 6, replace=False).tolist() for _ in range(num_requests)]
    return problem(requests, 64, 8, seed=seed)


def sets(placement: Placement) -> list[set[int]]:
    """What stands on each slice: rows of items."""
    found: list[set[int]] = [set() for _ in range(placement.num_slices)]
    for row, item_id in enumerate(placement.item_ids):
        for number in placement.slices_of(item_id).tolist():
            found[number].add(row)
    return found


def lists(given: PlacementInput) -> list[set[int]]:
    """The requests as sets of rows."""
    if not given.requests.shape[0]:
        return []
    return [set(ids.tolist()) for ids in np.split(given.requests.indices, given.requests.indptr[1:-1])]


def hit_share(requests: Sequence[set[int]], slices: Sequence[set[int]]) -> float:
    """Mean over requests of the share that the best slice has, by the definition."""
    return float(np.mean([max(len(request & there) for there in slices) / len(request) for request in requests]))
