"""What a server of `fault_kit` suffers: more requests than it can answer, or writes until it is killed."""

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

from fault_kit import ASKS, TIMEOUT_S, Served

from rcjax.catalog import Item
from rcjax.errors import RcjaxError, UnavailableError
from rcjax.serving.async_client import AsyncRecommenderClient
from rcjax.serving.retries import NO_RETRIES
from rcjax.serving.security.channel import new_aio_channel


async def open_loop(served: Served, rate: float, seconds: int) -> dict[str, list]:
    """What became of so many requests a second, Poisson, by kind."""
    outcomes: dict[str, list] = {}
    draw = random.Random(0)
    connect = partial(new_aio_channel, security=served.shop.security())

    async def ask(number: int) -> None:
        try:
            result = await client.recommend(ASKS[number])
        except RcjaxError as error:
            outcomes.setdefault(type(error).__name__, []).append(error)
        else:
            scores = {one.item_id: one.score for one in result.ranking}
            outcomes.setdefault("answered", []).append((number, scores))

    async with AsyncRecommenderClient(served.main, timeout_s=TIMEOUT_S, connect=connect, retry=NO_RETRIES) as client:
        calls = []
        due_s = time.perf_counter()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(due_s - time.perf_counter(), 0.0))
            calls.append(asyncio.create_task(ask(number % len(ASKS))))
            due_s += draw.expovariate(rate)
        await asyncio.gather(*calls)
    return outcomes


class Working:
    """Puts items, and takes a snapshot after the other, until the server is killed."""

    def __init__(self, served: Served, items: Iterator[Item]):
        self.num_put = self.num_safe = 0  # items that are in, and in a snapshot
        self._served, self._items = served, items
        self._threads = [threading.Thread(target=self._until_killed, args=(do,)) for do in (self._put, self._save)]
        for thread in self._threads:
            thread.start()

    def kill(self, num_wanted: int) -> None:
        """Once so many items are safe, while others are under way."""
        while self.num_safe < num_wanted:
            assert all(thread.is_alive() for thread in self._threads)
            time.sleep(0.001)
        self._served.process.kill()
        for thread in self._threads:
            thread.join(60)

    def _until_killed(self, do: Callable[[], None]) -> None:
        with contextlib.suppress(UnavailableError):
            do()

    def _put(self) -> None:
        for progress in self._served.client.put_items_stream(self._items, chunk_items=4):
            self.num_put = progress.num_items

    def _save(self) -> None:
        while True:
            num_put = self.num_put
            self._served.client.take_snapshot()
            self.num_safe = num_put
