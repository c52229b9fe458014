"""Hosts of a cluster that get SIGKILL under load: whether an answer is wrong or lost, and how long the others wait."""

import os
import signal
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from cluster_bed import WAIT_S, fill, running
from cluster_scaling import per_s

from rcjax.cluster.ray.host import HostActor
from rcjax.errors import RcjaxError
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.local import LocalEngine
from rcjax.serving.retries import RetryPolicy, Tries
from rcjax.serving.startup import start_engine

KILL_HOSTS = 4
KILL_LOAD = 0.2  # of what the hosts answer: on a small machine one that loads takes the cores of the others
BEFORE_KILL_S = 5.0
TOLERANCE = 1e-4  # of scores


@dataclass
class Asked:
    """A request under load: when it was sent, when answered, by what, and its tries as a client makes them."""

    ask: RecommendRequest
    sent_s: float
    tries: Tries
    done_s: float = 0.0
    answer: RecommendResult | BaseException | None = None


class Load:
    """Sends requests at a fixed rate until it is stopped, whatever is answered by then, and those refused once more."""

    def __init__(self, engine: LocalEngine, asks: list[RecommendRequest], rate_per_s: float):
        self.asked: list[Asked] = []
        self.num_refused = 0
        self._engine = engine
        self._asks = asks
        self._gap_s = 1 / rate_per_s
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        end_s = time.monotonic() + WAIT_S
        while any(one.answer is None for one in self.asked) and time.monotonic() < end_s:
            time.sleep(0.05)

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._is_over.is_set():
            ask = self._asks[len(self.asked) % len(self._asks)]
            self.asked.append(Asked(ask, time.monotonic(), RetryPolicy().begin(WAIT_S)))
            self._try(self.asked[-1])
            due_s += self._gap_s
            time.sleep(max(0.0, due_s - time.monotonic()))

    def _try(self, one: Asked) -> None:
        try:
            self._engine.router.submit(one.ask).add_done_callback(lambda future: self._done(one, future))
        except RcjaxError as error:
            self._refused(one, error)

    def _done(self, one: Asked, future: Any) -> None:
        error = future.exception()
        if isinstance(error, RcjaxError):
            self._refused(one, error)
            return
        one.done_s = time.monotonic()
        one.answer = error or future.result()

    def _refused(self, one: Asked, error: RcjaxError) -> None:
        """Tries it again as a client does, unless it would give up."""
        self.num_refused += 1
        pause_s = one.tries.next_pause_s(error)
        if pause_s is None:
            one.done_s, one.answer = time.monotonic(), error
            return
        threading.Timer(pause_s, self._try, [one]).start()


def scores(answer: RecommendResult) -> dict[str, float]:
    return {ranked.item_id: ranked.score for ranked in answer.ranking}


def is_right(one: Asked, expected: dict[RecommendRequest, dict[str, float]]) -> bool:
    if not isinstance(one.answer, RecommendResult):
        return False
    found, wanted = scores(one.answer), expected[one.ask]
    return found.keys() == wanted.keys() and all(abs(found[item] - wanted[item]) <= TOLERANCE for item in wanted)


def kills(number: int, num_requests: int) -> dict[str, Any]:
    killed: list[tuple[float, float]] = []  # when, and when all hosts were there again
    with running(KILL_HOSTS, HostActor, num_requests) as cluster:
        with start_engine(cluster.settings) as own:
            fill(own, num_requests)
            answers = own.recommend(cluster.asks)
        expected = {ask: scores(checked(one)) for ask, one in zip(cluster.asks, answers, strict=True)}
        cluster.engine.recommend(cluster.asks)  # copies what hosts lack
        rate_per_s = KILL_LOAD * per_s(cluster.engine, cluster.asks, KILL_HOSTS)
        with Load(cluster.engine, cluster.asks, rate_per_s) as load:
            for turn in range(number):
                time.sleep(BEFORE_KILL_S)
                victim = cluster.hosts()[turn % KILL_HOSTS]
                at_s = time.monotonic()
                os.kill(victim.pid, signal.SIGKILL)
                while victim.pid in {one.pid for one in cluster.hosts()}:
                    time.sleep(0.1)
                cluster.wait_whole(KILL_HOSTS)
                killed.append((at_s, time.monotonic()))
                print(f"kill {turn + 1}: whole again after {killed[-1][1] - at_s:.1f} s", flush=True)
            time.sleep(BEFORE_KILL_S)
        num_retries = cluster.engine.stats().num_retries
    figures = kill_figures(load.asked, killed, expected)
    return figures | {"num_retries": num_retries, "num_refused": load.num_refused, "rate_per_s": rate_per_s}


def checked(answer: RecommendResult | RcjaxError) -> RecommendResult:
    """The answer; raises the error."""
    if isinstance(answer, RcjaxError):
        raise answer
    return answer


def kill_figures(
    asked: list[Asked], killed: list[tuple[float, float]], expected: dict[RecommendRequest, dict[str, float]]
) -> dict[str, Any]:
    """Of the requests that were under way at a kill, and of those while all hosts lived."""
    under_way_s = [
        one.done_s - at_s for one in asked for at_s, _ in killed if one.sent_s < at_s and (one.done_s or at_s) >= at_s
    ]
    normal_s = [
        one.done_s - one.sent_s
        for one in asked
        if one.done_s and not any(at_s <= one.done_s and one.sent_s <= whole_s for at_s, whole_s in killed)
    ]
    return {
        "num_kills": len(killed),
        "num_requests": len(asked),
        "lost": [repr(one.answer) for one in asked if not isinstance(one.answer, RecommendResult)],
        "num_wrong": sum(isinstance(one.answer, RecommendResult) and not is_right(one, expected) for one in asked),
        "normal_p99_s": float(np.quantile(normal_s, 0.99)),
        "under_way_s": under_way_s,
        "whole_again_s": [whole_s - at_s for at_s, whole_s in killed],
    }
