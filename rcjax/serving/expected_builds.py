"""Expected builds: the blocks that no slice holds and that a request which was let in will have computed."""

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any


class ExpectedBuilds:
    """Which call a block that no slice holds is computed for; others that lack it wait for the same computation.

    Where a slice was lost, many requests that wait lack the same blocks: if each were estimated with all it lacks, they
    would be refused for work that is done once. Any thread may use it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of the two below
        self._call_of: dict[bytes, Future[Any]] = {}
        self._keys_of: dict[Future[Any], list[bytes]] = {}

    def __len__(self) -> int:
        return len(self._call_of)

    def claim(self, call: Future[Any], keys: Iterable[bytes]) -> set[bytes]:
        """Those of the blocks that are computed for no other call: until its release they are for this one."""
        with self._lock:
            own = {key for key in keys if self._call_of.get(key, call) is call}
            if own:
                self._call_of.update(dict.fromkeys(own, call))
                self._keys_of.setdefault(call, []).extend(own)
        return own

    def release(self, call: Future[Any]) -> None:
        """The call is over: its blocks are held by now, or count for whoever is next to lack them.

        Calls that wait already keep their estimates: too low where this one left before its blocks were computed.
        """
        with self._lock:
            for key in self._keys_of.pop(call, ()):
                self._call_of.pop(key, None)
