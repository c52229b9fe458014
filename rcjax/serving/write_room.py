"""The room for writes: how many seconds of building may be under way, and how many of them one caller's."""

import threading
from collections import defaultdict
from concurrent.futures import Future
from typing import Any

from rcjax.catalog.types import Event, Item
from rcjax.errors import ResourceExhaustedError
from rcjax.request import AppendEvents, PutItems, PutUser, Write
from rcjax.serving.scheduler import MissCosts

CHARACTERS_PER_TOKEN = 4  # about what tokenizers make of English; a write is let in before it is tokenised
WRITE_S = 1e-3  # of a write that builds nothing
SOON_S = 0.1  # nobody need come back before


class WriteRoom:
    """Lets writes in while `max_s` seconds of them or fewer are under way; any thread may use it.

    A caller may have as much under way as is left for others, so that one who floods leaves room for all. A write that
    finds none under way is let in, however long it takes.
    """

    def __init__(self, max_s: float, costs: MissCosts):
        self.num_rejected = 0
        self._max_s = max_s
        self._costs = costs
        self._lock = threading.Lock()  # of all below, and of `num_rejected`
        self._under_way: dict[Future[Any], tuple[str, float]] = {}
        self._own_s: defaultdict[str, float] = defaultdict(float)  # by caller
        self._total_s = 0.0

    def __len__(self) -> int:
        return len(self._under_way)

    def check(self, caller: str) -> None:
        """`ResourceExhaustedError`, which says when to come back, where there is no room."""
        with self._lock:
            own_s, total_s = self._own_s.get(caller, 0.0), self._total_s
            over_s = own_s + total_s - self._max_s
            if not self._under_way or over_s <= 0:
                return
            self.num_rejected += 1
        raise ResourceExhaustedError(
            f"writes that take {total_s:.3g} s to build are under way, {own_s:.3g} s of them this caller's; the two "
            f"together may be {self._max_s:g} s; retry later",
            retry_after_s=max(over_s, SOON_S),
        )

    def enter(self, write: Write, caller: str, future: Future[Any]) -> None:
        """Counts a write until `future` is done."""
        seconds = WRITE_S + self._costs.build_s(num_characters(write) // CHARACTERS_PER_TOKEN)
        with self._lock:
            self._under_way[future] = caller, seconds
            self._own_s[caller] += seconds
            self._total_s += seconds
        future.add_done_callback(self._leave)

    def _leave(self, future: Future[Any]) -> None:
        with self._lock:
            caller, seconds = self._under_way.pop(future)
            self._own_s[caller] -= seconds
            self._total_s -= seconds
            if not self._under_way:
                self._own_s.clear()  # with what rounding left
                self._total_s = 0.0


def num_characters(write: Write) -> int:
    """Of the texts that a write has built."""
    match write:
        case PutItems(items):
            return sum(map(_item_characters, items))
        case PutUser(user):
            return sum(map(_event_characters, user.events))
        case AppendEvents(_, events):
            return sum(map(_event_characters, events))
    return 0


def _item_characters(item: Item) -> int:
    return len(item.title) + len(item.description) + len(item.brand) + sum(map(len, item.categories))


def _event_characters(event: Event) -> int:
    return len(event.title) + len(event.text)
