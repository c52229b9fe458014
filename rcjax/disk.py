"""Writing to a disk that may be full or not ours to write: whole files or none, and errors of a line."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rcjax.errors import RcjaxError

_OS_ERROR = re.compile(r"os_error_code='(\d+)'|os error (\d+)")  # in messages of TensorStore and of Rust
_MAX_REASON_CHARS = 200


class DiskError(RcjaxError):
    """A file or folder that cannot be written; the message names it, the reason and what would help."""


@contextmanager
def writing(path: Path | str, *kinds: type[Exception]) -> Iterator[None]:
    """For all that writes `path`: an OSError, or another of `kinds` that a library raises, becomes a `DiskError`."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, (OSError, *kinds)):
            raise
        advice = "see to room and permissions there, or name another place"
        raise DiskError(f"{path} cannot be written: {_reason(error)}; {advice}") from error


def write_whole(path: Path, text: str) -> None:
    """Puts a new file in the old one's place, which a kill or a full disk leaves as it was; `DiskError`."""
    new = path.with_name(f"{path.name}.new")
    with writing(path):
        try:
            with new.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise


@contextmanager
def replacing(folder: Path, *kinds: type[Exception]) -> Iterator[Path]:
    """An empty folder, whose files take the place of those in `folder` once all are written; errors as of `writing`."""
    with writing(folder, *kinds):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as new:
            yield Path(new)
            for file in Path(new).iterdir():
                file.replace(folder / file.name)


def check_folder(folder: Path) -> None:
    """`DiskError` where no file can be written in the folder: to be said before what takes long, not after."""
    with writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"\0")


def make_folder(folder: Path) -> None:
    """Makes the folder where it is missing, and checks it as `check_folder` does."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_folder(folder)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if found := _OS_ERROR.search(text):
        return os.strerror(int(found[1] or found[2]))
    return text[:_MAX_REASON_CHARS] or type(error).__name__
