"""A cluster answers as one process does, and goes on doing so while hosts die, hang, come and go."""

import os
import signal
import threading
import time
from collections.abc import Sequence

import pytest
import ray
from hosts_kit import (
    ITEMS,
    NUM_HOSTS,
    TESTED_ARMS,
    USERS,
    WAIT_S,
    Load,
    asked,
    close_scores,
    num_open,
    scores_of,
    stopped,
    until,
)
from tiny_engine import event, item

from rcjax.catalog.types import User
from rcjax.cluster.ray.front import start_front
from rcjax.cluster.ray.launch import launch_host
from rcjax.cluster.ray.starting import Starting
from rcjax.engine.generation import Sampling
from rcjax.errors import NotFoundError, RcjaxError
from rcjax.request import DeleteItems, PutItems, RecommendRequest
from rcjax.serving.local import LocalEngine

pytestmark = pytest.mark.cluster

REQUESTS = [asked(number, arm) for number in range(12) for arm in TESTED_ARMS]


@pytest.fixture(scope="module")
def expected(alone):
    """What one process answers."""
    return {request: scores_of(answer) for request, answer in zip(REQUESTS, alone.recommend(REQUESTS), strict=True)}


def test_scores_are_those_of_one_process(cluster, expected):
    answers = cluster.engine.recommend(REQUESTS)
    for request, answer in zip(REQUESTS, answers, strict=True):
        assert scores_of(answer) == close_scores(expected[request])
        assert answer.tokens.prompt_len > 0
        assert answer.times.ttft_ms > 0
    assert len({answer.slice_index for answer in answers}) > 1, "more than one host answers"


def test_each_item_stands_on_one_host(cluster):
    hosts = cluster.status().hosts
    assert sum(host.num_items for host in hosts) == len(ITEMS)
    assert all(host.num_items < len(ITEMS) for host in hosts)
    assert sorted(host.places[0] for host in hosts) == list(range(NUM_HOSTS))


def test_blocks_come_from_other_hosts(cluster):
    """A host that lacks an item asks the one that owns it, and copies its KV."""
    cluster.engine.recommend(REQUESTS)
    until(lambda: cluster.engine.stats().num_fetched > 0)
    until(lambda: sum(one.lent_bytes for one in cluster.engine.stats().slices) > 0)


def test_text_is_generated_as_by_one_process(cluster, alone):
    greedy = Sampling(max_new_tokens=6)
    text = alone.generate("Red mug", greedy)
    assert len(text) == greedy.max_new_tokens
    assert cluster.engine.generate("Red mug", greedy) == text
    assert cluster.engine.generate(REQUESTS[0], greedy) == alone.generate(REQUESTS[0], greedy)


def test_a_host_that_is_killed_costs_nothing_but_time(cluster, expected):
    victim = cluster.status().hosts[0]
    load = Load(cluster.engine, REQUESTS)
    with load.running():
        load.wait_for(10)
        os.kill(victim.pid, signal.SIGKILL)
        until(lambda: num_open(cluster.engine) < NUM_HOSTS)
        load.wait_for(10)
        # Written while it is away, and known by it when it comes back.
        cluster.engine.put_items([item(900)])
        until(lambda: victim.name in {one.name for one in cluster.status().hosts})
        cluster.wait_whole()
        load.wait_for(10)
    load.check(expected)
    assert cluster.host(victim.name).pid != victim.pid
    assert cluster.engine.delete_items(["i900"]) == 1
    assert cluster.status().num_items == len(ITEMS)


def test_a_host_that_hangs_is_routed_around(cluster, expected):
    victim = cluster.status().hosts[1]
    load = Load(cluster.engine, REQUESTS)
    with load.running():
        load.wait_for(10)
        with stopped(victim.pid):
            until(lambda: cluster.engine.stats().slices[victim.places[0]].state == "stalled")
            load.wait_for(30)
        until(lambda: num_open(cluster.engine) == NUM_HOSTS)
    load.check(expected)
    assert cluster.host(victim.name).pid == victim.pid, "it was never taken for dead"


def test_two_routers_see_what_either_writes(cluster, expected):
    engine = cluster.engine
    with cluster.new_front() as other:
        assert set(other.known()[0]) == {one.item_id for one in ITEMS}
        assert cluster.status().num_routers >= 2
        for request, answer in zip(REQUESTS, other.recommend(REQUESTS), strict=True):
            assert scores_of(answer) == close_scores(expected[request])
        other.put_items([item(700)])
        asking = RecommendRequest(("i700", "i1"), "u0")
        assert scores_of(other.recommend([asking])[0]), "its own write is seen at once"
        until(lambda: not isinstance(engine.recommend([asking])[0], RcjaxError))
        engine.delete_items(["i700"])
        assert isinstance(engine.recommend([asking])[0], NotFoundError)
        until(lambda: isinstance(other.recommend([asking])[0], NotFoundError))


