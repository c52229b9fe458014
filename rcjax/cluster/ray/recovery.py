"""Recovery: a keeper that starts anew takes members and library over from the hosts that are there."""

import asyncio
import logging
from typing import Any

from ray.exceptions import RayError
from ray.util import list_named_actors

from rcjax.cluster.ray.handle import HostHandle
from rcjax.cluster.ray.keeping import KeptLibrary
from rcjax.cluster.ray.membership import Membership, actor_of, restart_if_there
from rcjax.cluster.ray.names import HOST_PREFIX, NAMESPACE
from rcjax.cluster.ray.news import Hello
from rcjax.cluster.ray.records import Record, replay
from rcjax.errors import RcjaxError
from rcjax.prompt import BlockKind, Owner

logger = logging.getLogger(__name__)

Name = tuple[BlockKind, Owner]

HELLO_S = 10.0  # what a host has to answer in; one that has not is made to start anew


def host_names() -> list[str]:
    """The hosts that Ray knows, whatever state they are in."""
    actors = list_named_actors(all_namespaces=True)
    names = [one["name"] for one in actors if one["namespace"] == NAMESPACE]
    return sorted(name for name in names if name.startswith(HOST_PREFIX))


async def recover(members: Membership, library: KeptLibrary) -> None:
    """Brings members and library to what they were, but for writes that nobody was told are done."""
    names = await asyncio.to_thread(host_names)
    found = [hello for hello in await asyncio.gather(*map(_hello, names)) if hello is not None]
    joined = [hello for hello in found if hello.first_place is not None]  # the others join by themselves
    if not joined:
        return
    logger.warning("a keeper starts anew, with %d hosts that are there", len(joined))
    known: dict[Name, Record] = {}
    versions: list[dict[Name, int]] = []
    for hello in joined:
        versions.append({})
        async for chunk in actor_of(hello.name).dump.options(num_returns="streaming").remote():
            for record in await chunk:
                versions[-1][record.name] = record.version
                former = known.get(record.name)
                if former is None or former.version < record.version:
                    known[record.name] = record
    library.versions.follow(max(hello.newest for hello in joined))
    replay(library, known.values())
    for hello, held in zip(joined, versions, strict=True):
        # A write that the former keeper was about when it died may be on some of them only.
        lacking = tuple(record for name, record in known.items() if held.get(name) != record.version)
        host = HostHandle(actor_of(hello.name), hello.name, hello.incarnation)
        try:
            await members.join(hello)
            await asyncio.wrap_future(host.ask("record", lacking))
            await members.ready(hello.name, hello.incarnation)
        except RcjaxError as error:
            logger.warning("%s is no member any more: %s", hello.name, error)


async def _hello(name: str) -> Hello | None:
    """What a host says of itself; None where it does not, of which one that has joined starts anew when it can."""
    actor: Any = actor_of(name)
    asked = actor.hello.remote()
    try:
        return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(asked.future())), HELLO_S)
    except TimeoutError:
        asyncio.get_running_loop().create_task(_restart_late(actor, asked))
    except RayError as error:
        logger.warning("%s does not answer: %s", name, error)
    return None


async def _restart_late(actor: Any, asked: Any) -> None:
    try:
        hello = await asyncio.wrap_future(asked.future())
    except RayError:
        return
    if hello.first_place is not None:  # it was a member before, and has missed writes since
        await restart_if_there(HostHandle(actor, hello.name, hello.incarnation))
