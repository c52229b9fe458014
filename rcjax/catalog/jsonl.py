"""The project's own JSON Lines files, plain or gzipped; see `schema` for the fields."""

import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rcjax.catalog import schema
from rcjax.catalog.json_record import json_record
from rcjax.catalog.record import Record
from rcjax.catalog.report import ReadLog
from rcjax.catalog.schema import Interaction
from rcjax.catalog.source import read_lines
from rcjax.catalog.types import Catalogue, Item, Request, User

T = TypeVar("T")


def read_items(path: Path, log: ReadLog) -> Iterator[Item]:
    return _each(path, log, lambda record: schema.item_from_record(record, log))


def read_users(path: Path, log: ReadLog) -> Iterator[tuple[str, list[Interaction]]]:
    return _each(path, log, schema.interactions_from_user_record)


def read_events(path: Path, log: ReadLog) -> Iterator[Interaction]:
    return _each(path, log, schema.event_from_record)


def read_requests(path: Path, log: ReadLog) -> Iterator[Request]:
    return _each(path, log, schema.request_from_record)


def _each(path: Path, log: ReadLog, parse: Callable[[Record], T]) -> Iterator[T]:
    lines = read_lines(path, progress=log.progress)
    return log.each(path, lines, lambda line: parse(json_record(line)))


def write_records(path: Path, records: Iterable[Item | User | Request]) -> None:
    """One line per record; gzipped where the name ends in .gz, the same bytes for the same records."""
    with path.open("wb") as raw:
        # filename="" and mtime=0 keep the path and the clock out of the gzip header
        sink = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        with io.TextIOWrapper(sink, encoding="utf-8", newline="\n") as lines:
            for record in records:
                lines.write(json.dumps(schema.record_of(record), ensure_ascii=False) + "\n")


def write_catalogue(catalogue: Catalogue, folder: Path) -> None:
    """Writes items.jsonl.gz, users.jsonl.gz and requests.jsonl.gz into `folder`, made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    write_records(folder / "items.jsonl.gz", catalogue.items.values())
    write_records(folder / "users.jsonl.gz", catalogue.users.values())
    write_records(folder / "requests.jsonl.gz", catalogue.requests)
