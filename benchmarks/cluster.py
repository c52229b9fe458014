"""A cluster of Ray on this machine: how requests scale with hosts, what the way to a host costs, and kills under load.

    python benchmarks/cluster.py --json cluster.json        # --sizes 1 2 4, --requests 160, --rounds 3, --kills 10

The embedded model and shop, `parallel`, each item on one host.

Scaling: passes take a set time and no processor (benchmarks/paced_devices.py), as if each host had a device of its
own; four requests a host are under way. The simulator's prediction of the same run stands beside it. Overhead: one
request at a time, in turn by a cluster of one host and by an engine of this process. Kills: hosts compute their passes;
requests come at a fixed rate while one host after the other gets SIGKILL; what admission refuses is tried again when it
says, as clients do. Every answer is compared with one process's.
A killed host's requests are those under way; they are timed from the kill, against the P99 while all lived.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from claims import Claim, show_claims, write_report
from mesh import DEVICES
from paced_devices import PacedDevices, paced
from paced_host import PacedHostActor
from simulate_validate import PaddedArm

from rcjax.catalog import EmbeddedWorld
from rcjax.cluster.ray.front import start_front
from rcjax.cluster.ray.host import HostActor
from rcjax.cluster.ray.launch import keeper_of, launch_host
from rcjax.cluster.ray.profile import Profile
from rcjax.cluster.ray.runtime import ray_runtime
from rcjax.cluster.simulation import Cluster, CostTable, Workload, simulate
from rcjax.config import CacheSettings, ClusterSettings, MeshSettings, Settings, ShapeSettings, load_settings
from rcjax.engine.cost import CostModel
from rcjax.engine.shape import Shape
from rcjax.errors import RcjaxError
from rcjax.prompt import Owner
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.local import LocalEngine
from rcjax.serving.owners import Hashed, ItemOwners
from rcjax.serving.retries import RetryPolicy, Tries
from rcjax.serving.routing import policy_of
from rcjax.serving.startup import start_engine

CONFIG = Path(__file__).parent.parent / "configs" / "mesh-4.yaml"
NUM_ITEMS, NUM_USERS, NUM_CANDIDATES = 80, 8, 20  # all of them fit a host
POOL_BYTES = 2**29
UNDER_WAY = 4  # a host
KILL_HOSTS = 4
KILL_LOAD = 0.2  # of what the hosts answer: on a small machine one that loads takes the cores of the others
BEFORE_KILL_S = 5.0
WAIT_S = 600.0
TOLERANCE = 1e-4  # of scores


def settings(num_hosts: int) -> Settings:
    """One row a pass, so that a host answers as many requests a second as its passes have room for."""
    wanted = load_settings(CONFIG)
    tiled = next(shape for shape in wanted.shapes.rank if shape.tiles and shape.batch == 1)
    return wanted.model_copy(
        update={
            "dtype": "float32",
            "mesh": MeshSettings(placement="hash", replica_share=0.5),
            "cluster": ClusterSettings(max_hosts=num_hosts, cpus=0, stall_s=30.0),
            "cache": CacheSettings(pool_bytes=POOL_BYTES),
            "shapes": ShapeSettings(rank=(tiled,), build=wanted.shapes.build),
        }
    )


@dataclass
class Running:
    """A cluster, a front end of this process, and what it is asked."""

    settings: Settings
    keeper: Any
    engine: LocalEngine
    asks: list[RecommendRequest]

    def hosts(self) -> Any:
        return ray.get(self.keeper.status.remote(), timeout=WAIT_S).hosts

    def wait_whole(self, number: int) -> None:
        end_s = time.monotonic() + WAIT_S
        while not (
            [one.state for one in self.hosts()] == ["open"] * number
            and [one.state for one in self.engine.stats().slices].count("open") == number
        ):
            if time.monotonic() > end_s:
                raise TimeoutError(f"{number} hosts are not open after {WAIT_S:.0f} s")
            time.sleep(0.2)


@contextmanager
def running(num_hosts: int, host: type[HostActor], num_requests: int) -> Iterator[Running]:
    wanted = settings(num_hosts)
    with ray_runtime(f"local:{num_hosts}"):
        keeper = keeper_of(wanted)
        for _ in range(num_hosts):
            launch_host(wanted, host)
        with start_front(wanted, keeper, progress=print) as engine:
            found = Running(wanted, keeper, engine, [])
            found.wait_whole(num_hosts)
            found.asks = fill(engine, num_requests)
            yield found


def fill(engine: LocalEngine, num_requests: int) -> list[RecommendRequest]:
    world = EmbeddedWorld(0, num_items=NUM_ITEMS)
    shop = world.catalogue(num_users=NUM_USERS, num_requests=0, num_candidates=NUM_CANDIDATES)
    engine.put_items(shop.items.values())
    for outcome in engine.put_users(shop.users.values()):
        if isinstance(outcome, RcjaxError):
            raise outcome
    rng = np.random.default_rng(0)
    users, asks = list(shop.users), []
    while len(asks) < num_requests:
        items = tuple(map(str, rng.choice(list(shop.items), NUM_CANDIDATES, replace=False)))
        ask = RecommendRequest(items, str(rng.choice(users)))
        try:
            engine.prompt(ask)
        except RcjaxError:
            continue  # longer than the shape holds
        asks.append(ask)
    return asks


# ---- scaling


def per_s(engine: LocalEngine, asks: list[RecommendRequest], under_way: int) -> float:
    """Requests a second with so many of them under way."""
    room, futures = threading.Semaphore(under_way), []
    start_s = time.monotonic()
    for ask in asks:
        room.acquire()
        future = engine.router.submit(ask)
        future.add_done_callback(lambda _: room.release())
        futures.append(future)
    for future in futures:
        future.result()
    return len(asks) / (time.monotonic() - start_s)


def scaling(num_hosts: int, num_requests: int, rounds: int) -> dict[str, Any]:
    with running(num_hosts, PacedHostActor, num_requests) as cluster:
        under_way = UNDER_WAY * num_hosts
        per_s(cluster.engine, cluster.asks, under_way)  # copies what hosts lack
        rates = [per_s(cluster.engine, cluster.asks, under_way) for _ in range(rounds)]
        profile = ray.get(cluster.keeper.profile.remote())
        predicted = predicted_per_s(cluster, profile, num_hosts)
        stats = cluster.engine.stats()
    return {
        "num_hosts": num_hosts,
        "per_s": rates,
        "predicted_per_s": predicted,
        "fetched_blocks": stats.num_fetched,
        "imbalance": stats.imbalance,
    }


def predicted_per_s(cluster: Running, profile: Profile, num_hosts: int) -> float:
    """What the simulator answers of the same requests, all of which are there from the start."""
    cost = CostModel(profile.config, profile.info.page_tokens, profile.page_bytes)
    cost.learn(profile.timed)
    token_bytes = profile.page_bytes / profile.info.page_tokens
    planner: Any = cluster.engine.router.planner
    number_of = {item: n for n, item in enumerate(dict.fromkeys(i for ask in cluster.asks for i in ask.candidates))}
    rows = [[number_of[str(item)] for item in ask.candidates] for ask in cluster.asks]
    workload = Workload(
        item_tokens=np.array([len(planner.item_block(Owner("", str(one))).block) for one in number_of], np.uint16),
        starts=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        items=np.array([item for row in rows for item in row], np.int32),
        history_tokens=np.full(len(rows), 250, np.int32),  # padded anyway
        gaps=np.ones(len(rows)),
        id_of=[str(one) for one in number_of].__getitem__,
    )
    (size,) = cluster.settings.shapes.rank
    fields = ("fresh_tokens", "num_pages", "batch", "tiles", "tile_tokens", "tile_pages")
    shape = Shape(**{name: getattr(size, name) for name in fields})
    simulated = Cluster(
        ItemOwners(Hashed(num_hosts)),
        CostTable.of_model("a host", cost, token_bytes, profile.info.page_tokens),
        PaddedArm(shape, profile.info.page_tokens, wants_items=False),  # all that is asked for has been copied
        max_batch=1,
    )
    outcome = simulate(simulated, workload, policy_of(cluster.settings.mesh.scheduler), 1e6)
    return len(rows) / float(np.max(outcome.done_s))


# ---- overhead


def overhead(num_requests: int) -> dict[str, Any]:
    """Milliseconds from a request to its answer, one at a time, by a cluster of one host and in this process."""
    samples: dict[str, list[float]] = {"cluster": [], "in process": []}
    with (
        running(1, PacedHostActor, num_requests) as cluster,
        paced(PacedDevices(**DEVICES)),
        start_engine(cluster.settings) as own,
    ):
        fill(own, num_requests)
        engines = {"cluster": cluster.engine, "in process": own}
        for ask in cluster.asks[:4]:
            for engine in engines.values():
                engine.router.submit(ask).result()
        for ask in cluster.asks:
            for name, engine in engines.items():
                start_s = time.perf_counter()
                engine.router.submit(ask).result()
                samples[name].append((time.perf_counter() - start_s) * 1e3)
    return {"samples_ms": samples, "p50_ms": {name: float(np.median(times)) for name, times in samples.items()}}


# ---- kills


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


# ---- the report


def claims_of(report: dict[str, Any]) -> list[Claim]:
    found = []
    rows = {row["num_hosts"]: row for row in report["scaling"]}
    first, last = rows[min(rows)], rows[max(rows)]
    if len(rows) > 1:
        name = f"requests/s of {last['num_hosts']} hosts, times those of {first['num_hosts']}"
        target = 0.9 * last["num_hosts"] / first["num_hosts"]
        found.append(Claim(name, float(np.median(last["per_s"]) / np.median(first["per_s"])), target))
    for row in rows.values():
        off = abs(row["predicted_per_s"] / np.median(row["per_s"]) - 1)
        name = f"{row['num_hosts']} hosts: simulated requests/s over measured, off by"
        found.append(Claim(name, float(off), 0.2, at_least=False))
    p50 = report["overhead"]["p50_ms"]
    found.append(Claim("P50 of a cluster of one less one process's, ms", p50["cluster"] - p50["in process"], 3, False))
    if (kill := report.get("kills")) is not None:
        found.append(Claim("wrong or lost answers", kill["num_wrong"] + len(kill["lost"]), 0, at_least=False))
        if kill["under_way_s"]:
            ratio = max(kill["under_way_s"]) / kill["normal_p99_s"]
            found.append(Claim("the last of a killed host's requests, in normal P99", ratio, 2, at_least=False))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write samples and claims here")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4], help="hosts of each cluster that is scaled")
    parser.add_argument("--requests", type=int, default=160, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=10, help="0 leaves them out")
    args = parser.parse_args()
    # Hosts find this folder's modules as this process does.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    report: dict[str, Any] = {"benchmark": "cluster", "scaling": []}
    for size in args.sizes:
        report["scaling"].append(scaling(size, args.requests, args.rounds))
        print(report["scaling"][-1], flush=True)
    report["overhead"] = overhead(args.requests)
    print(report["overhead"]["p50_ms"], flush=True)
    if args.kills:
        report["kills"] = kills(args.kills, min(args.requests, 40))
        print({name: value for name, value in report["kills"].items() if name != "under_way_s"}, flush=True)
    claims = claims_of(report)
    show_claims(claims)
    if args.json:
        write_report(args.json, report, claims)


if __name__ == "__main__":
    main()
