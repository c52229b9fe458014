"""The server's certificates, read again when they change: what is renewed is used from the next connection on."""

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from rcjax.serving.security.stamp import Stamp, stamp_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """PEM files: the server's certificate with those between it and its CA, its key, and the CA of clients, if any."""

    cert: Path
    key: Path
    client_ca: Path | None

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.cert, self.key) if self.client_ca is None else (self.cert, self.key, self.client_ca)


class Certificates:
    """gRPC's credentials of one port of a server, whose files may be replaced while it serves.

    Files that are wrong, or do not go together, raise ValueError at the start; later they leave the former ones in
    use, and the log says so. gRPC asks for them at each handshake, on a thread of its own.
    """

    def __init__(self, files: CertificateFiles):
        self._files = files
        self._stamps: tuple[Stamp, ...] | None = self._look()
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Where there is a CA of clients, a client without a certificate of it is not let in."""
        renewed: Any = self.renewed  # may give None, which the annotations of gRPC leave out
        return grpc.dynamic_ssl_server_credentials(self._first, renewed, self._files.client_ca is not None)

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """The certificates, where they changed since the last call and are good."""
        try:
            stamps = self._look()
            if stamps == self._stamps:
                return None
            self._stamps = stamps  # also of wrong ones, which are told of once
            renewed = self._read()
        except OSError as error:  # a file that is not there right now will be
            if self._stamps is not None:
                logger.error("%s: %s; the former certificate stays in use", error.filename, error.strerror)
            self._stamps = None
            return None
        except ValueError as error:
            logger.error("%s; the former certificate stays in use", error)
            return None
        logger.info("%s: the renewed certificate is in use", self._files.cert)
        return renewed

    def _look(self) -> tuple[Stamp, ...]:
        return tuple(stamp_of(path) for path in self._files.paths)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        files = self._files
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files.cert, files.key, password="")  # else an encrypted key would ask the terminal
        except ssl.SSLError as error:
            raise ValueError(
                f"server.tls: cert {files.cert} and key {files.key} are not a certificate and its own, unencrypted key "
                f"in PEM ({error.reason or error})"
            ) from error
        try:
            if files.client_ca is not None:
                context.load_verify_locations(files.client_ca)
        except ssl.SSLError as error:
            raise ValueError(f"server.tls: client_ca {files.client_ca} has no certificate in PEM") from error
        ca = None if files.client_ca is None else files.client_ca.read_bytes()
        pair = (files.key.read_bytes(), files.cert.read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], ca)
