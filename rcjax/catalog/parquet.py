"""The project's own records in Parquet; see `schema` for the fields."""

import io
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rcjax.catalog import schema
from rcjax.catalog.errors import CatalogueError, shown
from rcjax.catalog.record import Record
from rcjax.catalog.report import ReadLog
from rcjax.catalog.schema import Interaction
from rcjax.catalog.source import byte_progress, opened
from rcjax.catalog.types import Catalogue, Item, Request, User

T = TypeVar("T")

_ROWS_PER_BATCH = 4096
_MAX_MESSAGE_LEN = 200
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


def read_items(path: Path, log: ReadLog) -> Iterator[Item]:
    return _each(path, _ITEMS, log, lambda record: schema.item_from_record(record, log))


def read_users(path: Path, log: ReadLog) -> Iterator[tuple[str, list[Interaction]]]:
    return _each(path, _USERS, log, schema.interactions_from_user_record)


def read_events(path: Path, log: ReadLog) -> Iterator[Interaction]:
    return _each(path, _EVENTS, log, schema.event_from_record)


def read_requests(path: Path, log: ReadLog) -> Iterator[Request]:
    return _each(path, _REQUESTS, log, schema.request_from_record)


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


def _each(path: Path, layout: pa.Schema, log: ReadLog, parse: Callable[[Record], T]) -> Iterator[T]:
    return log.each(path, _rows(path, layout.names, log.progress), lambda row: _parsed(path, row, parse))


def _parsed(path: Path, row: tuple[int, dict[str, Any]], parse: Callable[[Record], T]) -> T:
    number, values = row
    return parse(Record(f"{path}: row {number}", values))


def _rows(path: Path, names: list[str], progress: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbers from 1, and the rows' values of the columns that are wanted and there; other columns are not read.

    Progress is the share of rows read, in bytes of the file.
    """
    number = 0
    with opened(path) as raw, byte_progress(path, progress) as show_bytes_read, _metadata_of(path, raw) as file:
        columns = _columns(path, names, file)
        num_rows, size_bytes = file.metadata.num_rows, path.stat().st_size
        for group in range(file.num_row_groups):
            for values in _batches(path, file, group, columns):
                for row in zip(*values, strict=True):
                    number += 1
                    yield number, dict(zip(columns, row, strict=True))
                show_bytes_read(size_bytes * number // max(num_rows, 1))
    if number != num_rows:
        raise CatalogueError(f"{path}: damaged: {number:,} rows where its footer has {num_rows:,}; copy the file anew")


def _metadata_of(path: Path, raw: io.BufferedIOBase) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(raw, page_checksum_verification=True)
    except Exception as error:  # of a damaged footer Arrow raises many kinds
        raise CatalogueError(f"{path}: not a readable Parquet file: {_first_line(error)}") from error


def _columns(path: Path, names: list[str], file: pq.ParquetFile) -> list[str]:
    try:
        present = file.schema_arrow.names
    except Exception as error:  # as above
        raise CatalogueError(f"{path}: Parquet with a schema that cannot be read: {_first_line(error)}") from error
    for name in names:
        if present.count(name) > 1:
            raise CatalogueError(f"{path}: column '{name}' is there more than once; keep one")
    columns = [name for name in names if name in present]
    if not columns:
        raise CatalogueError(f"{path}: none of the columns {', '.join(names)}; it has {shown(present)}")
    return columns


def _batches(path: Path, file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[list[list[Any]]]:
    """The columns' values, some rows at a time."""
    place = f"{path}: row group {group + 1}"
    try:
        batches = file.iter_batches(batch_size=_ROWS_PER_BATCH, row_groups=[group], columns=columns)
        while (batch := next(batches, None)) is not None:
            yield [_values(place, name, batch.column(name)) for name in columns]
    except CatalogueError:
        raise
    except Exception as error:  # of damaged pages Arrow raises many kinds
        name = _damaged_column(file, group, columns)
        raise CatalogueError(f"{place}{name}: cannot be read, damaged? {_first_line(error)}") from error


def _values(place: str, name: str, column: pa.Array) -> list[Any]:
    try:
        if pa.types.is_float32(column.type):
            # 12.99 of 32 bits is 12.99, not 12.989999771118164
            return [value if value is None else float(str(np.float32(value))) for value in column.to_pylist()]
        return column.to_pylist()
    except Exception as error:  # text that is not UTF-8, times that Python has no type for, ...
        kind = f"of type {column.type}"
        raise CatalogueError(f"{place}, column '{name}' {kind}: cannot be read: {_first_line(error)}") from error


def _damaged_column(file: pq.ParquetFile, group: int, columns: list[str]) -> str:
    for name in columns:
        try:
            file.read_row_group(group, columns=[name])
        except Exception:
            return f", column '{name}'"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:_MAX_MESSAGE_LEN]
