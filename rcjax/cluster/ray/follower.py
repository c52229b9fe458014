"""A follower of the keeper: a library that has what writes change, and links to the hosts that are members."""

import asyncio
import logging
import uuid
from contextlib import suppress
from typing import Any

from ray.exceptions import RayError

from rcjax.cluster.ray.handle import HostHandle, first_line
from rcjax.cluster.ray.link import HostLink
from rcjax.cluster.ray.member import Member, MemberState
from rcjax.cluster.ray.membership import actor_of
from rcjax.cluster.ray.records import replay, retain
from rcjax.cluster.ray.remote_parts import RemoteParts
from rcjax.cluster.ray.update import Update, Written
from rcjax.config import Settings
from rcjax.engine.library import Library
from rcjax.errors import InvalidRequestError
from rcjax.prompt import BlockKind, Owner
from rcjax.serving.router import Router

logger = logging.getLogger(__name__)

RETRY_S = 0.5  # while the keeper is away; requests go on without it
REACHED_S = 10.0  # that the answer to a write waits for the library


class Follower:
    """Keeps a router's library and places as the keeper says; used on one event loop, but for `library`.

    While the keeper is away nothing changes. One that comes back after others have deleted, or that starts anew, is
    taken over whole.
    """

    def __init__(self, keeper: Any, settings: Settings, library: Library, parts: RemoteParts, router: Router):
        self._keeper = keeper
        self._settings = settings
        self._library = library
        self._parts = parts
        self._router = router
        self._name = uuid.uuid4().hex
        self._epoch = ""
        self._end = 0
        self._told = asyncio.Condition()  # notified after each update
        self._links: dict[str, HostLink] = {}
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Follows from now on; returns once the library is there and a host takes requests."""
        await self._take(await self._ask(None))
        self._task = asyncio.get_running_loop().create_task(self._run())
        async with self._told:
            await self._told.wait_for(lambda: any(link.attached.is_set() for link in self._links.values()))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        for link in self._links.values():
            link.close("the server is stopping")

    async def reached(self, written: Written) -> None:
        """Waits until a write is in the library, unless the keeper dies meanwhile: then it comes a little later."""
        async with self._told:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait_for(lambda: self._has(written)), REACHED_S)

    def _has(self, written: Written) -> bool:
        return self._epoch == written.epoch and self._end >= written.end

    async def _run(self) -> None:
        while True:
            try:
                await self._take(await self._ask(self._library.versions.oldest))
            except RayError as error:
                logger.warning("the keeper of the cluster is away: %s", first_line(error))
                await asyncio.sleep(RETRY_S)
            except Exception:
                logger.exception("an update of the cluster cannot be taken")
                await asyncio.sleep(RETRY_S)
            async with self._told:
                self._told.notify_all()

    async def _ask(self, oldest: int | None) -> Update:
        asked = self._keeper.follow.remote(self._name, self._epoch, self._end, oldest)
        return await asyncio.wrap_future(asked.future())

    async def _take(self, update: Update) -> None:
        if update.is_whole:
            gone = await self._take_over(update.newest)
        else:
            replay(self._library, update.records)
            gone = [record.name for record in update.records if record.content is None]
        for kind, owner in gone:
            if kind is BlockKind.HISTORY:
                self._router.forget_user(owner)
        self._library.versions.follow(update.readable)
        self._epoch, self._end = update.epoch, update.end
        self._follow_members(update.members)

    async def _take_over(self, newest: int) -> list[tuple[BlockKind, Owner]]:
        """Takes all items and users anew; `newest` was the newest version before. Returns what was deleted."""
        names: set[tuple[BlockKind, Owner]] = set()
        async for chunk in self._keeper.dump.options(num_returns="streaming").remote():
            records = await chunk
            names.update(record.name for record in records)
            replay(self._library, records)
        return retain(self._library, names, newest)

    def _follow_members(self, members: tuple[Member, ...]) -> None:
        wanted = {member.name: member for member in members if member.state is not MemberState.JOINING}
        for name, link in list(self._links.items()):
            member = wanted.get(name)
            if member is None or member.incarnation != link.member.incarnation:
                self._links.pop(name).close("the host is no member any more")
        for name, member in wanted.items():
            if name not in self._links:
                self._open(member)
            found = self._links.get(name)
            if found is not None and member.state is MemberState.LEAVING and found.member.state is MemberState.OPEN:
                found.member = member
                self._drain(member)

    def _drain(self, member: Member) -> None:
        for place in member.places:
            try:
                self._router.drain(place)
            except InvalidRequestError as error:
                logger.warning("%s leaves, and is not drained: %s", member.name, error)

    def _open(self, member: Member) -> None:
        if member.state is not MemberState.OPEN or self._library.versions.readable < member.floor:
            return  # before that it would refuse what is planned here
        try:
            host = HostHandle(actor_of(member.name), member.name, member.incarnation)
        except ValueError:
            return  # it has just ended, as the next update will say
        link = HostLink(
            member,
            host,
            self._parts.slices,
            self._router.places,
            self._parts.residency,
            self._parts.planning.cost,
            stall_s=self._settings.cluster.stall_s,
        )
        self._links[member.name] = link
        link.start()
