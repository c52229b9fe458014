"""The members of a cluster as its keeper has them: who joins, is filled, leaves or dies, and what follows."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import get_placement_group, remove_placement_group

from rcjax.cluster.ray.feed import Feed
from rcjax.cluster.ray.handle import HostHandle
from rcjax.cluster.ray.host_log import HostLog
from rcjax.cluster.ray.keeping import KeptLibrary
from rcjax.cluster.ray.link import HostLink
from rcjax.cluster.ray.member import Member, MemberOwners, MemberState
from rcjax.cluster.ray.names import NAMESPACE
from rcjax.cluster.ray.news import Hello
from rcjax.cluster.ray.profile import Planning, Profile
from rcjax.cluster.ray.remote_parts import RemoteParts, num_places_of
from rcjax.cluster.ray.statuses import num_items, status_of
from rcjax.cluster.ray.update import HostStatus
from rcjax.config import Settings
from rcjax.errors import InvalidRequestError, NotFoundError, RcjaxError, UnavailableError
from rcjax.serving.router import Router
from rcjax.serving.routing import owners_of

logger = logging.getLogger(__name__)

SETTLE_RETRY_S = 0.5
DRAIN_LOOK_S = 0.1


class Membership:
    """Hosts by name, with a link to each and a router over all; used on the keeper's event loop.

    Whenever members come or go, the owners of items follow: what a member lacks of what it owns is fetched or computed
    there, and then the others drop what is theirs no longer (`Router.rebalance`). A member takes requests after that.
    `news` is the library's feed, which wakes when members change.
    """

    def __init__(self, settings: Settings, library: KeptLibrary, clock: Callable[[], float]):
        self.profile: Profile | None = None
        self.refused: dict[str, str] = {}  # why hosts could not join, by name
        self.news: Feed[Any] = library.feed
        self._settings = settings
        self._library = library
        self._clock = clock
        self._members: dict[str, Member] = {}
        self._links: dict[str, HostLink] = {}
        self._parts: RemoteParts | None = None
        self._router: Router | None = None
        mesh = settings.mesh.model_copy(update={"slices": num_places_of(settings)})
        self._owners = MemberOwners(owners_of(mesh).rule)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._log = HostLog(self._on_silent)
        self._joins = asyncio.Lock()  # so that two hosts do not get one place
        self._settling: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def members(self) -> tuple[Member, ...]:
        return tuple(self._members.values())

    @property
    def is_open(self) -> bool:
        """Whether a member takes requests."""
        return any(member.state is MemberState.OPEN for member in self._members.values())

    @property
    def router(self) -> Router:
        """`UnavailableError` before the first host has joined."""
        if self._router is None:
            raise UnavailableError("no host has joined the cluster yet")
        return self._router

    # ---- coming

    async def join(self, hello: Hello) -> None:
        """Takes a host in, as `joining`: it records writes from now on. Refuses one that is of another kind."""
        async with self._joins:
            await self._join(hello)

    async def _join(self, hello: Hello) -> None:
        if hello.name in self._members:
            self._drop(hello.name, "it has started anew")
        try:
            self._check(hello)
            first_place = self._free_place() if hello.first_place is None else hello.first_place
        except RcjaxError as error:
            self.refused[hello.name] = error.message
            raise
        self.refused.pop(hello.name, None)
        await self._begin(hello.profile)
        member = Member(
            hello.name, hello.incarnation, hello.node, hello.pid, first_place, hello.num_slices, MemberState.JOINING
        )
        self._members[hello.name] = member
        host = HostHandle(actor_of(hello.name), hello.name, hello.incarnation)
        self._log.hosts = {**self._log.hosts, hello.name: host}
        parts, router = self._parts, self.router
        assert parts is not None
        link = HostLink(
            member,
            host,
            parts.slices,
            router.places,
            parts.residency,
            parts.planning.cost,
            stall_s=None,  # writes wait for it
            lost=self._on_lost,
        )
        self._links[hello.name] = link
        # What was begun before is not recorded there: it has to be in the library that is taken over.
        await asyncio.wrap_future(router.after_writes())

    async def ready(self, name: str, incarnation: str) -> None:
        """A member that joins has the library: it is alive for writes, and is filled."""
        member = self._members.get(name)
        if member is None or member.incarnation != incarnation:
            raise UnavailableError(f"{name} is no member any more; join again")
        link = self._links[name]
        link.start()
        await link.attached.wait()
        if link.is_closed:
            raise UnavailableError(f"{name} was lost while it joined; join again")
        # Only now: a deletion from here on reaches it, and a plan older than those before is refused there.
        floor = self._library.versions.newest
        await asyncio.wrap_future(link.host.ask("open", member.first_place, floor))
        self._change(replace(member, floor=floor))
        self._owners.places |= set(member.places)
        self._settle_soon()

    def _check(self, hello: Hello) -> None:
        """`InvalidRequestError` where a host does not go with those that are there."""
        profile = self.profile
        if profile is not None and hello.profile.instruction != profile.instruction:
            raise InvalidRequestError(
                f"{hello.name} has model {hello.profile.info.model!r}, another one than the cluster's "
                f"{profile.info.model!r}, or another template, KV format or salt; start another cluster for it"
            )
        if hello.num_slices != self._settings.mesh.slices:
            raise InvalidRequestError(
                f"{hello.name} has {hello.num_slices} slices, and hosts of this cluster have "
                f"{self._settings.mesh.slices} (mesh.slices)"
            )

    def _free_place(self) -> int:
        num_slices = self._settings.mesh.slices
        taken = {member.first_place for member in self._members.values()}
        for first in range(0, num_places_of(self._settings), num_slices):
            if first not in taken:
                return first
        raise InvalidRequestError(
            f"the cluster has cluster.max_hosts={self._settings.cluster.max_hosts} hosts; start it anew with more"
        )

    async def _begin(self, profile: Profile) -> None:
        """Makes the router, once the first host says what it serves."""
        if self._router is not None:
            return
        loop = asyncio.get_running_loop()
        planning = await asyncio.to_thread(Planning.of, self._settings, profile, self._library)
        if self._router is not None:
            return
        self._loop, self.profile = loop, profile
        self._parts = parts = RemoteParts.of(self._settings, planning, loop, self._clock)
        self._router = Router(
            planning.planner,
            parts.slices,
            self._library,
            profile.info,
            residency=parts.residency,
            owners=self._owners,
            costs=planning.cost,
            write_log=self._log,
            clock=self._clock,
        )
        for place in range(len(parts.slices)):
            self._router.places.vacate(place)
        self._router.start()

    # ---- following the members

    def _settle_soon(self) -> None:
        if self._settling is None or self._settling.done():
            self._settling = asyncio.get_running_loop().create_task(self._settle())

    async def _settle(self) -> None:
        """Has owners follow the members until they do, and opens those that are filled."""
        while self._owners.places and (rule := self._owners.following()) is not None:
            try:
                done = await asyncio.wrap_future(self.router.rebalance(rule))
                logger.info("members changed: %d blocks moved, %d computed", done.num_arriving, done.num_built)
            except RcjaxError as error:
                logger.warning("items do not follow the members yet: %s", error)
                await asyncio.sleep(SETTLE_RETRY_S)
        for member in self.members:
            if member.state is MemberState.JOINING and set(member.places) <= self._owners.places:
                self._change(replace(member, state=MemberState.OPEN))

    def _change(self, member: Member) -> None:
        self._members[member.name] = member
        self.news.wake()

    # ---- going

    async def remove(self, name: str, grace_s: float | None) -> None:
        """See `KeeperActor.remove`."""
        member = self._members.get(name)
        try:
            actor = actor_of(name)
        except ValueError as error:
            raise NotFoundError(f"no host of this cluster is called {name!r}; see rcjax cluster status") from error
        if member is not None and len(self._members) == 1:
            raise InvalidRequestError(f"{name} is the last host, and with it the library would go; add another first")
        if member is not None and grace_s is not None:
            await self._drain(member, actor, grace_s)
        if name in self._members:
            self._drop(name, "it was removed")
        await asyncio.to_thread(end_host, actor, name)
        await self._settled()

    async def _drain(self, member: Member, actor: Any, grace_s: float) -> None:
        end_s = self._clock() + grace_s
        self._change(replace(member, state=MemberState.LEAVING))
        self._owners.places -= set(member.places)
        await self._settled()
        with suppress(RayError):  # it has died: nothing waits there
            while self._clock() < end_s and await actor.num_waiting.remote():
                await asyncio.sleep(DRAIN_LOOK_S)

    async def _settled(self) -> None:
        self._settle_soon()
        assert self._settling is not None
        await asyncio.shield(self._settling)

    def _drop(self, name: str, why: str) -> None:
        """Does without a member from now on."""
        member = self._members.pop(name)
        self._log.hosts = {one: host for one, host in self._log.hosts.items() if one != name}
        self._owners.places -= set(member.places)
        self._links.pop(name).close(why)
        self.news.wake()

    def _on_lost(self, link: HostLink) -> None:
        """A host's calls fail: it is no member any more, and what it owned goes to others."""
        name = link.host.name
        if self._links.get(name) is link:
            self._drop(name, "the host has died")
            self._settle_soon()
            self._watch(link.host)

    def _on_silent(self, host: HostHandle, why: str) -> None:
        """A host did not take a write, as some thread found: it must not go on without it."""
        assert self._loop is not None

        def lose() -> None:
            link = self._links.get(host.name)
            if link is not None and link.host is host:
                link.lose(why)

        self._loop.call_soon_threadsafe(lose)

    def _watch(self, host: HostHandle) -> None:
        """Has a host start anew that was only out of reach: it has missed writes."""
        task = asyncio.get_running_loop().create_task(restart_if_there(host))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # ---- what others may know

    def forget_versions(self, before: int) -> None:
        for host in self._log.hosts.values():
            host.actor.forget_versions.remote(before)

    async def status(self) -> tuple[HostStatus, ...]:
        """Of each member; counts the items of each, so it takes a while where there are many."""
        owned = await asyncio.to_thread(num_items, self._library, self._owners)
        slices = () if self._parts is None else self._parts.slices
        return tuple(status_of(member, slices, owned) for member in self.members)


def actor_of(name: str) -> Any:
    """A host's actor; ValueError where there is none of that name."""
    return ray.get_actor(name, namespace=NAMESPACE)


def end_host(actor: Any, name: str) -> None:
    """Ends a host for good, and gives back what Ray has set aside for it."""
    ray.kill(actor, no_restart=True)
    with suppress(ValueError):  # it takes nothing of a node
        remove_placement_group(get_placement_group(name))


async def restart_if_there(host: HostHandle) -> None:
    """Kills a host's process if it answers as the incarnation that is meant; Ray starts it anew."""
    try:
        await asyncio.wrap_future(host.ask("is_there"))
    except RcjaxError:
        return  # it has died, or is another by now
    await asyncio.to_thread(ray.kill, host.actor, no_restart=False)
