"""The library as its keeper has it: what writes change is told to followers, whose reads hold versions back."""

import threading
from collections.abc import Callable, Iterable

from rcjax.cluster.ray.feed import Feed
from rcjax.cluster.ray.records import Record, record_of
from rcjax.engine.library import Library
from rcjax.engine.plan import Change
from rcjax.engine.versions import Versions

MAX_CHANGES = 2**16  # writes that are kept for followers; one that missed more takes all over anew
LEASE_S = 30.0  # a follower that has not asked for so long reads nothing any more


class Followers:
    """Who follows, and the oldest version that each of them reads. Any thread may use it; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._lock = threading.Lock()
        self._oldest: dict[str, tuple[int, float]] = {}  # and when it was said

    def __len__(self) -> int:
        with self._lock:
            self._let_go()
            return len(self._oldest)

    def heard(self, follower: str, oldest: int) -> None:
        with self._lock:
            self._oldest[follower] = oldest, self._clock()

    def oldest(self, newest: int) -> int:
        """Of all that follow; `newest` where nobody does."""
        with self._lock:
            self._let_go()
            return min((version for version, _ in self._oldest.values()), default=newest)

    def _let_go(self) -> None:
        now_s = self._clock()
        self._oldest = {name: one for name, one in self._oldest.items() if now_s - one[1] < LEASE_S}


class KeptVersions(Versions):
    """Versions of which followers read some: what they still read is alive."""

    def __init__(self, followers: Followers):
        super().__init__()
        self._followers = followers

    @property
    def oldest(self) -> int:
        oldest = super().oldest
        return min(oldest, self._followers.oldest(oldest))


class KeptLibrary(Library):
    """A library whose changes go into `feed`, each write's together."""

    def __init__(self, max_cache_bytes: int, followers: Followers):
        super().__init__(max_cache_bytes)
        self.versions = KeptVersions(followers)
        self.feed: Feed[tuple[Record, ...]] = Feed(MAX_CHANGES)

    def replay(self, changes: Iterable[Change], version: int) -> int:
        changes = tuple(changes)
        num_deleted = super().replay(changes, version)
        self.feed.put(tuple(record_of(change, version) for change in changes))
        return num_deleted
