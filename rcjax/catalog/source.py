"""Lines and rows of data files, and the errors and the progress of reading them."""

import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

_LINES_PER_PROGRESS_UPDATE = 2048


class CatalogueError(ValueError):
    """A data file that cannot be read; the message names the file, the line or row, and the field."""


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a file: its fields, and where it stands (`items.jsonl:17`, `items.parquet: row 17`).

    The accessors raise `CatalogueError` on a value of the wrong kind. Numbers may be written as text.
    """

    where: str
    values: Mapping[str, Any]
    prefix: str = ""  # of a nested record's field names, "events[3]."

    def error(self, field: str, problem: str) -> CatalogueError:
        return CatalogueError(f"{self.where}: field '{self.prefix}{field}': {problem}")

    def identifier(self, field: str) -> str:
        """A required, non-empty id; integers become text."""
        value = self.values.get(field)
        if value is None or value == "":
            raise self.error(field, "missing")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.error(field, f"expected an id, got {value!r}")
        return str(value)

    def text(self, field: str) -> str:
        """Text without surrounding blanks; absent or null is empty."""
        value = self.values.get(field)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(field, f"expected text, got {value!r}")
        return value.strip()

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of text, without empty entries; absent or null is empty."""
        entries = (self._text_entry(field, entry) for entry in self._list(field))
        return tuple(entry for entry in entries if entry)

    def identifiers(self, field: str) -> tuple[str, ...]:
        """A list of ids; integers become text."""
        entries = [Row(self.where, {f"{field}[{n}]": e}, self.prefix) for n, e in enumerate(self._list(field))]
        return tuple(entry.identifier(f"{field}[{n}]") for n, entry in enumerate(entries))

    def number(self, field: str) -> float | None:
        """A finite number; absent, null or empty is None."""
        value = self.values.get(field)
        if value is None or value == "":
            return None
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self.error(field, f"expected a number, got {value!r}")
        return number

    def integer(self, field: str) -> int | None:
        """A whole number; absent, null or empty is None."""
        number = self.number(field)
        if number is not None and not number.is_integer():
            raise self.error(field, f"expected a whole number, got {self.values[field]!r}")
        return None if number is None else int(number)

    def rows(self, field: str) -> Iterator["Row"]:
        """A list of records, which know their place in this one."""
        for n, entry in enumerate(self._list(field)):
            if not isinstance(entry, Mapping):
                raise self.error(f"{field}[{n}]", f"expected an object, got {entry!r}")
            yield Row(self.where, entry, f"{self.prefix}{field}[{n}].")

    def _list(self, field: str) -> list[Any]:
        value = self.values.get(field)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(field, f"expected a list, got {value!r}")
        return value

    def _text_entry(self, field: str, entry: object) -> str:
        if not isinstance(entry, str):
            raise self.error(field, f"expected a list of text, got the entry {entry!r}")
        return entry.strip()


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


def read_lines(path: Path, *, progress: bool, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Line numbers from 1, and the lines that are not blank; a name that ends in .gz is decompressed."""
    number = 0
    try:
        with path.open("rb") as raw, byte_progress(path, progress) as show_bytes_read:
            lines = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
            for number, line in enumerate(lines, start=1):
                if number % _LINES_PER_PROGRESS_UPDATE == 0:
                    show_bytes_read(raw.tell())
                if text := _decode(line, encoding, f"{path}:{number}").rstrip("\r\n"):
                    if text.isspace():
                        continue
                    yield number, text
            show_bytes_read(raw.tell())
    except FileNotFoundError as error:
        raise CatalogueError(f"{path}: no such file") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CatalogueError(f"{path}:{number + 1}: damaged or truncated gzip data: {error}") from error


def read_json_rows(path: Path, *, progress: bool) -> Iterator[Row]:
    """The objects of a JSON Lines file."""
    for number, line in read_lines(path, progress=progress):
        yield json_row(line, f"{path}:{number}")


def json_row(line: str, where: str) -> Row:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise CatalogueError(f"{where}: not JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(values, dict):
        raise CatalogueError(f"{where}: expected a JSON object, got {line[:40]}")
    return Row(where, values)


def _decode(line: bytes, encoding: str, where: str) -> str:
    try:
        # utf-8-sig would do this too, but only for the file as a whole
        return line.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise CatalogueError(f"{where}: not {encoding}: byte {error.start} is {line[error.start]:#04x}") from error
