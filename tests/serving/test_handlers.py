"""Handlers of every kind behind both interceptors: what they answer, and what a failure tells."""

import asyncio
from typing import Any

import grpc
import pytest

from rcjax.errors import RcjaxError, UnauthenticatedError
from rcjax.serving.caller import current_caller
from rcjax.serving.handlers import wrapped
from rcjax.serving.interceptor import StatusInterceptor
from rcjax.serving.security import ServerSecurity
from rcjax.serving.status import from_rpc_error

TIMEOUT_S = 60.0


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_errors_of_every_kind_have_their_code_and_no_traceback(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Handlers that read all they get, and then answer, fail in a way that is meant, or in one that is not."""

    async def read(request: Any) -> list[bytes]:
        return [one async for one in request] if kind.startswith("stream") else [request]

    async def respond(request: Any, context: Any) -> bytes:
        text = b"".join(await read(request))
        if text == b"meant":
            raise UnauthenticatedError("as meant")
        if text == b"bug":
            raise ZeroDivisionError("a secret of another user")
        return text + current_caller().name.encode()

    async def stream(request: Any, context: Any) -> Any:
        yield await respond(request, context)

    handle = stream if kind.endswith("stream") else respond
    made = getattr(grpc, f"{kind}_rpc_method_handler")(handle, bytes, bytes)
    assert (wrapped(made, lambda one: one).request_streaming, wrapped(made, lambda one: one).response_streaming) == (
        made.request_streaming,
        made.response_streaming,
    )
    outcomes = {text: answered(made, kind, text) for text in (b"good ", b"meant", b"bug")}
    assert outcomes[b"good "] == [b"good anonymous"]
    assert (type(outcomes[b"meant"]), str(outcomes[b"meant"])) == (UnauthenticatedError, "as meant")
    assert (type(outcomes[b"bug"]), str(outcomes[b"bug"])) == (
        RcjaxError,
        "internal error; the server's log has the details",
    )
    assert "a secret of another user" in caplog.text


def answered(handler: Any, kind: str, data: bytes) -> Any:
    """What a server with that one method, behind both interceptors, answers to `data`."""

    async def main() -> Any:
        server = grpc.aio.server(interceptors=[ServerSecurity.of().interceptor, StatusInterceptor()])
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Service", {"Do": handler})])
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                request = iter([data]) if kind.startswith("stream") else data
                call = getattr(channel, kind)("/test.Service/Do")(request, timeout=TIMEOUT_S)
                return [one async for one in call] if kind.endswith("stream") else [await call]
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)
        finally:
            await server.stop(0)

    return asyncio.run(main())
