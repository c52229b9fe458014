"""The log of requests that placements and distilled models are learnt from, and the matrix made of it."""

import json
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from rcjax.catalog.json_record import json_record
from rcjax.catalog.record import Record
from rcjax.catalog.source import read_lines
from rcjax.catalog.types import Request
from rcjax.disk import write_whole

DEFAULT_MAX_REQUESTS = 1_000_000


class RequestLog:
    """The last `max_requests` requests, each as the ids of its user and its candidates and nothing else.

    Any thread may call it. `num_dropped` counts the requests that had to make room.
    """

    def __init__(self, max_requests: int = DEFAULT_MAX_REQUESTS):
        if max_requests < 1:
            raise ValueError(f"{max_requests=} must be at least 1")
        self._requests: deque[Request] = deque(maxlen=max_requests)
        self._num_appended = 0
        self._lock = threading.Lock()  # of what becomes of a user's requests while they are being forgotten

    def append(self, item_ids: Sequence[str], user_id: str = "", is_known: Callable[[], bool] = lambda: True) -> None:
        """Logs a request in O(1), an item that it names twice once; one without items is not logged.

        The user is left out where `is_known`, which is asked right before, says that there is no such user any more.
        """
        if ids := tuple(dict.fromkeys(item_ids)):
            with self._lock:
                self._requests.append(Request(user_id if user_id and is_known() else "", ids))
                self._num_appended += 1

    def forget_user(self, user_id: str) -> None:
        """Takes the user's id from all requests; a user whom `append` does not find known any more stays forgotten."""
        with self._lock:
            kept = (Request("", r.candidates) if r.user_id == user_id else r for r in self._requests)
            self._requests = deque(kept, self._requests.maxlen)

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        """The candidates of each request, oldest first."""
        return (request.candidates for request in self.requests)

    @property
    def requests(self) -> list[Request]:
        """Oldest first; `user_id` is empty where no user is known."""
        with self._lock:
            return list(self._requests)

    @property
    def num_dropped(self) -> int:
        return self._num_appended - len(self._requests)

    def save(self, path: Path) -> int:
        """Writes a line of JSON a request, `{"user_id": id, "candidates": [ids]}`, and returns how many; `DiskError`.

        A request of no known user has no `user_id`.
        """
        requests = self.requests
        write_whole(path, "".join(json.dumps(_record(request)) + "\n" for request in requests))
        return len(requests)

    @classmethod
    def load(cls, path: Path, max_requests: int = DEFAULT_MAX_REQUESTS, *, progress: bool = False) -> "RequestLog":
        """What `save` wrote, or a catalogue's `requests.jsonl`, whose targets are kept; `CatalogueError` names the line
        that is wrong."""
        log = cls(max_requests)
        for line in read_lines(path, progress=progress):
            record = json_record(line)
            ids = record.identifiers("candidates")
            if not ids:
                raise record.error("candidates", "missing")
            user_id, target = (_identifier(record, field) for field in ("user_id", "target"))
            if target and target not in ids:
                raise record.error("target", f"{target!r} is not among the candidates")
            log._requests.append(Request(user_id, tuple(dict.fromkeys(ids)), target or None))
            log._num_appended += 1
        return log


def _identifier(record: Record, field: str) -> str:
    return "" if record.values.get(field) is None else record.identifier(field)


def _record(request: Request) -> dict[str, object]:
    user = {"user_id": request.user_id} if request.user_id else {}
    return {**user, "candidates": request.candidates}


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
