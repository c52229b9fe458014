"""Real slices behind the router: one dies under its requests, and items move from slice to slice under others."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))

from tiny_engine import event, item, tiny_model, tiny_settings

from rcjax.cache.placement import Placement
from rcjax.catalog.types import User
from rcjax.config import ArmSettings, MeshSettings, SchedulerSettings, ShapeSettings
from rcjax.engine.executor import ExecutorLostError
from rcjax.prompt import BlockKind, Owner
from rcjax.request import RecommendRequest
from rcjax.serving.startup import start_engine

ITEMS = [item(n, num_words=2) for n in range(6)]
ARMS = {"parallel": ArmSettings(layout="parallel", scoring="anchor", selection="none")}
SHAPES = ShapeSettings(rank=((144, 16),), build=((96, 8),))
REQUESTS = [RecommendRequest((ITEMS[n].item_id, ITEMS[n + 1].item_id), "u") for n in range(5)]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """Three slices; requests take turns, and each item is on the slice of its hash until the first test moves one."""
    mesh = MeshSettings(slices=3, placement="hash", scheduler=SchedulerSettings(policy="round_robin"))
    settings = tiny_settings(
        tmp_path_factory.mktemp("slices"), mesh=mesh, arms=ARMS, default_arm="parallel", shapes=SHAPES
    )
    with start_engine(settings, model=tiny_model()) as engine:
        engine.put_items(ITEMS)
        engine.put_user(User("u", tuple(event(n) for n in range(2))))
        yield engine


def scores(results):
    return [{ranked.item_id: pytest.approx(ranked.score, abs=1e-5) for ranked in one.ranking} for one in results]


def owners_of(engine):
    return [engine.router.owners.slices_of(one.item_id) for one in ITEMS]


def held_by(engine, index):
    """The items whose blocks a slice holds."""
    worker = engine.router.workers[index]
    current = worker.call(
        lambda worker: [worker.cache.directory.current(BlockKind.ITEM, Owner("", i.item_id)) for i in ITEMS]
    )
    return [number for number, block in enumerate(current.result()) if block is not None]


def test_a_rebalance_moves_items_under_requests(engine):
    before = engine.recommend(REQUESTS)
    engine.call_workers(
        lambda worker: [worker.cache.directory.drop(BlockKind.ITEM, Owner("", one.item_id)) for one in ITEMS]
    )
    engine.put_items(ITEMS)  # which requests had brought to other slices
    assert [held_by(engine, index) for index in range(3)] == [
        [number for number, owners in enumerate(owners_of(engine)) if index in owners] for index in range(3)
    ]
    part = np.array([index for (index,) in owners_of(engine)])
    moved = np.where(np.arange(len(ITEMS)) == 2, (part + 1) % 3, part)
    future = engine.router.rebalance(Placement.of_part(tuple(one.item_id for one in ITEMS), moved, 3))
    meanwhile = engine.recommend(REQUESTS)
    result = future.result(60)
    after = engine.recommend(REQUESTS)
    for results in (meanwhile, after):
        assert [{r.item_id: r.score for r in one.ranking} for one in results] == scores(before)
    assert (result.num_arriving, result.num_leaving) == (1, 1)
    assert owners_of(engine) == [(index,) for index in moved]
    assert 2 in held_by(engine, moved[2])


def test_a_slice_that_dies_costs_nothing_but_time(engine):
    before = engine.recommend(REQUESTS)
    assert {result.slice_index for result in before} == {0, 1, 2}

    def die(*args, **kwargs):
        raise ExecutorLostError("the device fell off")

    engine.router.workers[1].cache.executor.rank = die
    after = engine.recommend(REQUESTS * 2)
    assert [{r.item_id: r.score for r in result.ranking} for result in after] == scores(before) * 2
    assert {result.slice_index for result in after} == {0, 2}
    stats = engine.stats()
    assert [one.state for one in stats.slices] == ["open", "dead", "open"]
    assert stats.num_failed == 0
    assert stats.num_retries > 0
    assert not engine.router.lost.done()
    assert engine.put_items([item(0, text="anew")]) <= 1  # none where its owner is the dead slice
    engine.put_user(User("u", tuple(event(n) for n in range(2))))
    again = engine.recommend(REQUESTS[1:])
    assert [{r.item_id: r.score for r in result.ranking} for result in again] == scores(before[1:])
