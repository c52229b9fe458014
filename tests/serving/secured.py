"""A server that knows its callers, and bytes sent to it as calls of any kind."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from credentials_kit import TOKENS
from fake_router import FakeRouter

from rcjax.serving.caller import Caller, current_caller
from rcjax.serving.security import ChannelSecurity, ServerSecurity, new_channel
from rcjax.serving.server import Addresses, Server, running_server

TIMEOUT_S = 60.0
DELETE = "/rcjax.v1.Catalog/DeleteUser"
SHOP = ChannelSecurity(tls=False, token=TOKENS["shop"])


class Seen(FakeRouter):
    """Notes who called."""

    def __init__(self) -> None:
        super().__init__("item-1")
        self.callers: list[Caller] = []

    async def apply(self, write: Any, **when: Any) -> Any:
        self.callers.append(current_caller())
        return await super().apply(write, **when)


@contextmanager
def serving(security: ServerSecurity) -> Iterator[tuple[Addresses, Seen]]:
    engine = Seen()
    with running_server(Server(lambda: engine, security=security)) as addresses:
        yield addresses, engine


@contextmanager
def calling(address: str, security: ChannelSecurity | None) -> Iterator[Callable[..., Any]]:
    """Calls a method with bytes, as a call of any kind."""

    def call(method: str, data: bytes = b"", metadata: Any = None, kind: str = "unary_unary") -> list[bytes]:
        request = iter([data]) if kind.startswith("stream") else data
        outcome = getattr(channel, kind)(method)(request, timeout=TIMEOUT_S, metadata=metadata)
        return [outcome] if kind.endswith("unary") else list(outcome)

    target = address.replace("127.0.0.1", "localhost")
    with new_channel(target, security) as channel:
        yield call
