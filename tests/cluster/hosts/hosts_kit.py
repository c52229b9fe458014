"""A cluster of the tiny model on this machine, with real processes of Ray, and an engine of one process beside it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import ray

sys.path.insert(0, str(Path(__file__).parents[2] / "engine"))

from tiny_engine import ARMS, event, item
from tiny_folder import folder_settings

from rcjax.catalog.types import User
from rcjax.cluster.ray.front import start_front
from rcjax.cluster.ray.launch import keeper_of, launch_hosts
from rcjax.cluster.ray.runtime import ray_runtime
from rcjax.cluster.ray.update import ClusterStatus, HostStatus
from rcjax.config import ClusterSettings, MeshSettings, Settings, ShapeSettings
from rcjax.errors import RcjaxError
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.local import LocalEngine

NUM_HOSTS = 3
TESTED_ARMS = {name: ARMS[name] for name in ("parallel_anchor_blocks", "sequential_label_blocks_boundary")}
ITEMS = [item(number) for number in range(24)]
USERS = [User(f"u{number}", tuple(event(number * 10 + n) for n in range(3))) for number in range(4)]
WAIT_S = 120.0  # for what takes seconds on a machine that does nothing else


def cluster_settings(folder: Path) -> Settings:
    return folder_settings(
        folder,
        arms=TESTED_ARMS,
        default_arm="parallel_anchor_blocks",
        shapes=ShapeSettings(rank=((160, 48),), build=((96, 8),), generate=((1, 96), (160, 64))),
        mesh=MeshSettings(placement="hash"),
        cluster=ClusterSettings(max_hosts=NUM_HOSTS + 1, cpus=0, stall_s=1.0),
    )


@dataclass
class Cluster:
    """The cluster that all tests of a run share; each leaves it whole, with the items and users that it found."""

    settings: Settings
    keeper: Any
    address: str
    engine: LocalEngine

    def status(self) -> ClusterStatus:
        return ray.get(self.keeper.status.remote(), timeout=WAIT_S)

    def host(self, name: str) -> HostStatus:
        return next(one for one in self.status().hosts if one.name == name)

    def new_front(self) -> LocalEngine:
        """Another front end, in this process."""
        return start_front(self.settings, self.keeper)

    def wait_whole(self, num_hosts: int = NUM_HOSTS) -> None:
        """Waits until so many hosts are open, for the keeper and for this front end."""
        until(lambda: [one.state for one in self.status().hosts] == ["open"] * num_hosts)
        until(lambda: num_open(self.engine) == num_hosts)


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    settings = cluster_settings(folder)
    try:
        runtime = ray_runtime(f"local:{NUM_HOSTS}")
        runtime.__enter__()
    except ValueError as error:
        pytest.skip(f"Ray cannot start here: {error}")
    try:
        keeper = keeper_of(settings)
        launch_hosts(settings, NUM_HOSTS)
        engine = start_front(settings, keeper)
        cluster = Cluster(settings, keeper, ray.get_runtime_context().gcs_address, engine)
        with engine:
            cluster.wait_whole()
            engine.put_items(ITEMS)
            for outcome in engine.put_users(USERS):
                assert not isinstance(outcome, RcjaxError), outcome
            yield cluster
    finally:
        runtime.__exit__(None, None, None)


def num_open(engine: LocalEngine) -> int:
    return [one.state for one in engine.stats().slices].count("open")


def until(is_so: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    """Waits until it is so; fails where that takes too long."""
    end_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end_s, "it has not come to be so in time"
        time.sleep(0.05)


def asked(number: int, arm: str = "parallel_anchor_blocks") -> RecommendRequest:
    """The request of that number: six of the items, for one of the users."""
    ids = [ITEMS[(number * 5 + n * 7) % len(ITEMS)].item_id for n in range(6)]
    return RecommendRequest(tuple(dict.fromkeys(ids)), USERS[number % len(USERS)].user_id, arm=arm)


def scores_of(result: RecommendResult | RcjaxError) -> dict[str, float]:
    if isinstance(result, RcjaxError):
        raise result
    return {ranked.item_id: ranked.score for ranked in result.ranking}


def close_scores(scores: dict[str, float]) -> dict[str, Any]:
    return {name: pytest.approx(score, abs=1e-5) for name, score in scores.items()}


@dataclass
class Load:
    """Requests one after the other from several threads, until it is stopped; what each was and what came of it."""

    engine: LocalEngine
    requests: Sequence[RecommendRequest]
    answers: list[tuple[RecommendRequest, RecommendResult | RcjaxError]] = field(default_factory=list)

    @contextmanager
    def running(self, num_threads: int = 3) -> Iterator["Load"]:
        is_over = threading.Event()

        def ask(number: int) -> None:
            while not is_over.is_set():
                request = self.requests[number % len(self.requests)]
                (answer,) = self.engine.recommend([request])
                self.answers.append((request, answer))
                number += num_threads

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(num_threads)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            is_over.set()
            for thread in threads:
                thread.join(WAIT_S)
            assert not any(thread.is_alive() for thread in threads), "a request was never answered"

    def wait_for(self, number: int) -> None:
        """Waits for so many more answers."""
        wanted = len(self.answers) + number
        until(lambda: len(self.answers) >= wanted)

    def check(self, expected: dict[RecommendRequest, dict[str, float]]) -> None:
        """Every request was answered, and rightly."""
        for request, answer in self.answers:
            assert scores_of(answer) == close_scores(expected[request])


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does not run, as one of a machine that hangs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
