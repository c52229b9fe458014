"""A front end: a router of its own in this process, over the hosts of a cluster; any number of them may run."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import ray
from ray.exceptions import RayError

from rcjax.cache.placement import Placement, RequestLog
from rcjax.cluster.ray.answer import Answer
from rcjax.cluster.ray.follower import Follower
from rcjax.cluster.ray.handle import first_line
from rcjax.cluster.ray.profile import Planning, Profile
from rcjax.cluster.ray.remote_parts import RemoteParts
from rcjax.cluster.ray.starting import Starting
from rcjax.cluster.ray.update import Written
from rcjax.config import Settings
from rcjax.engine.state import fail, pass_on
from rcjax.errors import InvalidRequestError, UnavailableError
from rcjax.request import Rebalanced, Write, WriteResult
from rcjax.serving.engine import RestoreResult, SnapshotResult
from rcjax.serving.local import LocalEngine
from rcjax.serving.owners import OwnerRule
from rcjax.serving.router import Router
from rcjax.serving.routing import limits_of, policy_of

T = TypeVar("T")
Progress = Callable[[str], None]

NO_SNAPSHOTS = "a cluster takes no snapshots: its library is on every host; save one of a single host (rcjax build)"
PROFILE_PAUSE_S = 0.5
ALIKE = ("cache", "mesh", "cluster", "limits", "arms", "default_arm", "semantic", "shapes")


class LoopThread:
    """An event loop on a thread of its own, for what follows the cluster beside the server's."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="rcjax-cluster", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` gives; waits for it."""
        return self.begin(work).result()

    def begin(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self.loop)

    def stop(self) -> None:
        self.run(_end_tasks())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self.loop.close()


async def _end_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class FrontRouter(Router):
    """A router whose writes the cluster's keeper plans and fans out; requests are its own.

    A write is answered once this router's library has it, so that requests that are sent after the answer see it here;
    other front ends see it a message later. It knows of the keeper's death as `UnavailableError`.
    """

    def __init__(self, keeper: Any, settings: Settings, profile: Profile, parts: RemoteParts, loop: LoopThread):
        mesh, planning = settings.mesh, parts.planning
        super().__init__(
            planning.planner,
            parts.slices,
            planning.planner.library,
            profile.info,
            limits=limits_of(settings.admission),
            planner_threads=settings.server.planner_threads,
            residency=parts.residency,
            policy=policy_of(mesh.scheduler),
            max_imbalance=mesh.scheduler.max_imbalance,
            costs=planning.cost,
            request_log=RequestLog(mesh.request_log) if mesh.request_log else None,
        )
        for place in range(len(parts.slices)):
            self.places.vacate(place)
        self._keeper = keeper
        self._cluster_loop = loop
        self._follower = Follower(keeper, settings, planning.planner.library, parts, self)

    def start(self) -> None:
        """Takes the library over, and waits until a host takes requests."""
        super().start()
        self._cluster_loop.run(self._follower.start())

    def stop(self, grace_s: float) -> None:
        super().stop(grace_s)
        self._cluster_loop.run(self._follower.stop())
        self._cluster_loop.stop()

    def submit_write(self, write: Write, *, deadline_s: float | None = None) -> Future[WriteResult]:
        left_s = None if deadline_s is None else deadline_s - time.monotonic()
        return self._asked(self._write(write, left_s))

    def rebalance(self, placement: Placement | OwnerRule) -> Future[Rebalanced]:
        """See `Router.rebalance`; slices are numbered as the places of the cluster, also of hosts that are to come."""
        return self._asked(self._ask("rebalance", placement))

    async def take_snapshot(self) -> SnapshotResult:
        raise InvalidRequestError(NO_SNAPSHOTS)

    async def restore_snapshot(self, number: int) -> RestoreResult:
        raise InvalidRequestError(NO_SNAPSHOTS)

    async def _write(self, write: Write, left_s: float | None) -> WriteResult:
        written: Written = await self._ask("apply", write, left_s)
        await self._follower.reached(written)
        return written.result

    async def _ask(self, method: str, *args: Any) -> Any:
        try:
            answer: Answer = await asyncio.wrap_future(getattr(self._keeper, method).remote(*args).future())
        except RayError as error:
            raise UnavailableError(
                f"the keeper of the cluster is gone, and whether this is done is not known: {first_line(error)}"
            ) from error
        return answer.result()

    def _asked(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """The outcome of `work`, which goes on where nobody waits for it any more."""
        future: Future[T] = Future()

        def done(ended: "Future[T]") -> None:
            if ended.cancelled():
                fail(future, UnavailableError("the server stopped, and whether this write is done is not known"))
            pass_on(ended, future)

        self._cluster_loop.begin(work).add_done_callback(done)
        return future


def start_front(
    settings: Settings, keeper: Any, *, hosts: Sequence[str] = (), progress: Progress = lambda step: None
) -> LocalEngine:
    """A front end that has the library and a host that takes requests, for which it waits.

    `hosts` are those that were just launched. ValueError where one of them cannot start, or where the settings here
    are not those of the hosts.
    """
    check_alike(settings, ray.get(keeper.settings.remote()))
    progress("waiting for the hosts of the cluster: each loads the model and compiles")
    starting = Starting(hosts)
    while (profile := ray.get(keeper.profile.remote())) is None:
        time.sleep(PROFILE_PAUSE_S)
        starting.check()
    planning = Planning.of(settings, profile)
    loop = LoopThread()
    parts = RemoteParts.of(settings, planning, loop.loop, time.monotonic)
    router = FrontRouter(keeper, settings, profile, parts, loop)
    progress("taking over the library")
    router.start()
    return LocalEngine(router, planning.builder.text_block)


def check_alike(settings: Settings, kept: Settings) -> None:
    """ValueError where the settings of a front end differ from the cluster's in what hosts go by, too.

    Where the model and the template are may differ: what they are is in the key of the instruction.
    """
    others = [name for name in ALIKE if getattr(settings, name) != getattr(kept, name)]
    if others:
        raise ValueError(
            f"{', '.join(others)} of these settings differ from those that the cluster was started with; take its "
            "settings, or stop it (rcjax cluster stop) and start it with these"
        )
