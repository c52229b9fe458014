"""A feed: entries in order, for readers in other processes that ask for what they have not seen."""

import asyncio
import threading
from collections import deque
from itertools import islice
from typing import Generic, TypeVar

T = TypeVar("T")


class Feed(Generic[T]):
    """Numbers entries from 0 and keeps the last `max_entries`. Any thread puts; an event loop reads and waits."""

    def __init__(self, max_entries: int):
        self._lock = threading.Lock()  # of all below
        self._entries: deque[T] = deque(maxlen=max_entries)
        self._end = 0
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def end(self) -> int:
        """The number of the next entry."""
        return self._end

    def put(self, entry: T) -> None:
        with self._lock:
            self._entries.append(entry)
            self._end += 1
        self.wake()

    def wake(self) -> None:
        """Has readers wait no longer, whether there is something new or not."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)

    def since(self, after: int, limit: int) -> list[T] | None:
        """The entries from `after` on, but no more than `limit`; None where some of them are kept no longer."""
        with self._lock:
            first = self._end - len(self._entries)
            if not first <= after <= self._end:
                return None
            return list(islice(self._entries, after - first, after - first + limit))

    async def wait(self, after: int, timeout_s: float) -> None:
        """Waits for the entry `after` or a `wake`, but no longer than `timeout_s`."""
        event = asyncio.Event()
        with self._lock:
            if self._end > after:
                return
            self._waiting.append((asyncio.get_running_loop(), event))
        try:
            await asyncio.wait_for(event.wait(), timeout_s)
        except TimeoutError:
            with self._lock:
                self._waiting = [one for one in self._waiting if one[1] is not event]
