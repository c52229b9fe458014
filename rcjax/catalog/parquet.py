"""The project's own records in Parquet; see `schema` for the fields."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rcjax.catalog import schema
from rcjax.catalog.schema import Interaction
from rcjax.catalog.source import CatalogueError, Row, byte_progress
from rcjax.catalog.types import Catalogue, Item, Request, User

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
_REQUESTS = pa.schema({"user_id": pa.string(), "candidates": pa.list_(pa.string()), "target": pa.string()})


def read_items(path: Path, *, progress: bool = False) -> Iterator[Item]:
    return map(schema.item_from_row, _read_rows(path, progress))


def read_users(path: Path, *, progress: bool = False) -> Iterator[tuple[str, list[Interaction]]]:
    return map(schema.interactions_from_user_row, _read_rows(path, progress))


def read_events(path: Path, *, progress: bool = False) -> Iterator[Interaction]:
    for row in _read_rows(path, progress):
        yield schema.interaction_from_row(row, row.identifier("user_id"))


def read_requests(path: Path, *, progress: bool = False) -> Iterator[Request]:
    return map(schema.request_from_row, _read_rows(path, progress))


def write_catalogue(catalogue: Catalogue, folder: Path) -> None:
    """Writes items.parquet, users.parquet and requests.parquet into `folder`, made where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "items.parquet", catalogue.items.values(), _ITEMS)
    _write(folder / "users.parquet", catalogue.users.values(), _USERS)
    _write(folder / "requests.parquet", catalogue.requests, _REQUESTS)


def _write(path: Path, records: Iterable[Item | User | Request], layout: pa.Schema) -> None:
    remaining = iter(records)
    with pq.ParquetWriter(path, layout) as writer:
        while batch := [schema.record_of(record) for record in islice(remaining, _ROWS_PER_BATCH)]:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=layout))


def _read_rows(path: Path, progress: bool) -> Iterator[Row]:
    """Row numbers count from 1. Progress is the share of rows read, in bytes of the file."""
    try:
        with pq.ParquetFile(path) as file, byte_progress(path, progress) as show_bytes_read:
            num_rows, size_bytes, number = file.metadata.num_rows, path.stat().st_size, 0
            for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH):
                values: dict[str, Any]
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}: row {number}", values)
                show_bytes_read(size_bytes * number // num_rows)
    except FileNotFoundError as error:
        raise CatalogueError(f"{path}: no such file") from error
    except pa.ArrowInvalid as error:
        raise CatalogueError(f"{path}: not a readable Parquet file: {error}") from error
