"""The outbox of a host: what its slices commit and evict, for every router that asks, in order."""

from dataclasses import dataclass

from rcjax.cache.keys import KEY_BYTES
from rcjax.cluster.ray.feed import Feed
from rcjax.serving.residency import Residency

MAX_MESSAGES = 2**17  # kept for routers that have not asked yet; one that comes later gets all keys instead
MAX_SENT = 2**14  # at once: half a megabyte


@dataclass(frozen=True, slots=True)
class Messages:
    """Residency messages up to `end`, which the next question gives back.

    Of message n, `marks[n]` is twice the slice's number, plus 1 for a commit; `keys` has the keys one after another.
    """

    end: int
    marks: bytes
    keys: bytes

    def __len__(self) -> int:
        return len(self.marks)

    def tell(self, residency: Residency, first_place: int) -> None:
        """Passes them on to a router's residency, where the slices have the places from `first_place` on."""
        for number, mark in enumerate(self.marks):
            key = self.keys[number * KEY_BYTES : (number + 1) * KEY_BYTES]
            (residency.commit if mark % 2 else residency.evict)(first_place + mark // 2, key)


class Outbox:
    """Keeps the messages of a host's slices; any thread puts."""

    def __init__(self) -> None:
        self.feed: Feed[tuple[int, bytes]] = Feed(MAX_MESSAGES)

    def put(self, number: int, key: bytes, *, is_commit: bool) -> None:
        self.feed.put((2 * number + is_commit, key))

    def since(self, after: int) -> Messages | None:
        """The messages from `after` on, as many as are sent at once; None where some of them are kept no longer."""
        some = self.feed.since(after, MAX_SENT)
        if some is None:
            return None
        return Messages(after + len(some), bytes(mark for mark, _ in some), b"".join(key for _, key in some))


class ToldResidency(Residency):
    """The residency of a host's own slices, each change of which goes to the outbox too."""

    def __init__(self, num_slices: int, outbox: Outbox):
        super().__init__(num_slices)
        self._outbox = outbox

    def commit(self, index: int, key: bytes) -> None:
        super().commit(index, key)
        self._outbox.put(index, key, is_commit=True)

    def evict(self, index: int, key: bytes) -> None:
        super().evict(index, key)
        self._outbox.put(index, key, is_commit=False)
