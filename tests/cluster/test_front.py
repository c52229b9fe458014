"""A front end that stops: who still waits for the keeper is told so."""

import asyncio

import pytest

from rcjax.cluster.ray.front import FrontRouter, LoopThread
from rcjax.errors import UnavailableError


def test_a_write_that_is_under_way_when_the_server_stops_is_answered():
    loop = LoopThread()
    router = FrontRouter.__new__(FrontRouter)  # only what forwards a write
    router._cluster_loop = loop
    begun = asyncio.Event()

    async def never() -> None:
        begun.set()
        await asyncio.Event().wait()

    future = router._asked(never())
    loop.run(begun.wait())
    loop.stop()
    with pytest.raises(UnavailableError, match="whether this write is done is not known"):
        future.result(30)
