"""The files that one table consists of: a file, shards as the Hub lays them out, a folder of `save_to_disk`."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rcjax.catalog.errors import CatalogueError, shown

# train-00000-of-00002.parquet, some with a hash: train-00000-of-00002-1f2e3d4c5b6a7980.parquet
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(?:-[0-9a-f]+)?\.(?:parquet|arrow)")
_NUMBERED = re.compile(r"\d+\.parquet")  # of the Hub's own conversions: 0000.parquet, 0001.parquet
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"
_MAX_NAMED = 5


def table_files(path: Path) -> list[Path]:
    """The files of a table, in the order of their rows.

    `path` is a file; a folder that holds one table; or a pattern such as `data/train-*.parquet`. `CatalogueError` where
    a folder holds several splits, which are never mixed, or where a shard is missing.
    """
    if path.is_dir():
        if (path / _SAVED_SPLITS).exists():
            return _saved(_only_split(path))
        if (path / _SAVED).exists():
            return _saved(path)
        return _shards(path, path, sorted((*path.glob("*.parquet"), *path.glob("*.arrow"))))
    if "*" in path.name and not path.exists():
        return _shards(path, path.parent, sorted(path.parent.glob(path.name)))
    return [path]


def _shards(path: Path, folder: Path, files: Sequence[Path]) -> list[Path]:
    if not files:
        inner = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        advice = f"; name one of its folders: {_some(inner)}" if inner else ""
        raise CatalogueError(f"{path}: no Parquet or Arrow files there{advice}")
    shards = [_SHARD.fullmatch(file.name) for file in files]
    splits = {shard["split"] for shard in shards if shard is not None}
    if len(splits) > 1:
        example = folder / f"{min(splits)}-*{files[0].suffix}"
        raise CatalogueError(f"{path}: holds several splits ({_some(sorted(splits))}); name one, such as {example}")
    if all(shards):
        return _complete(path, files, [shard for shard in shards if shard is not None])
    if all(_NUMBERED.fullmatch(file.name) for file in files):
        return _consecutive(path, files)
    if len(files) > 1:
        names = _some([file.name for file in files])
        raise CatalogueError(f"{path}: {names} are not named as shards of one table; name one of them")
    return list(files)


def _complete(path: Path, files: Sequence[Path], shards: Sequence[re.Match[str]]) -> list[Path]:
    counts = {int(shard["count"]) for shard in shards}
    numbers = sorted(int(shard["number"]) for shard in shards)
    if len(counts) > 1 or len(set(numbers)) < len(numbers):
        raise CatalogueError(f"{path}: shards of several tables: {_some([f.name for f in files])}; keep those of one")
    missing = sorted(set(range(max(counts))) - set(numbers))
    if missing:
        raise CatalogueError(f"{path}: shard {missing[0]:05} of {max(counts):05} is missing; copy them all")
    return [file for _, file in sorted(zip((int(shard["number"]) for shard in shards), files, strict=True))]


def _consecutive(path: Path, files: Sequence[Path]) -> list[Path]:
    ordered = sorted(files, key=lambda file: int(file.stem))
    for number, file in enumerate(ordered):
        if int(file.stem) != number:
            raise CatalogueError(f"{path}: {file.name} is there where shard {number} is expected; copy them all")
    return ordered


def _only_split(path: Path) -> Path:
    splits = _json(path / _SAVED_SPLITS).get("splits")
    if not isinstance(splits, list) or not all(isinstance(split, str) and _is_name(split) for split in splits):
        raise CatalogueError(f"{path / _SAVED_SPLITS}: field 'splits': expected a list of names, got {shown(splits)}")
    if len(splits) != 1:
        example = f"; name one, such as {path / min(splits)}" if splits else ""
        held = f"several splits ({_some(sorted(splits))})" if splits else "no split"
        raise CatalogueError(f"{path}: holds {held}{example}")
    return path / splits[0]


def _saved(path: Path) -> list[Path]:
    """The files that a saved dataset's state lists, which are not all that may lie there."""
    place = path / _SAVED
    state = _json(place)
    if state.get("_indices_data_files"):
        raise CatalogueError(f"{place}: its rows have an order of their own; save it after flatten_indices()")
    entries = state.get("_data_files")
    listed = entries if isinstance(entries, list) else []
    names = [str(entry.get("filename", "")) if isinstance(entry, dict) else "" for entry in listed]
    if not names or not all(map(_is_name, names)):
        raise CatalogueError(f"{place}: field '_data_files': expected a list of file names, got {shown(entries)}")
    return [path / name for name in names]


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise CatalogueError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CatalogueError(f"{path}: not JSON; save the dataset anew") from error
    if not isinstance(values, dict):
        raise CatalogueError(f"{path}: expected a JSON object, got {shown(values)}")
    return values


def _is_name(text: str) -> bool:
    return text not in ("", ".", "..") and Path(text).name == text and "\0" not in text


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(names[:_MAX_NAMED]) + more
