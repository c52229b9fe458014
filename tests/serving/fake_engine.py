"""An engine whose outputs can be computed by hand, with hooks to hold it and to break it."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import NotFoundError, RcjaxError
from rcjax.request import (
    EngineInfo,
    EngineStats,
    RankedItem,
    RecommendRequest,
    RecommendResult,
    StageTimes,
    TokenCounts,
)

INFO = EngineInfo(
    model="fake",
    fingerprint="f00d",
    template="plain@1",
    dtype="float32",
    device="none",
    version="0.1.0",
    page_tokens=16,
    max_candidates=5,
    max_item_tokens=150,
    max_history_tokens=1000,
    arms=("full", "blocks"),
    default_arm="blocks",
)


def score(item_id: str) -> float:
    """The number at the end of an id: "item-7" scores 7."""
    return float(item_id.rsplit("-", 1)[1])


class FakeEngine:
    """Ranks by `score`; a request has 100 cached tokens, and 2 fresh ones per candidate.

    `calls` records (method, argument) in order. `before[method]` is called with the argument before the
    method does anything; tests block or raise there.
    """

    def __init__(self, *item_ids: str):
        self.items = {item_id: Item(item_id, f"No. {item_id[-1]}") for item_id in item_ids}
        self.users: dict[str, tuple[Event, ...]] = {"ann": ()}
        self.calls: list[tuple[str, Any]] = []
        self.before: dict[str, Callable[[Any], None]] = {}
        self.threads: set[str] = set()

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[RecommendResult | RcjaxError]:
        self._enter("recommend", tuple(requests))
        return [self._rank(request) for request in requests]

    def put_items(self, items: Sequence[Item]) -> int:
        self._enter("put_items", tuple(items))
        num_new = sum(self.items.get(item.item_id) != item for item in items)
        self.items |= {item.item_id: item for item in items}
        return num_new

    def delete_items(self, item_ids: Sequence[str]) -> int:
        self._enter("delete_items", tuple(item_ids))
        return sum(self.items.pop(item_id, None) is not None for item_id in item_ids)

    def put_user(self, user: User) -> None:
        self._enter("put_user", user)
        self.users[user.user_id] = user.events

    def append_events(self, user_id: str, events: Sequence[Event]) -> None:
        self._enter("append_events", (user_id, tuple(events)))
        if user_id not in self.users:
            raise NotFoundError(f"unknown user {user_id!r}", field="user_id")
        self.users[user_id] += tuple(events)

    def delete_user(self, user_id: str) -> bool:
        self._enter("delete_user", user_id)
        return self.users.pop(user_id, None) is not None

    def info(self) -> EngineInfo:
        return INFO

    def stats(self) -> EngineStats:
        self._enter("stats", None)
        return EngineStats(
            num_items=len(self.items), num_users=len(self.users), tokens=TokenCounts(1, 2, 3, 4), pool_bytes=2**40
        )

    def _enter(self, method: str, argument: Any) -> None:
        self.threads.add(threading.current_thread().name)
        self.calls.append((method, argument))
        self.before.get(method, lambda argument: None)(argument)

    def _rank(self, request: RecommendRequest) -> RecommendResult | RcjaxError:
        if request.history is None and request.user_id not in self.users:
            return NotFoundError(f"unknown user {request.user_id!r}", field="user_id")
        ids = []
        for index, candidate in enumerate(request.candidates):
            if isinstance(candidate, str) and candidate not in self.items:
                return NotFoundError(f"unknown item {candidate!r}", field=f"candidates[{index}].item_id")
            ids.append(candidate.item_id if isinstance(candidate, Item) else candidate)
        best_first = sorted(ids, key=score, reverse=True)[: request.top_k or None]
        return RecommendResult(
            ranking=tuple(RankedItem(item_id, score(item_id), i + 1) for i, item_id in enumerate(best_first)),
            tokens=TokenCounts(cached=100, fresh=2 * len(ids)),
            times=StageTimes(plan_ms=1.0, build_ms=2.0, extend_ms=3.0, readout_ms=4.0),
            arm=request.arm or INFO.default_arm,
        )


class Gate:
    """Holds whoever calls it until `open` is set; `entered` tells that somebody is there."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self, argument: Any) -> None:
        self.entered.set()
        assert self.open.wait(60)
