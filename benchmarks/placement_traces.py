"""The requests of benchmarks/placement.py: users of a data set, and generated ones of which everything is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from rcjax.cache.placement import request_matrix, similar_items
from rcjax.cache.placement.method import silent
from rcjax.catalog import load_catalogue, shop
from rcjax.catalog.draws import Draws
from rcjax.catalog.shop_departments import DEPARTMENTS
from rcjax.commands.place import item_text, text_bytes

NUM_CANDIDATES = 20
ZIPF_EXPONENT = 0.8  # as in the generated shop
NEIGHBOURHOOD = 50  # items
_OVERSAMPLED = 6  # draws for each candidate, of which repetitions are left out


@dataclass(frozen=True, eq=False)
class Trace:
    """Items, and requests to learn from and to test on: [R, N], 1 where a request names an item."""

    name: str
    item_ids: tuple[str, ...]
    item_bytes: np.ndarray
    learnt: sp.csr_array
    held: sp.csr_array
    similarity: sp.csr_array | None = None

    def described(self) -> str:
        sizes = f"{self.learnt.shape[0]:,} + {self.held.shape[0]:,} requests of {np.diff(self.held.indptr).mean():.1f}"
        return f"{self.name}: {len(self.item_ids):,} items, {sizes} items each"


def beauty(folder: Path, num_splits: int) -> list[Trace]:
    """Each user's items as one request; the splits hold out a different fifth of the users each, at random."""
    catalogue, _ = load_catalogue(folder, progress=False)
    ids = tuple(catalogue.items)
    row_of = {item_id: row for row, item_id in enumerate(ids)}
    similarity = similar_items(map(item_text, catalogue.items.values()), silent)
    events = [[event.item_id for event in user.events] for user in catalogue.users.values()]
    users, _ = request_matrix(events, row_of, unknown="skip")
    traces = []
    for seed in range(num_splits):
        order = np.random.default_rng(seed).permutation(users.shape[0])
        first = int(0.8 * len(order))
        parts = (users[order[:first]], users[order[first:]])
        traces.append(Trace("beauty", ids, text_bytes(catalogue.items), *parts, similarity))
    return traces


def three_categories(num_items: int, num_requests: int, *, related: bool, seed: int = 0) -> Trace:
    """Products of the generated shop; a request's candidates come from three kinds of them, by popularity.

    The kinds are drawn by popularity, independently of each other, or with `related` all from one department and those
    that go with it.
    """
    rng = np.random.default_rng(seed)
    products = list(shop.products(Draws(seed, 0), num_items))
    kinds = sorted({(product.department, product.kind) for product in products})
    number = {kind: n for n, kind in enumerate(kinds)}
    kind_of = np.array([number[product.department, product.kind] for product in products])
    popularity = _zipf(num_items, rng)
    weight = np.bincount(kind_of, popularity)
    chosen = rng.choice(len(kinds), (num_requests, 3), p=weight / weight.sum())
    if related:
        goes_with = {d.name: {d.name, *d.related} for d in DEPARTMENTS}
        close = np.array([[k[0] in goes_with[of[0]] for k in kinds] for of in kinds]) * weight
        for place in (1, 2):
            chosen[:, place] = _draw_rows(close[chosen[:, 0]], rng)
    requests = _first_distinct(_from_groups(kind_of, popularity, chosen, rng), NUM_CANDIDATES, num_items)
    items = {product.item.item_id: product.item for product in products}
    name = "related kinds" if related else "three kinds"
    return _trace(name, list(items), text_bytes(items), requests)


def local(num_items: int, num_requests: int, locality: float, *, overlapping: bool = False, seed: int = 0) -> Trace:
    """A retriever that draws each of 20 candidates from one neighbourhood with probability `locality`, else from all.

    Both by popularity, without repetition. Neighbourhoods are groups of 50 items, or with `overlapping` each item and
    the 49 nearest to it of points in 8 dimensions.
    """
    rng = np.random.default_rng(seed)
    popularity = _zipf(num_items, rng)
    width = NUM_CANDIDATES * _OVERSAMPLED
    everywhere = _draw(popularity, (num_requests, width), rng)
    if overlapping:
        points = rng.standard_normal((num_items, 8)).astype(np.float32)
        near = _drawn_near(points, popularity, num_requests, width, rng)
    else:
        group = rng.permutation(num_items) // NEIGHBOURHOOD
        weight = np.bincount(group, popularity)
        near = _from_groups(group, popularity, _draw(weight, (num_requests, 1), rng), rng)
    num_near = rng.binomial(NUM_CANDIDATES, locality, num_requests)
    requests = _first_distinct(near, num_near, num_items)
    requests += _first_distinct(everywhere, NUM_CANDIDATES - num_near, num_items)
    requests.data[:] = 1.0  # an item may be in both
    name = f"local {locality:g}" + (", overlapping" if overlapping else "")
    return _trace(name, [str(n) for n in range(num_items)], np.ones(num_items), requests)


