"""All that a server asks of its callers: how they connect, and who they are."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import grpc

from rcjax.serving.security.certificates import CertificateFiles, Certificates
from rcjax.serving.security.interceptor import SecurityInterceptor
from rcjax.serving.security.tokens import TokenFile


@dataclass(frozen=True, slots=True)
class ServerSecurity:
    """The certificates that ports show (None: they are unencrypted), and the interceptor that knows callers.

    Files that are wrong raise ValueError when this is made.
    """

    certificates: CertificateFiles | None
    interceptor: SecurityInterceptor

    @classmethod
    def of(
        cls,
        certificates: CertificateFiles | None = None,
        tokens: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        tenants: Mapping[str, str] = MappingProxyType({}),
    ) -> "ServerSecurity":
        try:
            if certificates is not None:
                Certificates(certificates)
        except OSError as error:
            raise ValueError(f"server.tls: cannot read {error.filename}: {error.strerror}") from error
        known = None if tokens is None else TokenFile(tokens, clock)
        has_clients = certificates is not None and certificates.client_ca is not None
        return cls(certificates, SecurityInterceptor(known, by_certificate=has_clients, tenants=tenants))

    def credentials(self) -> grpc.ServerCredentials | None:
        """For one port, as each remembers which certificate it has shown last; None where it is unencrypted."""
        return None if self.certificates is None else Certificates(self.certificates).credentials()
