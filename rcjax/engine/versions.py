"""Versions: what a plan or a write may have seen of the library, as a number."""

import threading
from collections import OrderedDict


class Versions:
    """Numbers writes from 1, and knows which reads and writes are alive. Any thread may call it.

    A read of version v sees every write up to v, and perhaps some later ones: v is below every write that was alive
    when the read began. So what a read found of an owner is older than a later write of that owner, whatever the order
    in which writes end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest = 0
        self._writes: OrderedDict[int, None] = OrderedDict()  # alive; ascending
        self._reads: OrderedDict[int, int] = OrderedDict()  # version: how many are alive; ascending, as it never falls

    def follow(self, version: int) -> None:
        """Has reads begin at `version` or later: all writes up to it, which were made elsewhere, are seen here."""
        with self._lock:
            self._newest = max(self._newest, version)

    def begin_read(self) -> int:
        with self._lock:
            version = self._readable()
            self._reads[version] = self._reads.get(version, 0) + 1
            return version

    def end_read(self, version: int) -> None:
        with self._lock:
            left = self._reads[version] - 1
            if left:
                self._reads[version] = left
            else:
                del self._reads[version]

    def begin_write(self) -> int:
        """A new version, larger than all before."""
        with self._lock:
            self._newest += 1
            self._writes[self._newest] = None
            return self._newest

    def end_write(self, version: int) -> None:
        with self._lock:
            del self._writes[version]

    @property
    def newest(self) -> int:
        """The last version that a write was given."""
        return self._newest

    @property
    def readable(self) -> int:
        """The version of a read that begins now."""
        with self._lock:
            return self._readable()

    @property
    def oldest(self) -> int:
        """No read or write older than this is alive, nor will one be."""
        with self._lock:
            return next(iter(self._reads), self._readable())

    def _readable(self) -> int:
        return next(iter(self._writes), self._newest + 1) - 1
