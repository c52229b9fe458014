"""A client's channel: plain, or with TLS, a certificate of the client's own, and a token."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from rcjax.loopback import is_loopback

Options = Sequence[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class ChannelSecurity:
    """How a client knows its server, and how the server knows the client.

    `ca` has the certificates (PEM) that the server's must follow from; None takes those that gRPC comes with. `cert`
    and `key` are the client's own, where the server asks for one. `token` goes with every call. With `tls=False` calls
    go unencrypted, which a token may do on this machine only. Files are read when a channel is made.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    token: str = ""
    tls: bool = True

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise ValueError(f"cert={self.cert} and key={self.key} belong together; give both or neither")
        if not self.tls and (self.ca is not None or self.cert is not None):
            raise ValueError("ca, cert and key are of TLS, and tls is False; leave them out")

    def __repr__(self) -> str:  # a token belongs into no log
        return f"ChannelSecurity(ca={self.ca}, cert={self.cert}, tls={self.tls}, token={'...' if self.token else None})"

    def credentials(self, target: str) -> grpc.ChannelCredentials:
        """What gRPC needs for calls to `target`; `OSError` where a file cannot be read."""
        if self.tls:
            ca, key, cert = (None if path is None else path.read_bytes() for path in (self.ca, self.key, self.cert))
            channel = grpc.ssl_channel_credentials(ca, key, cert)
        elif is_loopback(host_of(target)):
            channel = grpc.local_channel_credentials()
        else:
            raise ValueError(f"a token does not go to {target} unencrypted; use TLS, or an address of this machine")
        if not self.token:
            return channel
        return grpc.composite_channel_credentials(channel, grpc.access_token_call_credentials(self.token))


def new_channel(target: str, security: ChannelSecurity | None = None, options: Options = ()) -> grpc.Channel:
    """A channel to `host:port`, unencrypted where there is no security."""
    if security is None:
        return grpc.insecure_channel(target, options=options)
    return grpc.secure_channel(target, security.credentials(target), options=options)


def new_aio_channel(target: str, security: ChannelSecurity | None = None, options: Options = ()) -> grpc.aio.Channel:
    """As `new_channel`, for an event loop."""
    if security is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, security.credentials(target), options=options)


def host_of(target: str) -> str:
    """The host of `host:port` or `[host]:port`."""
    return target.rsplit(":", 1)[0].strip("[]")
