"""Cancellation at any moment: nothing stays pinned, reserved, queued or open, however many gave up."""

import random
import time
from collections import Counter

import pytest
from tiny_engine import arms, assert_idle, event, item, restarted, tiny_settings

from rcjax.catalog.types import User
from rcjax.errors import RcjaxError
from rcjax.prompt import BlockKind
from rcjax.request import RecommendRequest

NUM_ITEMS = 12


@pytest.fixture
def engine(compiled, tmp_path):
    engine = restarted(compiled, tiny_settings(tmp_path), num_pages=120)  # so few that requests wait for pages, too
    engine.put_items([item(number) for number in range(NUM_ITEMS)])
    engine.put_user(User("u", (event(0), event(1))))
    return engine


def requests(rng: random.Random):
    """Known items, new ones that have to be built, and users of whom nothing is known, in arms that share pages."""
    names = [*arms(reuse="blocks", selection="none"), *arms(reuse="prefix")]
    while True:
        known = [f"i{number}" for number in rng.sample(range(NUM_ITEMS), 2)]
        new = [item(rng.randrange(10**6)) for _ in range(rng.randrange(2))]
        history = (event(rng.randrange(10**6)),) if rng.random() < 0.5 else None
        yield RecommendRequest((*known, *new), "u", history=history, arm=rng.choice(names))


def give_up_at_random(engine, num_requests: int, seed: int = 0) -> Counter:
    """Asks, and cancels nearly all of what is under way, in any order and at any moment; how the calls ended."""
    rng, ended, under_way = random.Random(seed), Counter(), []
    asks = requests(rng)
    while sum(ended.values()) < num_requests or under_way:
        if sum(ended.values()) + len(under_way) < num_requests and len(under_way) < 48:
            deadline_s = time.monotonic() + rng.choice((0.0, 0.01, *[60.0] * 18))
            try:
                under_way.append(engine.router.submit(next(asks), deadline_s=deadline_s))
            except RcjaxError as error:
                ended[type(error).__name__] += 1
        elif under_way:
            if rng.random() < 0.01:
                time.sleep(rng.random() * 0.01)  # let some pass be under way
            future = under_way.pop(rng.randrange(len(under_way)))
            if rng.random() < 0.98:
                future.cancel()
            if future.cancelled():
                ended["cancelled"] += 1
            else:
                error = future.exception(600)
                ended["answered" if error is None else type(error).__name__] += 1
    return ended


def check_nothing_is_left(engine) -> None:
    """Once passes that were under way have landed, and the planner has dropped what it was planning."""
    router = engine.router

    def is_settled() -> bool:
        return engine.call_workers(lambda worker: worker._loop.is_idle)[0] and len(router._calls) == 0

    until_s = time.monotonic() + 60.0
    while not is_settled() and time.monotonic() < until_s:
        time.sleep(0.01)
    assert_idle(engine)
    assert len(router.admission) == router.admission.num_waiting == 0
    assert len(router._calls) == 0
    assert router.admission.wait_s("anonymous") == 0.0
    assert [one.num_under_way for one in router.current_stats().slices] == [0]
    assert engine.worker.num_waiting == 0
    assert engine.library.versions._reads == {}
    # What is used is what is cached: without that only the instruction's pages are.
    for block in [block for block in engine.directory.ready_blocks() if block.kind != BlockKind.INSTRUCTION]:
        engine.directory.discard(block)
    assert engine.directory.stats().pages_used == len(engine.cache.instruction_pages)


def test_random_cancels_free_every_page(engine):
    ended = give_up_at_random(engine, 1_200)
    assert ended["cancelled"] > 400, ended
    assert ended["answered"] > 5, ended
    assert ended["DeadlineExceededError"] > 0, ended
    check_nothing_is_left(engine)


@pytest.mark.slow
def test_ten_thousand_random_cancels_free_every_page(engine):
    assert give_up_at_random(engine, 20_000, seed=1)["cancelled"] > 10_000
    check_nothing_is_left(engine)
