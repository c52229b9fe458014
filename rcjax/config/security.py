"""Settings of who may call the server."""

from pathlib import Path

from rcjax.config.paths import in_folder
from rcjax.config.strict import StrictModel


class TlsSettings(StrictModel):
    """PEM files: the server's certificate, with those between it and its CA, and its key.

    With `client_ca`, clients show a certificate of that CA, which names them. Files that change are read again.
    """

    cert: Path
    """The certificates."""
    key: Path
    """The key, unencrypted."""
    client_ca: Path | None = None
    """What signs clients' certificates; null: clients need none."""

    def in_folder(self, folder: Path) -> "TlsSettings":
        """The same with the paths that a file in `folder` means, as `Settings.in_folder` does."""
        given = {"cert": self.cert, "key": self.key, "client_ca": self.client_ca}
        paths = {
            name: in_folder(folder, path, f"server.tls.{name}") for name, path in given.items() if path is not None
        }
        return self.model_copy(update=paths)