def large(num_items: int, num_requests: int, seed: int = 0) -> Trace:
    """As `three_categories`, without the shop's texts: categories of 100 items, each with 8 that go with it."""
    rng = np.random.default_rng(seed)
    category = rng.permutation(num_items) // 100
    popularity = _zipf(num_items, rng)
    weight = np.bincount(category, popularity)
    goes_with = rng.integers(0, len(weight), (len(weight), 8))
    parts = []
    for begin in range(0, num_requests, 25_000):  # so that what is drawn takes little memory beside the placement
        first = _draw(weight, (min(25_000, num_requests - begin), 1), rng)
        others = goes_with[first, rng.integers(0, 8, (len(first), 2))]
        candidates = _from_groups(category, popularity, np.concatenate([first, others], axis=1), rng)
        parts.append(_first_distinct(candidates, NUM_CANDIDATES, num_items))
    requests = sp.csr_array(sp.vstack(parts, format="csr"))
    sizes = rng.integers(200, 1000, num_items).astype(np.float64)
    return _trace("large", [f"item-{n:07d}" for n in range(num_items)], sizes, requests)


def _trace(name: str, item_ids: Sequence[str], item_bytes: np.ndarray, requests: sp.csr_array) -> Trace:
    first = int(0.8 * requests.shape[0])
    return Trace(name, tuple(item_ids), item_bytes, requests[:first], requests[first:])


def _zipf(n: int, rng: np.random.Generator) -> np.ndarray:
    weights = np.arange(1, n + 1) ** -ZIPF_EXPONENT
    return rng.permutation(weights / weights.sum())


def _draw(weights: np.ndarray, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    totals = np.cumsum(weights)
    return np.searchsorted(totals, rng.random(shape) * totals[-1], side="right").astype(np.int32)


def _draw_rows(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A column for each row of weights."""
    totals = np.cumsum(weights, axis=1)
    return (totals < rng.random((len(weights), 1)) * totals[:, -1:]).sum(axis=1)


def _from_groups(group: np.ndarray, popularity: np.ndarray, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[R, width] items, each of a group drawn from the request's, by popularity within it."""
    order = np.argsort(group, kind="stable")
    totals = np.cumsum(popularity[order])
    ends = np.cumsum(np.bincount(group))
    upper = totals[ends - 1]
    lower = np.concatenate([[0.0], upper[:-1]])
    width = NUM_CANDIDATES * _OVERSAMPLED
    which = np.take_along_axis(chosen, rng.integers(0, chosen.shape[1], (len(chosen), width)), axis=1)
    at = np.searchsorted(totals, lower[which] + rng.random(which.shape) * (upper - lower)[which], side="right")
    return order[np.minimum(at, ends[which] - 1)].astype(np.int32)


def _drawn_near(
    points: np.ndarray, popularity: np.ndarray, num_requests: int, width: int, rng: np.random.Generator
) -> np.ndarray:
    centres, of_request = np.unique(_draw(popularity, (num_requests, 1), rng), return_inverse=True)
    squares = (points**2).sum(axis=1)
    found = [
        np.argpartition(squares - 2 * points @ points[centre], NEIGHBOURHOOD)[:NEIGHBOURHOOD] for centre in centres
    ]
    near = np.array(found, np.int32)
    totals = np.cumsum(popularity[near], axis=1)[of_request.reshape(-1)]
    drawn = rng.random((num_requests, width)) * totals[:, -1:]
    at = np.stack([(totals < column[:, None]).sum(axis=1) for column in drawn.T], axis=1)
    return np.take_along_axis(near[of_request.reshape(-1)], at, axis=1)


def _first_distinct(candidates: np.ndarray, count: int | np.ndarray, num_items: int) -> sp.csr_array:
    """Each row's first `count` distinct items; fewer where it has no more. [R, num_items], 1 where an item is."""
    order = np.argsort(candidates, axis=1, kind="stable")
    ascending = np.take_along_axis(candidates, order, axis=1)
    is_first = np.ones(candidates.shape, bool)
    is_first[:, 1:] = ascending[:, 1:] != ascending[:, :-1]
    kept = np.zeros(candidates.shape, bool)
    np.put_along_axis(kept, order, is_first, axis=1)
    kept &= np.cumsum(kept, axis=1) <= np.broadcast_to(count, len(candidates))[:, None]
    rows, places = np.nonzero(kept)
    data = np.ones(len(rows), np.float32)
    return sp.csr_array((data, (rows, candidates[rows, places])), (len(candidates), num_items))
