"""A fair queue: who floods it waits for themselves, and delays others by no more than one of their own entries."""

import heapq
import itertools
from collections.abc import Hashable
from typing import Generic, TypeVar

Entry = TypeVar("Entry", bound=Hashable)


class _Flow(Generic[Entry]):
    """What one caller has in the queue, oldest first, with its seconds; `start` is the tag of the first."""

    __slots__ = ("caller", "entries", "number", "queued_s", "start")

    def __init__(self, caller: str, start: float, number: int):
        self.caller = caller
        self.entries: dict[Entry, float] = {}
        self.queued_s = 0.0
        self.start = start
        self.number = number

    def __lt__(self, other: "_Flow[Entry]") -> bool:
        return (self.start, self.number) < (other.start, other.number)


class FairQueue(Generic[Entry]):
    """Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996) over callers, by seconds of work; no clock.

    Each caller's entries leave in their order. While two callers both wait, the seconds that each has had of the queue
    differ by no more than the largest entry of one and the largest of the other. An entry starts at the tag at which
    the one before it ended, or, where its caller had none, at that of the entry which left last; the earliest start
    leaves first. An entry that is removed is not held against its caller. Not for several threads at once; all but
    `ahead_s` takes the logarithm of the number of callers who wait.
    """

    def __init__(self) -> None:
        self._flows: dict[str, _Flow[Entry]] = {}
        self._heap: list[_Flow[Entry]] = []  # every flow of `_flows`; those without entries until their turn comes
        self._now = 0.0  # the start tag of the entry that left last
        self._numbers = itertools.count()
        self._len = 0

    def __len__(self) -> int:
        return self._len

    @property
    def queued_s(self) -> float:
        """Seconds of all entries; looks at every caller."""
        return sum(flow.queued_s for flow in self._heap)

    def push(self, caller: str, entry: Entry, seconds: float) -> None:
        """Lets an entry wait, which is in the queue no more than once."""
        flow = self._flows.get(caller)
        if flow is None:
            flow = self._flows[caller] = _Flow(caller, self._now, next(self._numbers))
            heapq.heappush(self._heap, flow)
        flow.entries[entry] = seconds
        flow.queued_s += seconds
        self._len += 1

    def first(self) -> tuple[Entry, float] | None:
        """The entry whose turn it is, and its seconds; None where there is none."""
        while self._heap:
            flow = self._heap[0]
            if flow.entries:
                return next(iter(flow.entries.items()))
            heapq.heappop(self._heap)  # nobody who waits starts before it: it has had no more than they
            del self._flows[flow.caller]
        return None

    def pop(self) -> Entry:
        """Takes the entry whose turn it is; IndexError where there is none."""
        if self.first() is None:
            raise IndexError("nobody waits in this queue")
        flow = self._heap[0]
        entry = next(iter(flow.entries))
        seconds = self._take(flow, entry)
        self._now = flow.start
        flow.start += seconds
        heapq.heapreplace(self._heap, flow)
        self._forget_if_empty()
        return entry

    def remove(self, caller: str, entry: Entry) -> None:
        """Takes out an entry of the queue, whose turn it need not be."""
        self._take(self._flows[caller], entry)
        self._forget_if_empty()

    def ahead_s(self, caller: str) -> float:
        """Seconds of the entries that would leave before one which the caller adds now; looks at every caller."""
        if not self._len:
            return 0.0
        own = self._flows.get(caller)
        start = self._now if own is None else own.start + own.queued_s
        return sum(min(flow.queued_s, max(start - flow.start, 0.0)) for flow in self._heap)

    def _take(self, flow: _Flow[Entry], entry: Entry) -> float:
        seconds = flow.entries.pop(entry)
        flow.queued_s = flow.queued_s - seconds if flow.entries else 0.0  # without what rounding left
        self._len -= 1
        return seconds

    def _forget_if_empty(self) -> None:
        """Begins anew once nobody waits: what callers had while nobody else waited is not held against them."""
        if not self._len:
            self._flows.clear()
            self._heap.clear()
            self._now = 0.0
