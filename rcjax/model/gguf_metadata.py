"""The header of a GGUF file, checked while it is read: damage is a ModelLoadError that names the file."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from rcjax.model.fields import Fields, first_line
from rcjax.model.load_error import ModelLoadError

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


def open_gguf(path: Path) -> gguf.GGUFReader:
    """The memory-mapped file; refuses a part of a split one by name."""
    if (split := _SPLIT.search(path.name)) and int(split[2]) > 1:
        raise _split_error(path, int(split[2]))
    try:
        reader = _Reader(path)
    except Exception as error:  # the library checks little: damage becomes errors of many kinds
        raise ModelLoadError(
            f"{path} is not a readable GGUF file: {first_line(error)}; download the file again"
        ) from error
    fields = gguf_fields(reader, path)
    if (count := fields.integer("split.count", 1, minimum=0)) > 1:
        raise _split_error(path, count)
    return reader


def gguf_fields(reader: gguf.GGUFReader, path: Path) -> Fields:
    """The file's metadata; a value is converted when it is asked for, as a list of tokens takes a second."""
    return Fields(_Metadata(reader, path), str(path))


def _split_error(path: Path, num_parts: int) -> ModelLoadError:
    return ModelLoadError(
        f"{path} is one of {num_parts} parts of a split GGUF file, which is not supported; join them with llama.cpp's "
        "llama-gguf-split --merge"
    )


class _Metadata(Mapping[str, Any]):
    def __init__(self, reader: gguf.GGUFReader, path: Path):
        self._reader = reader
        self._path = path

    def __getitem__(self, key: str) -> Any:
        field = self._reader.fields[key]
        try:
            return field.contents()
        except Exception as error:  # text that is not UTF-8, an empty array, ...
            raise ModelLoadError(f"{self._path}: metadata {key} cannot be read: {first_line(error)}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.fields)

    def __len__(self) -> int:
        return len(self._reader.fields)


class _Reader(gguf.GGUFReader):
    """Reads metadata element by element through a plain view: slices of a memmap take twice as long (3 s in all).

    The library reads beyond the end of a file without noticing, for ever where a damaged count is large.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, np.asarray(value) if name == "data" else value)

    def _get(self, offset: int, dtype: Any, count: Any = 1, override_order: Any = None) -> Any:
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data):,}, within a value that would end at byte {end:,}")
        return super()._get(offset, dtype, count, override_order)