def test_appends_of_two_routers_to_one_user_are_all_kept(cluster):
    engine = cluster.engine
    engine.put_user(User("shared"))

    def append(one: LocalEngine, numbers: Sequence[int]) -> None:
        for number in numbers:
            one.append_events("shared", [event(number, num_words=1)])

    with cluster.new_front() as other:
        threads = [threading.Thread(target=append, args=args) for args in ((engine, (510, 511)), (other, (520, 521)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    until(lambda: len(engine.router.library.user("", "shared").content) == 4)
    kept = engine.router.library.user("", "shared").content
    assert sorted(one.item_id for one in kept) == ["i510", "i511", "i520", "i521"]
    assert engine.delete_user("shared")
    assert cluster.status().num_users == len(USERS)


def test_writes_and_deletes_go_on_while_a_host_joins(cluster, expected, alone):
    engine, put, deleted = cluster.engine, {}, set()
    is_over, failures = threading.Event(), []

    def write() -> None:
        number = 0
        while not is_over.is_set():
            number += 1
            try:
                one = item(1000 + number % 20, text=f"of round {number}")
                engine.router.submit_write(PutItems((one,))).result(WAIT_S)
                put[one.item_id] = one
                deleted.discard(one.item_id)
                if number % 3 == 0:
                    gone = f"i{1000 + (number - 2) % 20}"
                    engine.router.submit_write(DeleteItems((gone,))).result(WAIT_S)
                    put.pop(gone, None)
                    deleted.add(gone)
            except RcjaxError as error:
                failures.append(error)
                return
            time.sleep(0.01)

    writing = threading.Thread(target=write)
    load = Load(engine, REQUESTS)
    with load.running(num_threads=1):
        writing.start()
        name = launch_host(cluster.settings)
        cluster.wait_whole(NUM_HOSTS + 1)
        load.wait_for(10)
        is_over.set()
        writing.join(WAIT_S)
    load.check(expected)
    assert not failures
    assert cluster.host(name).num_items > 0, "it owns its share"
    known, _ = engine.known()
    assert {name: one for name, one in known.items() if name in put or name in deleted} == put
    # What the new host has of the library is what the keeper has, and so it scores.
    asking = [RecommendRequest((one, "i1"), "u0") for one in put]
    alone.put_items(put.values())
    for request, answer in zip(asking, engine.recommend(asking), strict=True):
        assert scores_of(answer) == close_scores(scores_of(alone.recommend([request])[0]))
    alone.delete_items(put)

    ray.get(cluster.keeper.remove.remote(name, 30.0), timeout=WAIT_S).result()
    cluster.wait_whole()
    assert sum(host.num_items for host in cluster.status().hosts) == len(known)
    for request, answer in zip(REQUESTS, engine.recommend(REQUESTS), strict=True):
        assert scores_of(answer) == close_scores(expected[request])
    assert engine.delete_items(put) == len(put)


def test_a_keeper_that_is_killed_loses_no_write_that_was_answered(cluster, expected):
    engine = cluster.engine
    engine.put_items([item(800), item(801)])
    engine.delete_items(["i801"])
    ray.kill(cluster.keeper, no_restart=False)
    (answer,) = engine.recommend(REQUESTS[:1])
    assert scores_of(answer) == close_scores(expected[REQUESTS[0]]), "requests do not need it"
    until(lambda: len(status_or_none(cluster)) == NUM_HOSTS)
    cluster.wait_whole()
    known, _ = engine.known()
    assert set(known) == {one.item_id for one in ITEMS} | {"i800"}
    assert engine.delete_items(["i800"]) == 1
    assert cluster.status().num_items == len(ITEMS)


def status_or_none(cluster):
    try:
        return cluster.status().hosts
    except ray.exceptions.RayError:
        return ()


def test_a_host_that_cannot_start_is_told_of(cluster):
    starting = Starting([launch_host(cluster.settings.model_copy(update={"model": "/no/such/model"}))])
    said = []

    def has_failed() -> bool:
        try:
            starting.check()
        except ValueError as error:
            said.append(str(error))
        return bool(said)

    until(has_failed)
    assert "cannot start: " in said[0]
    assert "/no/such/model" in said[0]
    cluster.wait_whole()


def test_a_front_end_with_other_settings_is_refused(cluster):
    other = cluster.settings.model_copy(update={"default_arm": "sequential_label_blocks_boundary"})
    with pytest.raises(ValueError, match="default_arm of these settings differ"):
        start_front(other, cluster.keeper)
