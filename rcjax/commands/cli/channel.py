"""The options of commands that call a server with TLS and tokens, and what they mean."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rcjax.serving.security import ChannelSecurity

Ca = Annotated[Path | None, typer.Option(metavar="FILE", help="TLS, with the certificates the server's follows from.")]
Cert = Annotated[Path | None, typer.Option(metavar="FILE", help="With --ca: a certificate to show to the server.")]
Key = Annotated[Path | None, typer.Option(metavar="FILE", help="Of --cert.")]
TokenFile = Annotated[Path | None, typer.Option(metavar="FILE", help="With the token to show to the server.")]


def channel_security(
    ca: Path | None, token_file: Path | None, cert: Path | None = None, key: Path | None = None
) -> "ChannelSecurity | None":
    """What the options say; None where none is given. ValueError where they do not go together."""
    from rcjax.serving.security import ChannelSecurity

    if not any((ca, token_file, cert, key)):
        return None
    token = "" if token_file is None else token_file.read_text(encoding="utf-8").strip()
    return ChannelSecurity(ca=ca, cert=cert, key=key, token=token, tls=ca is not None)
