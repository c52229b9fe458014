"""The items of a simulated catalogue, and the requests that come: arrays, for millions of items."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int32, Int64, UInt16

from rcjax.cache.keys import KEY_BYTES
from rcjax.cluster.arrivals import recorded_gaps
from rcjax.errors import NotFoundError

MEAN_ITEM_TOKENS = 87  # of the paper's Amazon data
MEAN_HISTORY_TOKENS = 500
MAX_ITEM_TOKENS = 1024
ZIPF_EXPONENT = 0.8  # as in the generated shop
NEIGHBOURHOOD = 50  # items
_OVERSAMPLED = 6  # draws for each candidate, of which repetitions are left out


@dataclass(frozen=True, eq=False)
class Workload:
    """Requests in the order in which they come: those of r are `items[starts[r]:starts[r + 1]]`, by their numbers.

    `gaps` are between arrivals, the first before request 0, with a mean of 1; a rate stretches them. `id_of` gives
    the id of an item, by which placements know it.
    """

    item_tokens: UInt16[np.ndarray, "N"]
    starts: Int64[np.ndarray, "R1"]
    items: Int32[np.ndarray, "M"]
    history_tokens: Int32[np.ndarray, "R"]
    gaps: Float64[np.ndarray, "R"]
    id_of: Callable[[int], str] = str

    @property
    def num_items(self) -> int:
        return len(self.item_tokens)

    @property
    def num_requests(self) -> int:
        return len(self.gaps)

    @cached_property
    def num_candidates(self) -> Int64[np.ndarray, "R"]:
        return np.diff(self.starts)

    @cached_property
    def request_item_tokens(self) -> Int64[np.ndarray, "R"]:
        """The tokens of all items of each request."""
        tokens = np.concatenate([[0], np.cumsum(self.item_tokens[self.items], dtype=np.int64)])
        return tokens[self.starts[1:]] - tokens[self.starts[:-1]]

    @cached_property
    def keys(self) -> bytes:
        """A key for each entry of `items`, one behind the other: in place of content hashes, as well spread."""
        parts = np.zeros((len(self.items), KEY_BYTES // 8), "<u8")
        parts[:, 0] = _mixed(self.items.astype(np.uint64))
        parts[:, 1] = self.items
        return parts.tobytes()


def generated(
    num_items: int,
    num_requests: int,
    gaps: Callable[[int, np.random.Generator], Float64[np.ndarray, "R"]],
    *,
    num_candidates: int = 20,
    locality: float = 0.9,
    seed: int = 0,
) -> Workload:
    """Requests whose candidates come from one neighbourhood each with probability `locality`, else from anywhere.

    Neighbourhoods are groups of 50 items. Both are drawn by popularity, which follows Zipf's law. The catalogue and
    its neighbourhoods are the same for every seed; the requests are not. ValueError for sizes that do not go together.
    """
    if not 1 <= num_candidates <= num_items:
        raise ValueError(f"{num_candidates=} must be from 1 to the number of items, {num_items}")
    if not 0 <= locality <= 1:
        raise ValueError(f"{locality=} must be from 0 to 1")
    if num_requests < 1:
        raise ValueError(f"{num_requests=} must be at least 1")
    catalogue = np.random.default_rng(2605)
    order = catalogue.permutation(num_items).astype(np.int32)  # neighbourhoods one behind the other
    weights = catalogue.permutation(np.arange(1, num_items + 1) ** -ZIPF_EXPONENT)  # by place in `order`
    item_tokens = _lengths(MEAN_ITEM_TOKENS, num_items, catalogue, MAX_ITEM_TOKENS).astype(np.uint16)
    rng = np.random.default_rng(seed)
    totals = np.cumsum(weights)
    starts, items = [0], []
    for first in range(0, num_requests, 10_000):  # so that draws take little memory
        for row in _candidates(totals, min(10_000, num_requests - first), num_candidates, locality, rng):
            items.append(order[row])
            starts.append(starts[-1] + len(row))
    return Workload(
        item_tokens=item_tokens,
        starts=np.array(starts, np.int64),
        items=np.concatenate(items),
        history_tokens=_lengths(MEAN_HISTORY_TOKENS, num_requests, rng, 4 * MEAN_HISTORY_TOKENS),
        gaps=gaps(num_requests, rng),
    )


def _candidates(
    totals: Float64[np.ndarray, "N"], num_requests: int, num_candidates: int, locality: float, rng: np.random.Generator
) -> list[Int64[np.ndarray, "_"]]:
    """For each request the places of its distinct candidates; fewer where the draws repeat themselves too often."""
    width = _OVERSAMPLED * num_candidates
    first = (
        np.searchsorted(totals, rng.random(num_requests) * totals[-1], side="right") // NEIGHBOURHOOD * NEIGHBOURHOOD
    )
    last = np.minimum(first + NEIGHBOURHOOD, len(totals)) - 1
    low, high = totals[first - 1] * (first > 0), totals[last]
    is_near = rng.random((num_requests, width)) < locality
    at = rng.random((num_requests, width))
    wanted = np.where(is_near, low[:, None] + at * (high - low)[:, None], at * totals[-1])
    places = np.minimum(np.searchsorted(totals, wanted, side="right"), len(totals) - 1)
    rows = []
    for row in places:
        _, firsts = np.unique(row, return_index=True)
        rows.append(row[np.sort(firsts)[:num_candidates]])
    return rows


def recorded(path: Path, *, seed: int = 0, gaps: Callable[[int, np.random.Generator], np.ndarray]) -> Workload:
    """The requests of a log: JSON lines of `candidates`, ids; and `at_s`, the second at which each came.

    Where no line has `at_s`, arrivals are drawn by `gaps`. Lengths are drawn as in `generated`. ValueError names the
    line that is wrong; `NotFoundError` where there is no such file.
    """
    number_of: dict[str, int] = {}
    starts, items, at_s = [0], [], []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise NotFoundError(f"{path}: no such file of requests") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            ids = dict.fromkeys(map(str, record["candidates"]))
            if not ids:
                raise ValueError("candidates is empty")
            at_s += [float(record["at_s"])] if "at_s" in record else []
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: no request: {error!r}") from error
        items += [number_of.setdefault(item_id, len(number_of)) for item_id in ids]
        starts.append(len(items))
    num_requests = len(starts) - 1
    if not num_requests or len(at_s) not in (0, num_requests):
        raise ValueError(f"{path}: {num_requests} requests, {len(at_s)} with at_s; all need it, or none")
    rng = np.random.default_rng(seed)
    item_ids = tuple(number_of)
    return Workload(
        item_tokens=_lengths(MEAN_ITEM_TOKENS, len(item_ids), rng, MAX_ITEM_TOKENS).astype(np.uint16),
        starts=np.array(starts, np.int64),
        items=np.array(items, np.int32),
        history_tokens=_lengths(MEAN_HISTORY_TOKENS, num_requests, rng, 4 * MEAN_HISTORY_TOKENS),
        gaps=recorded_gaps(np.array(at_s)) if at_s else gaps(num_requests, rng),
        id_of=item_ids.__getitem__,
    )


def _lengths(mean: int, count: int, rng: np.random.Generator, most: int) -> Int32[np.ndarray, "_"]:
    """Log-normal, sigma a half, at least 8."""
    return np.clip(rng.lognormal(np.log(mean) - 0.125, 0.5, count), 8, most).astype(np.int32)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64: a bijection of 64 bits whose results look drawn at random."""
    z = numbers + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
