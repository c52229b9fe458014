"""The load of benchmarks/soak.py, as a process of its own: shoppers who ask, a shop that changes, and a checker.

Each caller rests as long as its last call took, so that the server has about as much to do on any machine. What is
asked follows a Zipf law, so that some items and users stay in a pool that does not hold all.
"""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from rcjax.catalog import EmbeddedWorld, Item, User
from rcjax.errors import NotFoundError, RcjaxError, ResourceExhaustedError
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.async_client import AsyncRecommenderClient
from rcjax.serving.retries import NO_RETRIES
from rcjax.serving.self_test import TOLERANCES

NUM_ITEMS, NUM_USERS, NUM_CANDIDATES = 60, 16, 6
FIRST_ITEM = "first"  # which the server starts with, as it wants one
MAX_EVENTS = 6
FULL_OF = {"parallel": "parallel-full", "prefix": "prefix-full"}
NUM_SHOPPERS, ITEMS_PER_WRITE = 2, 3
TOLERANCE = TOLERANCES["float32"]  # of the largest score, which is 1 at least, as in a server's self-test
ZIPF = 1.0
TIMEOUT_S = 600.0  # of a call: a machine may stand still for a while


class Shop:
    """Items and users whose content is new each time, and those that are known to the server now."""

    def __init__(self, seed: int):
        self._world = EmbeddedWorld(seed)
        self._products = list(self._world.items.values())[:NUM_ITEMS]
        self._users = [self._world.user(f"test-{number:05d}") for number in range(NUM_USERS)]
        self._edition = itertools.count()
        self.item_ids = [one.item_id for one in self._products]
        self.user_ids = [one.user_id for one in self._users]
        self.known: set[str] = set()

    def item(self, number: int) -> Item:
        return replace(self._products[number], description=f"edition {next(self._edition)}")

    def user(self, number: int) -> User:
        user = self._users[number]
        first = replace(user.events[0], text=f"visit {next(self._edition)}")
        return replace(user, events=(first, *user.events[1 : MAX_EVENTS // 2]))

    async def put_all(self, client: AsyncRecommenderClient) -> None:
        await client.put_items([self.item(number) for number in range(NUM_ITEMS)])
        for number in range(NUM_USERS):
            await client.put_user(self.user(number))
        self.known = {*self.item_ids, *self.user_ids}

    async def delete_all(self, client: AsyncRecommenderClient) -> None:
        await client.delete_items([*self.item_ids, FIRST_ITEM])
        for user_id in self.user_ids:
            await client.delete_user(user_id)
        self.known = set()


@dataclass
class Outcomes:
    """What came of it: answers as [seconds since the start, TTFT in ms, tokens cached, tokens built of these]."""

    answers: list[tuple[float, float, int, int]] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    differences: list[float] = field(default_factory=list)  # of scores, as shares of the largest


class Load:
    """Callers that go on until `end_s`, on one event loop."""

    def __init__(self, client: AsyncRecommenderClient, shop: Shop, minutes: float, seed: int):
        self.outcomes = Outcomes()
        self._client, self._shop = client, shop
        self._draw = random.Random(seed)
        self._start_s = time.perf_counter()
        self._end_s = self._start_s + 60.0 * minutes
        self._held: set[str] = set()  # ids whose content must not change, or is changing
        self._weights = [1.0 / (1 + rank) ** ZIPF for rank in range(NUM_ITEMS)]
        self._num_events: Counter[str] = Counter()

    async def run(self) -> Outcomes:
        await asyncio.gather(self._repeat(self._check), self._repeat(self._change), *self._shoppers())
        return self.outcomes

    def _shoppers(self) -> Iterator[Any]:
        return (self._repeat(self._shop_around) for _ in range(NUM_SHOPPERS))

    async def _repeat(self, call: Any) -> None:
        while time.perf_counter() < self._end_s:
            start_s = time.perf_counter()
            try:
                await call()
            except ResourceExhaustedError as error:
                self.outcomes.calls["refused"] += 1
                await asyncio.sleep(error.retry_after_s or 0.0)
            except RcjaxError as error:
                self.outcomes.failures.append(f"{type(error).__name__}: {error.message}")
            await asyncio.sleep(min(time.perf_counter() - start_s, 5.0) + 0.001)

    # ---- what callers do

    async def _shop_around(self) -> None:
        """Asks for what may be deleted meanwhile."""
        try:
            self._note(await self._client.recommend(self._request(self._draw.choice(list(FULL_OF)))))
        except NotFoundError:
            self.outcomes.calls["not found"] += 1

    async def _check(self) -> None:
        """Asks, and asks the same by full recompute; nobody changes what it is about meanwhile."""
        arm = self._draw.choice(list(FULL_OF))
        request = self._request(arm)
        ids = {*request.candidates, request.user_id}
        if self._held & ids:
            return
        with self._holding(ids):
            try:
                result = await self._client.recommend(request)
            except NotFoundError as error:
                if ids <= self._shop.known:
                    self.outcomes.wrong.append(f"{error.message}, which was put")
                self.outcomes.calls["not found"] += 1
                return
            if not ids <= self._shop.known:
                self.outcomes.wrong.append(f"ranked {ids - self._shop.known}, which were deleted")
            self._note(result)
            full = await self._client.recommend(replace(request, arm=FULL_OF[arm]))
        self._compare(request, result, full)

    async def _change(self) -> None:
        """Puts, replaces or deletes some items, or a user, or appends an event."""
        if self._draw.random() < 0.6:
            await self._change_items()
        else:
            await self._change_user()

    async def _change_items(self) -> None:
        numbers = self._draw.sample(range(NUM_ITEMS), ITEMS_PER_WRITE)
        ids = {self._shop.item_ids[number] for number in numbers}
        if self._held & ids:
            return
        with self._holding(ids):
            if self._draw.random() < 0.25:
                await self._client.delete_items(ids)
                self._shop.known -= ids
                self.outcomes.calls["items deleted"] += len(ids)
            else:
                await self._client.put_items([self._shop.item(number) for number in numbers])
                self._shop.known |= ids
                self.outcomes.calls["items put"] += len(ids)

    async def _change_user(self) -> None:
        number = self._draw.randrange(NUM_USERS)
        user = self._shop.user(number)
        user_id = user.user_id
        if user_id in self._held:
            return
        with self._holding({user_id}):
            if user_id not in self._shop.known or self._num_events[user_id] >= MAX_EVENTS:
                await self._client.put_user(user)
                self._num_events[user_id] = len(user.events)
                self._shop.known.add(user_id)
                self.outcomes.calls["users put"] += 1
            elif self._draw.random() < 0.2:
                await self._client.delete_user(user_id)
                self._shop.known.discard(user_id)
                self.outcomes.calls["users deleted"] += 1
            else:
                await self._client.append_events(user_id, user.events[:1])
                self._num_events[user_id] += 1
                self.outcomes.calls["events appended"] += 1

    # ---- their parts

    def _request(self, arm: str) -> RecommendRequest:
        candidates: dict[str, None] = {}
        while len(candidates) < NUM_CANDIDATES:
            candidates[self._draw.choices(self._shop.item_ids, self._weights)[0]] = None
        user_id = self._draw.choices(self._shop.user_ids, self._weights[:NUM_USERS])[0]
        return RecommendRequest(tuple(candidates), user_id, arm=arm)

    @contextmanager
    def _holding(self, ids: set[str]) -> Iterator[None]:
        self._held |= ids
        try:
            yield
        finally:
            self._held -= ids

    def _note(self, result: RecommendResult) -> None:
        self.outcomes.calls["answered"] += 1
        at_s = time.perf_counter() - self._start_s
        tokens = result.tokens
        self.outcomes.answers.append((at_s, result.times.ttft_ms, tokens.cached, tokens.built))

    def _compare(self, request: RecommendRequest, result: RecommendResult, full: RecommendResult) -> None:
        found, expected = scores(result, request.candidates), scores(full, request.candidates)
        difference = float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))
        self.outcomes.differences.append(difference)
        if not difference <= TOLERANCE:
            self.outcomes.wrong.append(f"{request}: {found} instead of {expected}")


def scores(result: RecommendResult, item_ids: Sequence[str]) -> np.ndarray:
    by_id = {one.item_id: one.score for one in result.ranking}
    return np.array([by_id[item_id] for item_id in item_ids])


async def warm_up(client: AsyncRecommenderClient, shop: Shop) -> None:
    """What takes memory once: a pass of every arm, and a snapshot."""
    for arm in (*FULL_OF, *FULL_OF.values()):
        await client.recommend(RecommendRequest(tuple(shop.item_ids[:NUM_CANDIDATES]), shop.user_ids[0], arm=arm))
    with suppress(ResourceExhaustedError):  # the server takes one already
        await client.take_snapshot()


async def soak(target: str, admin: str, minutes: float, seed: int) -> dict[str, Any]:
    """Runs the load; the pages of the pool that are used with an empty shop, before it and after it."""
    async with AsyncRecommenderClient(target, admin, timeout_s=TIMEOUT_S, retry=NO_RETRIES) as client:
        shop = Shop(seed)
        await shop.delete_all(client)
        before = await client.stats()
        await shop.put_all(client)
        await warm_up(client, shop)
        load = Load(client, shop, minutes, seed)
        print("begins", flush=True)
        outcomes = await load.run()
        print("ends", flush=True)
        under_load = await client.stats()
        await shop.delete_all(client)
        after = await client.stats()
    return {
        "answers": outcomes.answers,
        "calls": dict(outcomes.calls),
        "failures": outcomes.failures,
        "wrong": outcomes.wrong,
        "differences": outcomes.differences,
        "pages_total": after.pages_total,
        "empty_pages": [before.pages_used, after.pages_used],
        "num_under_way": sum(one.num_under_way for one in after.slices),
        "num_evictions": under_load.num_evictions - before.num_evictions,
        "num_compilations": after.num_compilations,
    }
