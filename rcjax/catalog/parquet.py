"""The project's own records in Parquet and Arrow streams, in a file or in shards; see `schema` for the fields."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from rcjax.catalog import schema
from rcjax.catalog.arrow_stream import StreamTable, stream_table
from rcjax.catalog.columns import Fields
from rcjax.catalog.errors import CatalogueError
from rcjax.catalog.parquet_table import ParquetTable, parquet_table
from rcjax.catalog.record import Record
from rcjax.catalog.report import ReadLog
from rcjax.catalog.schema import Interaction
from rcjax.catalog.shards import table_files
from rcjax.catalog.types import Catalogue, Item, Request, User

T = TypeVar("T")

_ROWS_PER_BATCH = 4096
_EVENT = pa.struct(
    {
        "item_id": pa.string(),
        "title": pa.string(),
        "text": pa.string(),
        "rating": pa.float64(),
        "timestamp_s": pa.int64(),
    }
)
_ITEMS = pa.schema(
    {
        "item_id": pa.string(),
        "title": pa.string(),
        "description": pa.string(),
        "brand": pa.string(),
        "categories": pa.list_(pa.string()),
        "price": pa.float64(),
    }
)
_USERS = pa.schema({"user_id": pa.string(), "events": pa.list_(_EVENT)})
_EVENTS = pa.schema({"user_id": pa.string(), **{field.name: field.type for field in _EVENT}, "order": pa.float64()})
_REQUESTS = pa.schema({"user_id": pa.string(), "candidates": pa.list_(pa.string()), "target": pa.string()})
_ITEM_FIELDS = Fields("items", tuple(_ITEMS.names), needed=("item_id", "title"))
_USER_FIELDS = Fields("users", tuple(_USERS.names), needed=("user_id",))
_EVENT_FIELDS = Fields("events", tuple(_EVENTS.names), needed=("user_id", "item_id"))
_REQUEST_FIELDS = Fields("requests", tuple(_REQUESTS.names), needed=("user_id", "candidates"))


def read_items(path: Path, log: ReadLog) -> Iterator[Item]:
    return _each(path, _ITEM_FIELDS, log.columns.items, log, lambda record: schema.item_from_record(record, log))


def read_users(path: Path, log: ReadLog) -> Iterator[tuple[str, list[Interaction]]]:
    return _each(path, _USER_FIELDS, {}, log, schema.interactions_from_user_record)


def read_events(path: Path, log: ReadLog) -> Iterator[Interaction]:
    return _each(path, _EVENT_FIELDS, log.columns.events, log, schema.event_from_record)


def read_requests(path: Path, log: ReadLog) -> Iterator[Request]:
    return _each(path, _REQUEST_FIELDS, {}, log, schema.request_from_record)


def write_catalogue(catalogue: Catalogue, folder: Path) -> None:
    """Writes items.parquet, users.parquet and requests.parquet into `folder`, made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "items.parquet", catalogue.items.values(), _ITEMS)
    _write(folder / "users.parquet", catalogue.users.values(), _USERS)
    _write(folder / "requests.parquet", catalogue.requests, _REQUESTS)


def _write(path: Path, records: Iterable[Item | User | Request], layout: pa.Schema) -> None:
    remaining = iter(records)
    with pq.ParquetWriter(path, layout, write_page_checksum=True) as writer:
        while batch := [schema.record_of(record) for record in islice(remaining, _ROWS_PER_BATCH)]:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=layout))


@dataclass(slots=True)
class _Shards:
    """What the shards of a table have in common: which columns are read, and all that there are."""

    fields: Fields
    named: Mapping[str, str]
    first: Path
    present: set[str] | None = None

    def columns(self, path: Path, present: list[str]) -> dict[str, str]:
        """The columns to read of a shard; `CatalogueError` where it has others than the first, as no table has."""
        self.present = set(present) if self.present is None else self.present
        for name in sorted(self.present.symmetric_difference(present)):
            has, lacks = (self.first, path) if name in self.present else (path, self.first)
            raise CatalogueError(f"{lacks}: no column '{name}', which {has} has; shards of a table have the same")
        return self.fields.columns(str(path), self.named, present)


def _each(
    path: Path, fields: Fields, named: Mapping[str, str], log: ReadLog, parse: Callable[[Record], T]
) -> Iterator[T]:
    files = table_files(path)
    shards = _Shards(fields, named, files[0])
    for file in files:
        yield from log.each(file, _rows(file, shards, log.progress), parse)


def _rows(path: Path, shards: _Shards, progress: bool) -> Iterator[Record]:
    """A record for each row, numbered from 1, with the values of the columns that are wanted and there."""
    with _table(path, progress) as table:
        columns = shards.columns(path, table.names)
        renamed = {name: column for name, column in columns.items() if name != column}
        number = 0
        for values in table.batches(sorted(set(columns.values()))):
            for row in zip(*(values[column] for column in columns.values()), strict=True):
                number += 1
                yield Record(f"{path}: row {number}", dict(zip(columns, row, strict=True)), columns=renamed)


def _table(path: Path, progress: bool) -> AbstractContextManager[ParquetTable | StreamTable]:
    return stream_table(path, progress) if path.suffix == ".arrow" else parquet_table(path, progress)
