"""The requests that a placement is learnt from: a bounded log of item ids, and the matrix made of it."""

import json
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from rcjax.catalog.json_record import json_record
from rcjax.catalog.source import read_lines
from rcjax.disk import write_whole

DEFAULT_MAX_REQUESTS = 1_000_000


class RequestLog:
    """The last `max_requests` requests, each as the ids of its candidates and nothing else.

    Appending is O(1) and safe from any thread. `num_dropped` counts the requests that had to make room.
    """

    def __init__(self, max_requests: int = DEFAULT_MAX_REQUESTS):
        if max_requests < 1:
            raise ValueError(f"{max_requests=} must be at least 1")
        self._requests: deque[tuple[str, ...]] = deque(maxlen=max_requests)
        self._num_appended = 0

    def append(self, item_ids: Sequence[str]) -> None:
        """Logs a request, an item that it names twice once; one without items is not logged."""
        if ids := tuple(dict.fromkeys(item_ids)):
            self._requests.append(ids)
            self._num_appended += 1

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        """Oldest first."""
        return iter(self._requests)

    @property
    def num_dropped(self) -> int:
        return self._num_appended - len(self._requests)

    def save(self, path: Path) -> int:
        """Writes a line of JSON a request, `{"candidates": [ids]}`, and returns how many; `DiskError`."""
        requests = list(self._requests)
        write_whole(path, "".join(json.dumps({"candidates": ids}) + "\n" for ids in requests))
        return len(requests)

    @classmethod
    def load(cls, path: Path, max_requests: int = DEFAULT_MAX_REQUESTS, *, progress: bool = False) -> "RequestLog":
        """What `save` wrote, or a catalogue's `requests.jsonl`; `CatalogueError` names the line that is wrong."""
        log = cls(max_requests)
        for line in read_lines(path, progress=progress):
            record = json_record(line)
            ids = record.identifiers("candidates")
            if not ids:
                raise record.error("candidates", "missing")
            log.append(ids)
        return log


def request_matrix(
    requests: Iterable[Sequence[str]], row_of: Mapping[str, int], *, unknown: str = "refuse"
) -> tuple[sp.csr_array, int]:
    """[R, N] float32, 1 where a request names an item; and how many references to unknown items were left out.

    `unknown` says what an id does that has no row: "refuse" raises a ValueError, "skip" leaves it out and counts it,
    and a request of which nothing is left with it.
    """
    if unknown not in ("refuse", "skip"):
        raise ValueError(f"{unknown=} must be 'refuse' or 'skip'")
    columns, starts = array("i"), array("q", [0])
    num_skipped = 0
    for number, item_ids in enumerate(requests, start=1):
        distinct = dict.fromkeys(item_ids)
        rows = [row_of[item_id] for item_id in distinct if item_id in row_of]
        if len(rows) < len(distinct):
            if unknown == "refuse":
                missing = next(item_id for item_id in distinct if item_id not in row_of)
                raise ValueError(f"request {number} names item {missing!r}, which the catalogue lacks; add or skip it")
            num_skipped += len(distinct) - len(rows)
        if rows:
            columns.extend(rows)
            starts.append(len(columns))
    indices, indptr = np.array(columns, np.int32), np.array(starts, np.int64)
    matrix = sp.csr_array((np.ones(len(columns), np.float32), indices, indptr), (len(starts) - 1, len(row_of)))
    matrix.sort_indices()
    return matrix, num_skipped
