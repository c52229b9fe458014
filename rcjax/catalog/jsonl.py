"""The project's own JSON Lines files, plain or gzipped; see `schema` for the fields."""

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from rcjax.catalog import schema
from rcjax.catalog.schema import Interaction
from rcjax.catalog.source import read_json_rows
from rcjax.catalog.types import Catalogue, Item, Request, User


def read_items(path: Path, *, progress: bool = False) -> Iterator[Item]:
    return map(schema.item_from_row, read_json_rows(path, progress=progress))


def read_users(path: Path, *, progress: bool = False) -> Iterator[tuple[str, list[Interaction]]]:
    return map(schema.interactions_from_user_row, read_json_rows(path, progress=progress))


def read_events(path: Path, *, progress: bool = False) -> Iterator[Interaction]:
    for row in read_json_rows(path, progress=progress):
        yield schema.interaction_from_row(row, row.identifier("user_id"))


def read_requests(path: Path, *, progress: bool = False) -> Iterator[Request]:
    return map(schema.request_from_row, read_json_rows(path, progress=progress))


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
