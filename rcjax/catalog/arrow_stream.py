"""Tables in Arrow's stream format, as Hugging Face `datasets` saves them."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from rcjax.catalog.arrow_columns import column_values, first_line
from rcjax.catalog.errors import CatalogueError
from rcjax.catalog.source import byte_progress, opened

_END = b"\xff\xff\xff\xff\0\0\0\0"  # without it a stream that was cut between two batches would look whole


class StreamTable:
    """One open file."""

    def __init__(self, path: Path, raw: io.BufferedIOBase, show_bytes_read: Callable[[int], None]):
        self._path = path
        self._raw = raw
        self._show_bytes_read = show_bytes_read
        try:
            self._stream = pa.ipc.open_stream(raw)
            self.names: list[str] = self._stream.schema.names
        except Exception as error:  # of a damaged schema Arrow raises many kinds
            raise CatalogueError(f"{path}: not a readable Arrow stream: {first_line(error)}") from error

    def batches(self, columns: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
        """The columns' values, some rows at a time."""
        number = 0
        while True:
            number += 1
            place = f"{self._path}: batch {number}"
            try:
                batch = next(self._stream, None)
                if batch is not None:
                    batch.validate(full=True)  # lengths and offsets that would lead out of a damaged file
            except Exception as error:
                raise CatalogueError(f"{place}: cannot be read, damaged? {first_line(error)}") from error
            if batch is None:
                return
            yield {name: column_values(place, name, batch.column(name)) for name in columns}
            self._show_bytes_read(self._raw.tell())


@contextmanager
def stream_table(path: Path, progress: bool) -> Iterator[StreamTable]:
    with opened(path) as raw, byte_progress(path, progress) as show_bytes_read:
        size = raw.seek(0, io.SEEK_END)
        raw.seek(max(size - len(_END), 0))
        if raw.read() != _END:
            raise CatalogueError(f"{path}: no end of an Arrow stream: it is cut off, or another format; copy it anew")
        raw.seek(0)
        yield StreamTable(path, raw, show_bytes_read)
