"""The actor that keeps a cluster: its library and its members. One process plans all writes, in one order."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator

from rcjax.cache.placement import Placement
from rcjax.cluster.ray.answer import Answer, answered
from rcjax.cluster.ray.keeping import LEASE_S, Followers, KeptLibrary
from rcjax.cluster.ray.membership import Membership
from rcjax.cluster.ray.news import Hello
from rcjax.cluster.ray.profile import Profile
from rcjax.cluster.ray.records import Record, dump
from rcjax.cluster.ray.recovery import recover
from rcjax.cluster.ray.update import ClusterStatus, Update, Written
from rcjax.config import Settings
from rcjax.request import Rebalanced, Write
from rcjax.serving.startup import TEXT_CACHE_BYTES

logger = logging.getLogger(__name__)

FOLLOW_PAUSE_S = 0.5  # an update without a change, so that followers say what they still read
FORGET_EVERY_S = 1.0
MAX_SENT = 256  # writes in one update


class KeeperActor:
    """Plans and fans out the cluster's writes, tells followers of them, and says who is a member.

    It has no weights and answers no requests. What it knows the hosts know too: one that Ray starts anew takes the
    library over from them (`rcjax.cluster.ray.recovery`), and a write that was answered is on all hosts that live.
    """

    def __init__(self, settings: Settings):
        self._settings = settings
        self._clock = time.monotonic
        self._followers = Followers(self._clock)
        self._library = KeptLibrary(TEXT_CACHE_BYTES, self._followers)
        self._members = Membership(settings, self._library, self._clock)
        self._epoch = uuid.uuid4().hex
        self._starting: asyncio.Task[None] | None = None

    # ---- hosts

    async def join(self, hello: Hello) -> Answer:
        """Gives a host its places; it is to take the library over next, and to say when it has."""

        async def join() -> None:
            await self._started()
            await self._members.join(hello)

        return await answered(join())

    async def ready(self, name: str, incarnation: str) -> Answer:
        """A host has the library: it takes writes from now on, and requests once what it owns is there."""

        async def ready() -> None:
            await self._started()
            await self._members.ready(name, incarnation)

        return await answered(ready())

    async def dump(self) -> AsyncIterator[list[Record]]:
        """All items and users, in chunks."""
        await self._started()
        for chunk in dump(self._library):
            yield chunk

    async def remove(self, name: str, grace_s: float | None) -> Answer:
        """Drains a host for at most `grace_s` and ends it; None ends it at once, as if it had died."""

        async def remove() -> None:
            await self._started()
            await self._members.remove(name, grace_s)

        return await answered(remove())

    # ---- front ends

    async def profile(self) -> Profile | None:
        """What hosts have in common; None while there is none that takes requests."""
        await self._started()
        return self._members.profile if self._members.is_open else None

    async def follow(self, follower: str, epoch: str, after: int, oldest: int | None) -> Update:
        """What has changed since `after`, as soon as there is something, or after a pause.

        `oldest` is the oldest version that the follower reads; None from one that has read nothing yet.
        """
        await self._started()
        versions, feed = self._library.versions, self._library.feed
        if oldest is not None:
            self._followers.heard(follower, oldest)
        if epoch == self._epoch:
            await self._members.news.wait(after, FOLLOW_PAUSE_S)
        newest, readable = versions.newest, versions.readable  # before the changes, which then have all up to these
        end = feed.end
        changes = feed.since(after, MAX_SENT) if epoch == self._epoch else None
        if oldest is None:
            self._followers.heard(follower, readable)
        if changes is None:
            members = self._members.members
            return Update(self._epoch, end, (), True, readable, newest, members)
        if after + len(changes) < end:
            readable = 0  # the rest comes with the next one
        records = tuple(record for change in changes for record in change)
        return Update(self._epoch, after + len(changes), records, False, readable, newest, self._members.members)

    async def apply(self, write: Write, left_s: float | None) -> Answer:
        """Applies a write, for which its caller waits `left_s` longer."""

        async def apply() -> Written:
            await self._started()
            deadline_s = None if left_s is None else self._clock() + left_s
            future = self._members.router.submit_write(write, deadline_s=deadline_s)
            result = await asyncio.wrap_future(future)
            return Written(result, self._epoch, self._library.feed.end)

        return await answered(apply())

    async def rebalance(self, placement: Placement) -> Answer:
        """See `Router.rebalance`; the placement's slices are the places of the cluster."""

        async def rebalance() -> Rebalanced:
            await self._started()
            return await asyncio.wrap_future(self._members.router.rebalance(placement))

        return await answered(rebalance())

    # ---- who runs it

    async def settings(self) -> Settings:
        return self._settings

    async def status(self) -> ClusterStatus:
        await self._started()
        library = self._library
        profile = self._members.profile
        return ClusterStatus(
            model="" if profile is None else profile.info.model,
            num_items=library.num_items,
            num_users=library.num_users,
            num_routers=len(self._followers),
            hosts=await self._members.status(),
            refused=dict(self._members.refused),
        )

    async def _started(self) -> None:
        """Waits until what there was before this process is known."""
        if self._starting is None:
            self._starting = asyncio.create_task(self._start())
        await asyncio.shield(self._starting)

    async def _start(self) -> None:
        await recover(self._members, self._library)
        self._forgetting = asyncio.create_task(self._forget())

    async def _forget(self) -> None:
        """Tells hosts, again and again, which versions nobody reads any more."""
        await asyncio.sleep(LEASE_S)  # in which those that followed a keeper before this one say what they read
        told = 0
        while True:
            await asyncio.sleep(FORGET_EVERY_S)
            oldest = self._library.versions.oldest
            if oldest > told:
                told = oldest
                self._members.forget_versions(oldest)
