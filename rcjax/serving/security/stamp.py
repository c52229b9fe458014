"""What tells that a file was replaced or written to."""

from pathlib import Path
from typing import TypeAlias

Stamp: TypeAlias = tuple[int, int, int]


def stamp_of(path: Path) -> Stamp:
    """Changes with the file, also where a link leads to another one, as Kubernetes replaces secrets."""
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
