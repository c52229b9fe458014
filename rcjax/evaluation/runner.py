"""Runs requests through the arms of an engine and keeps what each gave."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from rcjax.catalog.types import Catalogue, Item, Request, User
from rcjax.errors import InvalidRequestError, RcjaxError
from rcjax.request import RecommendRequest, RecommendResult, TokenCounts

_ALL_FAILED_AFTER = 5  # requests: an arm that no shape holds should not take hours to say so


@runtime_checkable
class Ranker(Protocol):
    """What an evaluation needs of an engine (`rcjax.serving.local.LocalEngine`)."""

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[RecommendResult | RcjaxError]: ...

    def put_items(self, items: Sequence[Item]) -> Any: ...

    def put_user(self, user: User) -> Any: ...

    def delete_user(self, user_id: str) -> Any: ...


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One answer: scores [C] in the request's own order of candidates, whatever order they were sent in."""

    scores: np.ndarray
    tokens: TokenCounts
    ttft_ms: float


@dataclass(slots=True, eq=False)
class ArmRun:
    """What an arm gave: `orders[k][n]` is the n-th request with its candidates in the k-th order, 0 being its own."""

    orders: list[list[Outcome | RcjaxError]]

    @property
    def outcomes(self) -> list[Outcome | RcjaxError]:
        return self.orders[0]

    @property
    def answers(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if isinstance(outcome, Outcome)]

    @property
    def errors(self) -> list[RcjaxError]:
        """What failed, in any order of candidates."""
        return [outcome for order in self.orders for outcome in order if isinstance(outcome, RcjaxError)]


def run_arms(
    engine: Ranker,
    catalogue: Catalogue,
    arms: Sequence[str],
    *,
    unseen: Collection[str] = (),
    num_permutations: int = 0,
    batch: int = 1,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> dict[str, ArmRun]:
    """Ranks the catalogue's requests in every arm, in their own order of candidates and in random ones.

    `batch` requests go to the engine at once, with the KV of their items and users computed beforehand, so that times
    are those of full hits; their users are forgotten afterwards. Arms in `unseen` bring the history along instead, as
    of a user whom the engine does not know. Arms take turns in going first. Permutations are the same for all arms.
    `advance` is called after each answer. What the engine refuses is kept as its error; `InvalidRequestError` where it
    refuses all that an arm asks.
    """
    runs = {arm: ArmRun([[] for _ in range(1 + num_permutations)]) for arm in arms}
    requests = catalogue.requests
    for turn, start in enumerate(range(0, len(requests), batch)):
        group = requests[start : start + batch]
        users = {request.user_id: catalogue.users[request.user_id] for request in group}
        engine.put_items([catalogue.items[i] for i in dict.fromkeys(i for r in group for i in r.candidates)])
        for user in users.values():
            engine.put_user(user)
        shift = turn % len(arms)
        for order in range(1 + num_permutations):
            orders = [_candidates(request, order, (seed, order, start + n)) for n, request in enumerate(group)]
            for arm in (*arms[shift:], *arms[:shift]):
                asks = [
                    RecommendRequest(ids, history=users[r.user_id].events, arm=arm)
                    if arm in unseen
                    else RecommendRequest(ids, r.user_id, arm=arm)
                    for ids, r in zip(orders, group, strict=True)
                ]
                for result, request in zip(engine.recommend(asks), group, strict=True):
                    runs[arm].orders[order].append(outcome_of(result, request))
                    advance()
        for user_id in users:
            engine.delete_user(user_id)
        if start < _ALL_FAILED_AFTER <= start + batch or start + batch >= len(requests):
            _check_some_answered(runs)
    return runs


def _check_some_answered(runs: Mapping[str, ArmRun]) -> None:
    for arm, run in runs.items():
        if not run.answers:
            raise InvalidRequestError(f"arm {arm!r} answered none of {len(run.outcomes)} requests: {run.errors[0]}")


def _candidates(request: Request, order: int, seed: tuple[int, ...]) -> tuple[str, ...]:
    if order == 0:
        return request.candidates
    places = np.random.default_rng(seed).permutation(len(request.candidates))
    return tuple(request.candidates[place] for place in places)


def outcome_of(result: RecommendResult | RcjaxError, request: Request) -> Outcome | RcjaxError:
    """What is kept of an engine's answer to a request; an error stays what it is."""
    if isinstance(result, RcjaxError):
        return result
    scores = {ranked.item_id: ranked.score for ranked in result.ranking}
    in_order = np.array([scores[item_id] for item_id in request.candidates])
    return Outcome(in_order, result.tokens, result.times.ttft_ms)
