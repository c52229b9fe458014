"""Scheduling policies on the running engine: four slices on fake CPU devices, which all policies use in turn.

    python benchmarks/mesh.py --json mesh.json              # --rounds N (6), --requests N a round (80)
    python benchmarks/mesh.py --computed                    # passes that are computed, on the cores that slices share

The embedded model and shop, `parallel`. An item stands on one slice; a request's candidates come to 80% from the items
of one slice, so that there is something to gain and something to crowd. Requests arrive by a Poisson process at 50% and
85% of what `time` answers with eight under way. Rounds of all policies take turns, with the same arrivals in each.

Passes take a set time and no processor (benchmarks/paced_devices.py), as if each slice had a device of its own.
`--computed` computes them: then a slice that computes slows the others down, and nothing is gained by an idle one.
"""

import argparse
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

import numpy as np
from claims import Claim, show_claims, write_report
from paced_devices import PacedDevices, paced

from rcjax.catalog import EmbeddedWorld
from rcjax.config import SchedulerSettings, load_settings
from rcjax.errors import RcjaxError
from rcjax.request import RecommendRequest, RecommendResult
from rcjax.serving.owners import Hashed
from rcjax.serving.routing import policy_of
from rcjax.serving.scheduler import Sight
from rcjax.serving.startup import start_engine

Runs: TypeAlias = dict[str, dict[str, list[dict[str, Any]]]]

CONFIG = Path(__file__).parent.parent / "configs" / "mesh-4.yaml"
POLICIES = ("time", "affinity", "hit_only", "least_loaded", "round_robin")
LOADS = (0.5, 0.85)
NUM_ITEMS, NUM_USERS, NUM_CANDIDATES = 160, 8, 20  # each slice has room for all users and its own items
LOCALITY = 0.8
POOL_BYTES = 2**30  # of each slice
UNDER_WAY = 8
DEVICES = {"begin_s": 0.02, "row_s": 0.1, "token_s": 2e-3}  # of a pass of the embedded model on a core, about
NOISE = 1.1  # of a ratio of two policies' times in one run


class InTurn:
    """The policy that was named last, so that one engine serves all of them."""

    name = "in turn"

    def __init__(self) -> None:
        self._policies = {name: policy_of(SchedulerSettings(policy=name)) for name in POLICIES}
        self._now = self._policies["time"]

    def take(self, policy: str) -> None:
        self._now = self._policies[policy]

    def choose(self, sight: Sight) -> int:
        return self._now.choose(sight)


class MeshEngine:
    """A `LocalEngine` on four slices, with requests that a seed draws."""

    def __init__(self) -> None:
        self.policy = InTurn()
        settings = load_settings(CONFIG).with_weights(None, "")
        # A request pins all its pages while it waits; with less room a burst would evict items that no other slice has.
        settings = settings.model_copy(update={"cache": settings.cache.model_copy(update={"pool_bytes": POOL_BYTES})})
        with patch("rcjax.serving.startup.policy_of", return_value=self.policy):
            self.engine = start_engine(settings, progress=print)
        world = EmbeddedWorld(settings.catalogue.seed, num_items=NUM_ITEMS)
        shop = world.catalogue(num_users=NUM_USERS, num_requests=0, num_candidates=NUM_CANDIDATES)
        self.engine.put_items(shop.items.values())
        self._users = [user.user_id for user in shop.users.values()]
        for outcome in self.engine.put_users(shop.users.values()):
            if isinstance(outcome, RcjaxError):
                raise outcome
        rule = Hashed(settings.mesh.slices)
        self._items = list(shop.items)
        self._items_of = [
            [item for item in self._items if rule.slices_of(item) == (index,)] for index in range(rule.num_slices)
        ]

    def requests(self, number: int, seed: int) -> list[RecommendRequest]:
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(number):
            own = self._items_of[rng.integers(len(self._items_of))]
            num_own = min(rng.binomial(NUM_CANDIDATES, LOCALITY), len(own))
            chosen = list(rng.choice(own, num_own, replace=False))
            others = [item for item in rng.permutation(self._items) if item not in set(chosen)]
            chosen += others[: NUM_CANDIDATES - num_own]
            found.append(RecommendRequest(tuple(map(str, rng.permutation(chosen))), str(rng.choice(self._users))))
        return found

    def capacity(self, number: int, seed: int) -> float:
        """Requests a second with `UNDER_WAY` of them under way."""
        room = threading.Semaphore(UNDER_WAY)
        futures = []
        start_s = time.monotonic()
        for ask in self.requests(number, seed):
            room.acquire()
            future = self.engine.router.submit(ask)
            future.add_done_callback(lambda _: room.release())
            futures.append(future)
        for future in futures:
            future.result()
        return number / (time.monotonic() - start_s)

    def load(self, number: int, per_s: float, seed: int) -> dict[str, Any]:
        """Sends requests at their times, whatever is answered by then; times run from when each was to be sent."""
        asks = self.requests(number, seed)
        at_s = np.cumsum(np.random.default_rng(seed).exponential(1 / per_s, number))
        ttft_ms: list[float] = [0.0] * number
        all_done = threading.Semaphore(0)
        futures = []
        start_s = time.monotonic()

        def sent(index: int, due_s: float) -> None:
            def done(_: object) -> None:
                ttft_ms[index] = (time.monotonic() - due_s) * 1e3
                all_done.release()

            future = self.engine.router.submit(asks[index])
            future.add_done_callback(done)
            futures.append(future)

        for index, due_s in enumerate(start_s + at_s):
            time.sleep(max(0.0, due_s - time.monotonic()))
            sent(index, float(due_s))
        for _ in range(number):
            all_done.acquire()
        results: list[RecommendResult] = [future.result() for future in futures]
        tokens = [result.tokens for result in results]
        return {
            "ttft_ms": ttft_ms,
            "fetched": sum(one.fetched for one in tokens),
            "built": sum(one.built for one in tokens),
            "cached": sum(one.cached for one in tokens),
            "requests_of_slices": np.bincount([result.slice_index for result in results], minlength=4).tolist(),
        }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    with nullcontext() if args.computed else paced(PacedDevices(**DEVICES)):
        return measure_policies(args, MeshEngine())


