"""The lines of data files, plain or gzipped, and the progress of reading them."""

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from rcjax.catalog.errors import CatalogueError, RecordError, shown

_LINES_PER_PROGRESS_UPDATE = 2048
_MAX_LINE_BYTES = 64 << 20
_GZIP = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


class Line(NamedTuple):
    """A line of a file, without its line break."""

    where: str
    data: bytes
    has_break: bool  # False for the end of a file that does not end in a line break

    def text(self, encoding: str = "utf-8") -> str:
        try:
            return self.data.decode(encoding)
        except UnicodeDecodeError as error:
            byte = f"byte {error.start + 1} is {self.data[error.start]:#04x}"
            raise RecordError(f"{self.where}: not {encoding}: {byte}; convert the file{self.cut()}") from error

    def cut(self) -> str:
        """What to add to an error's message: a broken line at the end of a file is rather a file that is cut off."""
        return "" if self.has_break else " (the file ends in this line, without a line break: is it cut off?)"


@contextmanager
def byte_progress(path: Path, enabled: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar over the bytes of `path`; yields a function that takes how many have been read.

    Drawn on stderr, and only where that is a terminal.
    """
    console = Console(stderr=True)
    if not (enabled and console.is_terminal):
        yield lambda num_bytes: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(f"reading {path.name}", total=path.stat().st_size)
        yield lambda num_bytes: bar.update(task, completed=num_bytes)


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """The file's bytes; `CatalogueError` where it cannot be opened or read."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise CatalogueError(f"{path}: no such file") from error
    except OSError as error:
        raise CatalogueError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL in the name
        raise CatalogueError(f"{shown(str(path))}: not a file's name: {error}") from error
    with file:
        try:
            yield file
        except OSError as error:
            raise CatalogueError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_lines(path: Path, *, progress: bool) -> Iterator[Line]:
    """The lines that are not blank; those of gzip data are decompressed. Lines are numbered from 1."""
    name, number = str(path), 0
    with opened(path) as raw, byte_progress(path, progress) as show_bytes_read:
        lines = _decompressed(path, raw)
        try:
            while line := lines.readline(_MAX_LINE_BYTES):
                number += 1
                if number % _LINES_PER_PROGRESS_UPDATE == 0:
                    show_bytes_read(raw.tell())
                if len(line) == _MAX_LINE_BYTES:
                    limit = f"{_MAX_LINE_BYTES >> 20} MiB"
                    raise CatalogueError(f"{path}:{number}: a line of more than {limit}; write one record a line")
                if number == 1 and line.startswith(_UTF16_MARKS):
                    raise CatalogueError(f"{path}: UTF-16 text; convert it to UTF-8")
                # a file made of several has a mark at the start of each
                data = line.rstrip(b"\r\n").removeprefix(_UTF8_MARK)
                if data and not data.isspace():
                    yield Line(f"{name}:{number}", data, line.endswith(b"\n"))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            problem = f"damaged or truncated gzip data: {error}; copy the file anew"
            raise CatalogueError(f"{path}:{number + 1}: {problem}") from error
        show_bytes_read(raw.tell())


def _decompressed(path: Path, raw: io.BufferedIOBase) -> io.BufferedIOBase:
    """The content tells gzip data, also where the name does not end in .gz."""
    start = raw.read(len(_GZIP))
    raw.seek(0)
    if start == _GZIP:
        return gzip.GzipFile(fileobj=raw)
    if path.suffix.lower() == ".gz":
        raise CatalogueError(f"{path}:1: damaged, or not gzip data; if it is plain text, take .gz from its name")
    return raw
