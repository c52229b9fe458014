"""An engine whose arms score as a test says, which checks that what is asked of it was put before."""

from collections.abc import Callable, Mapping, Sequence

from rcjax.catalog import Catalogue, Event, Item, Request, User
from rcjax.errors import InvalidRequestError, RcjaxError
from rcjax.request import (
    EngineInfo,
    EngineStats,
    RankedItem,
    RecommendRequest,
    RecommendResult,
    StageTimes,
    TokenCounts,
)

Script = Callable[[RecommendRequest], Sequence[float] | None]  # scores of its candidates in order, None: refuse


class ScriptedEngine:
    """`scripts[arm]` scores, in 7 ms.

    The tokens of an answer: 10 cached (3 built, 5 of other histories), 2 selected, a fresh one per candidate, 8 probed.
    """

    def __init__(self, scripts: Mapping[str, Script]):
        self.scripts = scripts
        self.items: set[str] = set()
        self.users: set[str] = set()
        self.batches: list[list[RecommendRequest]] = []

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[RecommendResult | RcjaxError]:
        self.batches.append(list(requests))
        return [self._rank(request) for request in requests]

    def put_items(self, items: Sequence[Item]) -> int:
        self.items |= {item.item_id for item in items}
        return len(items)

    def delete_items(self, item_ids: Sequence[str]) -> int:
        raise NotImplementedError

    def put_user(self, user: User) -> None:
        self.users.add(user.user_id)

    def append_events(self, user_id: str, events: Sequence[Event]) -> None:
        raise NotImplementedError

    def delete_user(self, user_id: str) -> bool:
        self.users.remove(user_id)
        return True

    def info(self) -> EngineInfo:
        raise NotImplementedError

    def stats(self) -> EngineStats:
        raise NotImplementedError

    def _rank(self, request: RecommendRequest) -> RecommendResult | RcjaxError:
        assert request.user_id in self.users if request.history is None else not request.user_id
        assert self.items.issuperset(request.candidates)
        scores = self.scripts[request.arm](request)
        if scores is None:
            return InvalidRequestError("refused")
        best_first = sorted(zip(request.candidates, scores, strict=True), key=lambda pair: -pair[1])
        ranking = tuple(RankedItem(i, float(score), place) for place, (i, score) in enumerate(best_first, start=1))
        tokens = TokenCounts(cached=10, selected=2, fresh=len(scores), built=3, probed=8, semantic=5)
        return RecommendResult(ranking, tokens, StageTimes(ttft_ms=7.0), request.arm)


def numbered(num_users: int = 6, num_items: int = 12, num_candidates: int = 4) -> Catalogue:
    """User n is asked about items n, n + 1, ... (modulo their number), and item n + n % C is the target."""
    items = {f"i{n}": Item(f"i{n}", f"Thing {n}") for n in range(num_items)}
    users = {f"u{n}": User(f"u{n}", (Event(f"i{(n + 7) % num_items}", "a thing"),)) for n in range(num_users)}
    requests = []
    for n in range(num_users):
        candidates = tuple(f"i{(n + k) % num_items}" for k in range(num_candidates))
        requests.append(Request(f"u{n}", candidates, candidates[n % num_candidates]))
    return Catalogue(items, users, tuple(requests))


def number(item_id: str) -> int:
    return int(item_id[1:])