def measure_policies(args: argparse.Namespace, mesh: MeshEngine) -> dict[str, Any]:
    with mesh.engine:
        for number, policy in enumerate(
            (*POLICIES, "time")
        ):  # all compute and fetch what they miss, and learn its cost
            mesh.policy.take(policy)
            per_s = mesh.capacity(args.requests, 1_000 + number)
        print(f"capacity: {per_s:.1f} requests/s", flush=True)
        runs: Runs = {f"{load:g}": {policy: [] for policy in POLICIES} for load in LOADS}
        for number in range(args.rounds):
            for load in LOADS:
                for policy in np.roll(POLICIES, number).tolist():
                    mesh.policy.take(policy)
                    runs[f"{load:g}"][policy].append(mesh.load(args.requests, load * per_s, number))
        info = mesh.engine.info()
        return {"capacity_per_s": per_s, "model": info.model, "dtype": info.dtype, "runs": runs}


def summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    times = np.concatenate([run["ttft_ms"] for run in runs])
    counts = {kind: sum(run[kind] for run in runs) for kind in ("fetched", "built", "cached")}
    given = np.sum([run["requests_of_slices"] for run in runs], axis=0)
    return {
        "n": len(times),
        "mean_ms": float(times.mean()),
        "p50_ms": float(np.median(times)),
        "p99_ms": float(np.quantile(times, 0.99)),
        "spread_of_means_ms": float(np.std([np.mean(run["ttft_ms"]) for run in runs])),
        "fetched_share": counts["fetched"] / max(counts["cached"], 1),
        "built_share": counts["built"] / max(counts["cached"], 1),
        "load_imbalance": float(given.max() / given.mean()),
    }


def claims_of(figures: dict[str, dict[str, dict[str, float]]]) -> list[Claim]:
    found = []
    for load, policies in figures.items():
        for key in ("mean_ms", "p99_ms"):
            best = min(values[key] for policy, values in policies.items() if policy != "time")
            name = f"load {load}: {key} of time over the best other policy's"
            found.append(Claim(name, policies["time"][key] / best, NOISE, at_least=False))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write samples and claims here")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--requests", type=int, default=80, help="of each policy at each load in each round")
    parser.add_argument("--computed", action="store_true", help="passes that the machine's cores compute")
    args = parser.parse_args()
    report = measure(args)
    figures = {
        load: {policy: summary(runs) for policy, runs in of_load.items()} for load, of_load in report["runs"].items()
    }
    for load, policies in figures.items():
        for policy, values in policies.items():
            shown = ", ".join(f"{name} {value:,.3g}" for name, value in values.items())
            print(f"load {load}, {policy}: {shown}")
    claims = claims_of(figures)
    show_claims(claims)
    if args.json:
        write_report(args.json, {"benchmark": "mesh", **report, "figures": figures}, claims)


if __name__ == "__main__":
    main()
