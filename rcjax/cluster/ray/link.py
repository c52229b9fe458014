"""A link from a router to a host: what the host says is passed on, and its death is noticed by its calls failing."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from rcjax.cluster.ray.handle import HostHandle
from rcjax.cluster.ray.member import Member
from rcjax.cluster.ray.news import News
from rcjax.cluster.ray.remote_slice import RemoteSlice
from rcjax.engine.cost import CostModel
from rcjax.errors import UnavailableError
from rcjax.serving.places import Places
from rcjax.serving.residency import Residency

logger = logging.getLogger(__name__)

RETRY_S = 0.5  # until a host that is gone is asked again whether it is


class HostLink:
    """Asks a host for news, and has its slices take their places as long as it answers; used on one event loop.

    A host that says nothing for `stall_s` is stalled until it does (None: it is waited for). `lost` is called when its
    calls fail, as Ray says that the actor died; it is asked on, as it may only have been out of reach.
    """

    def __init__(
        self,
        member: Member,
        host: HostHandle,
        slices: Sequence[RemoteSlice],
        places: Places,
        residency: Residency,
        cost: CostModel,
        *,
        stall_s: float | None,
        lost: Callable[["HostLink"], None] = lambda link: None,
    ):
        self.member = member
        self.host = host
        self.attached = asyncio.Event()  # whether its slices have their places; set, too, once it is closed
        self.is_closed = False
        self._slices = [slices[place] for place in member.places]
        self._places = places
        self._residency = residency
        self._cost = cost
        self._stall_s = stall_s
        self._lost = lost
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self, why: str) -> None:
        """Ends it: the host's places are empty, and what it had is tried elsewhere."""
        if self._task is not None:
            self._task.cancel()
        for place in self.member.places:
            self._places.vacate(place)
        self._detach(why)
        self.is_closed = True
        self.attached.set()

    def lose(self, why: str) -> None:
        """Takes the host for dead."""
        if self.attached.is_set():
            logger.warning("%s is lost: %s", self.host.name, why)
            for place in self.member.places:
                self._places.lose(place)
            self._detach(why)
        self._lost(self)

    async def _run(self) -> None:
        after: int | None = None
        while True:
            try:
                news = await self._hear(self.host.ask("news", after))
            except UnavailableError as error:
                self.lose(str(error))
                after = None
                await asyncio.sleep(RETRY_S)
                continue
            except Exception:
                logger.exception("%s cannot tell its news", self.host.name)
                after = None
                await asyncio.sleep(RETRY_S)
                continue
            self._take(news)
            after = news.messages.end

    async def _hear(self, asked: "Future[News]") -> News:
        hearing = asyncio.wrap_future(asked)
        hearing.add_done_callback(_seen)  # once the link is closed nobody waits for it
        try:
            return await asyncio.wait_for(asyncio.shield(hearing), self._stall_s)
        except TimeoutError:
            logger.warning("%s says nothing for %.1f s; requests go elsewhere", self.host.name, self._stall_s or 0.0)
        for place in self.member.places:
            self._places.stall(place)
        news = await hearing
        for place in self.member.places:
            self._places.resume(place)
        return news

    def _take(self, news: News) -> None:
        if news.is_whole:
            for place in self.member.places:
                self._residency.forget(place)
        news.messages.tell(self._residency, self.member.first_place)
        for one, stats in zip(self._slices, news.stats, strict=True):
            one.stats = stats
        self._cost.learn(news.timed)
        if not self.attached.is_set():
            for number, one in enumerate(self._slices):
                one.attach(self.host, number)
                self._places.occupy(one.place)
            self.attached.set()

    def _detach(self, why: str) -> None:
        self.attached.clear()
        for one in self._slices:
            one.detach(why)


def _seen(hearing: "asyncio.Future[News]") -> None:
    if not hearing.cancelled():
        hearing.exception()
