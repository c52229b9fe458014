"""Streams of many requests: each is answered on its own, so many at a time, and a slow reader holds up its own stream.

A request takes a place from when it is read until its answer is written. While all places are taken nothing more is
read, which gRPC's flow control passes on to the sender.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from google.protobuf.message import Message
from google.rpc import status_pb2

from rcjax.errors import InvalidRequestError, RcjaxError
from rcjax.serving.status import to_rpc_status

logger = logging.getLogger(__name__)

MAX_REQUESTS_UNDER_WAY = 64  # of one RecommendStream
MAX_CHUNKS_UNDER_WAY = 4  # of one PutItemsStream: some are planned and checked while one is built

Answer = Callable[[int, Any], Awaitable[Any]]
Write = Callable[[Any], Awaitable[None]]


async def answer_each(
    requests: AsyncIterator[Any], answer: Answer, write: Write, *, max_under_way: int, is_in_order: bool = False
) -> None:
    """Answers requests until there are no more; `max_under_way` at a time, in their own order if that is asked for.

    `answer` gets the request's number and the request, or the error that it did not parse with, and must not raise.
    Cancelling this cancels what is under way.
    """
    places = asyncio.Semaphore(max_under_way)
    writing = asyncio.Lock()

    async def handle(index: int, request: Any, before: asyncio.Task[None] | None) -> None:
        try:
            response = await answer(index, request)
            if before is not None:
                await before
            async with writing:
                await write(response)
        finally:
            places.release()

    index, last = 0, None
    try:
        async with asyncio.TaskGroup() as tasks:
            while True:
                await places.acquire()
                try:
                    request = await anext(requests)
                except StopAsyncIteration:
                    break
                except InvalidRequestError as error:
                    request = error
                last = tasks.create_task(handle(index, request, last if is_in_order else None))
                index += 1
    except BaseExceptionGroup as group:  # of writes: the connection is gone, and one of them says it
        raise group.exceptions[0] from None


async def outcome_of(work: Awaitable[Any], named: Message | None) -> Any:
    """What some work gives, or the `google.rpc.Status` that tells of its failure; `named` is what error fields name."""
    try:
        return await work
    except RcjaxError as error:
        return to_rpc_status(error, named)
    except Exception:
        logger.exception("a request of a stream failed unexpectedly")
        return to_rpc_status(RcjaxError("internal error; the server's log has the details"))


def is_failure(outcome: Any) -> bool:
    return isinstance(outcome, status_pb2.Status)
