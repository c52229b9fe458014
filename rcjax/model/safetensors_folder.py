"""The tensors of a Hugging Face folder: model.safetensors, or the shards that an index lists."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from rcjax.model.fields import first_line, read_json
from rcjax.model.load_error import ModelLoadError

_DTYPES = ("F32", "F16", "BF16", "F64")


class SafetensorsFolder:
    """A TensorSource over the files of a folder, which are opened but not read. Raises ModelLoadError.

    `stem` is what their names start with: an adapter's are `adapter_model`.
    """

    def __init__(self, folder: Path, stem: str = "model"):
        single = folder / f"{stem}.safetensors"
        index = folder / f"{single.name}.index.json"
        shards = _shards(single, index)
        self.files = list(shards)
        self.file = str(self.files[0] if len(self.files) == 1 else index)
        self._slices: dict[str, Any] = {}
        self._file_of: dict[str, Path] = {}
        for file, listed in shards.items():
            slices = _open(file)
            if absent := sorted(listed - slices.keys()):
                raise ModelLoadError(f"{index}: weight_map has {absent[0]} in {file.name}, which lacks it")
            if twice := sorted(slices.keys() & self._slices.keys()):
                raise ModelLoadError(f"{file}: {twice[0]} is in {self._file_of[twice[0]].name} too; keep one of them")
            self._slices |= slices
            self._file_of |= dict.fromkeys(slices, file)

    def names(self) -> Iterable[str]:
        return self._slices.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slices[name].get_shape())

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        stored, file = self._slices[name].get_dtype(), self._file_of[name]
        if stored not in _DTYPES:
            raise ModelLoadError(f"{file}: {name} is stored as {stored}; use a checkpoint in F32, F16 or BF16")
        try:
            tensor: np.ndarray = self._slices[name][index]
        except Exception as error:  # whatever the library makes of damage
            raise ModelLoadError(f"{file}: cannot read {name}: {first_line(error)}; download the file again") from error
        return tensor


def _open(file: Path) -> dict[str, Any]:
    try:
        handle: Any = safe_open(file, framework="numpy")
        return {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
    except Exception as error:  # OSError, SafetensorError, and whatever the library makes of damage
        raise ModelLoadError(f"cannot read {file}: {first_line(error)}; download the file again") from error


def _shards(single: Path, index_file: Path) -> Mapping[Path, frozenset[str]]:
    """The files, and the tensors that the index says each has."""
    folder = single.parent
    if single.exists():
        return {single: frozenset()}
    if not index_file.exists():
        raise ModelLoadError(
            f"{folder} holds neither {single.name} nor {index_file.name}; save the model with save_pretrained(..., "
            "safe_serialization=True)"
        )
    index = read_json(index_file)
    weight_map = index.object("weight_map")
    if not weight_map.values:
        raise index.error("weight_map", "must say which file has each tensor; download the file again")
    shards: dict[str, set[str]] = {}
    for tensor in weight_map.values:
        shards.setdefault(weight_map.text(tensor), set()).add(tensor)
    for name in sorted(shards):
        if not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise ModelLoadError(f"{index_file} names {name!r}, which is no safetensors file beside it")
        if not (folder / name).exists():
            raise ModelLoadError(f"{index_file} names {name}, which is missing; download it too")
    return {folder / name: frozenset(shards[name]) for name in sorted(shards)}
