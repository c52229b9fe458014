"""RPC handlers of all four kinds as one: a coroutine over what comes in, which sends what goes out."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from rcjax.errors import RcjaxError
from rcjax.serving.status import abort_with

# Takes a request, or an iterator of requests, and gRPC's context. Returns the response, or None once all are written.
Handle: TypeAlias = Callable[[Any, Any], Awaitable[Any]]
Deserialize: TypeAlias = Callable[[bytes], Any]
Handler: TypeAlias = Any  # a `grpc.RpcMethodHandler`, which has type arguments in its stubs only

_MAKERS = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def wrapped(handler: Handler, around: Callable[[Handle], Handle], deserialize: Deserialize | None = None) -> Handler:
    """The same handler with `around` what it does, and `deserialize` in place of what reads its messages."""
    kind = (handler.request_streaming, handler.response_streaming)
    handle: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    return _MAKERS[kind](
        around(_coroutine(handle)),
        request_deserializer=handler.request_deserializer if deserialize is None else deserialize,
        response_serializer=handler.response_serializer,
    )


def refusing(error: RcjaxError) -> Handler:
    """A handler for an RPC of any kind that answers with `error`, and reads nothing."""

    async def refuse(requests: AsyncIterator[bytes], context: Any) -> None:
        await abort_with(context, error)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _coroutine(handle: Callable[[Any, Any], Any]) -> Handle:
    """A handler that yields its responses, as one that writes them: its task, and so its caller, stay the same."""
    if not inspect.isasyncgenfunction(handle):
        return handle

    async def write_all(request: Any, context: Any) -> None:
        async with aclosing(handle(request, context)) as responses:
            async for response in responses:
                await context.write(response)

    return write_all
