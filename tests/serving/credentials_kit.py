"""Certificates and tokens in files, as an operator would put them there, and replace them."""

import os
from datetime import UTC, datetime
from pathlib import Path

import trustme

from rcjax.serving.security import CertificateFiles, ChannelSecurity

TOKENS = {"shop": "shop-0123456789-0123456789", "mail": "mail-0123456789-0123456789"}
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def replaced(path: Path, data: bytes) -> None:
    """Puts a file in place of another at once, and has it look newer even on a coarse clock."""
    stamp = path.stat().st_mtime_ns + 1_000_000_000 if path.exists() else None
    beside = path.with_suffix(".new")
    beside.write_bytes(data)
    if stamp is not None:
        os.utime(beside, ns=(stamp, stamp))
    beside.replace(path)


def write_tokens(path: Path, tokens: dict[str, str]) -> Path:
    replaced(path, "".join(f"{name} {token}\n" for name, token in tokens.items()).encode())
    return path


class Authority:
    """A CA, and files of what it signs."""

    def __init__(self, folder: Path):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def server(self, not_after: datetime | None = None, with_clients: bool = False) -> CertificateFiles:
        """The files of a certificate for this machine, in place of the last one's."""
        cert, key = self._write("server", self._ca.issue_cert("localhost", "127.0.0.1", not_after=not_after))
        return CertificateFiles(cert, key, self.file if with_clients else None)

    def client(self, *names: str, common_name: str | None = None, not_after: datetime | None = None) -> ChannelSecurity:
        """A client of that certificate, who trusts this CA."""
        cert, key = self._write("client", self._ca.issue_cert(*names, common_name=common_name, not_after=not_after))
        return ChannelSecurity(ca=self.file, cert=cert, key=key)

    def _write(self, name: str, made: trustme.LeafCert) -> tuple[Path, Path]:
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        replaced(cert, b"".join(part.bytes() for part in made.cert_chain_pems))
        replaced(key, made.private_key_pem.bytes())
        return cert, key
