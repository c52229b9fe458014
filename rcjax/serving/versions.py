"""Begins and ends the library's versions, and tells the slices which of them nobody can come back to."""

import threading
from collections.abc import Sequence

from rcjax.serving.parts import Versions, Worker


class VersionKeeper:
    """Begins reads and writes, and ends them once their calls are over; any thread may use it."""

    def __init__(self, versions: Versions, workers: Sequence[Worker]):
        self._versions = versions
        self._workers = workers
        self._lock = threading.Lock()
        self._forgotten = versions.oldest

    def begin_read(self) -> int:
        return self._versions.begin_read()

    def begin_write(self) -> int:
        return self._versions.begin_write()

    def end_read(self, version: int) -> None:
        self._versions.end_read(version)
        self._forget()

    def end_write(self, version: int) -> None:
        self._versions.end_write(version)
        self._forget()

    def _forget(self) -> None:
        oldest = self._versions.oldest
        if oldest <= self._forgotten:
            return
        with self._lock:
            if oldest <= self._forgotten:
                return
            self._forgotten = oldest
        for worker in self._workers:
            worker.forget_versions(oldest)
