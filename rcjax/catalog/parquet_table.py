"""One Parquet file, its columns read a few rows at a time, and damage named."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rcjax.catalog.arrow_columns import column_values, first_line
from rcjax.catalog.errors import CatalogueError
from rcjax.catalog.source import byte_progress, opened

_ROWS_PER_BATCH = 4096


class ParquetTable:
    """One open file."""

    def __init__(self, path: Path, file: pq.ParquetFile, show_bytes_read: Callable[[int], None]):
        self._path = path
        self._file = file
        self._show_bytes_read = show_bytes_read
        try:
            self.names: list[str] = file.schema_arrow.names
        except Exception as error:  # of a damaged footer Arrow raises many kinds
            raise CatalogueError(f"{path}: Parquet with a schema that cannot be read: {first_line(error)}") from error

    def batches(self, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        """The columns' values, some rows at a time; other columns are not read.

        Progress is the share of rows read, in bytes of the file.
        """
        num_rows, size_bytes, number = self._file.metadata.num_rows, self._path.stat().st_size, 0
        for group in range(self._file.num_row_groups):
            for values in self._group(group, columns):
                number += len(next(iter(values.values())))
                yield values
                self._show_bytes_read(size_bytes * number // max(num_rows, 1))
        if number != num_rows:
            problem = f"{number:,} rows where its footer has {num_rows:,}; copy the file anew"
            raise CatalogueError(f"{self._path}: damaged: {problem}")

    def _group(self, group: int, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        place = f"{self._path}: row group {group + 1}"
        try:
            batches = self._file.iter_batches(batch_size=_ROWS_PER_BATCH, row_groups=[group], columns=list(columns))
            while (batch := next(batches, None)) is not None:
                yield {name: column_values(place, name, batch.column(name)) for name in columns}
        except CatalogueError:
            raise
        except Exception as error:  # of damaged pages Arrow raises many kinds
            problem = f"cannot be read, damaged? {first_line(error)}"
            raise CatalogueError(f"{place}{self._damaged_column(group, columns)}: {problem}") from error

    def _damaged_column(self, group: int, columns: Sequence[str]) -> str:
        for name in columns:
            try:
                self._file.read_row_group(group, columns=[name])
            except Exception:
                return f", column '{name}'"
        return ""


@contextmanager
def parquet_table(path: Path, progress: bool) -> Iterator[ParquetTable]:
    with (
        opened(path) as raw,
        byte_progress(path, progress) as show_bytes_read,
        _metadata_of(path, raw) as file,
    ):
        yield ParquetTable(path, file, show_bytes_read)


def _metadata_of(path: Path, raw: io.BufferedIOBase) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(raw, page_checksum_verification=True)
    except Exception as error:  # of a damaged footer Arrow raises many kinds
        raise CatalogueError(f"{path}: not a readable Parquet file: {first_line(error)}") from error
