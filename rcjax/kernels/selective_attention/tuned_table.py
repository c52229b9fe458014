"""Tilings that were measured on a device: one JSON file for each kind of device, whose form tuned/README.md tells.

A file is checked as a whole, whichever of its entries is wanted.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rcjax.kernels.kv import KV_DTYPES
from rcjax.kernels.selective_attention.config import GpuTiling, Heads, Tilings, TpuTiling

TABLES = Path(__file__).parent / "tuned"
TILINGS: Mapping[str, type[GpuTiling] | type[TpuTiling]] = {"pallas_gpu": GpuTiling, "pallas_tpu": TpuTiling}
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, slots=True)
class Entry:
    """The tiling of a kernel that was fastest for prompts (or tiles) of `fresh_tokens`: `layer_us` a layer."""

    kernel: str
    heads: Heads
    fresh_tokens: int
    tiling: GpuTiling | TpuTiling
    layer_us: float


def table_path(device_kind: str, folder: Path = TABLES) -> Path:
    return folder / (re.sub(r"[^a-z0-9]+", "-", device_kind.lower()).strip("-") + ".json")


def tuned_tilings(kernel: str, heads: Heads, device_kind: str, folder: Path = TABLES) -> Tilings[Any] | None:
    """What was measured for these heads on such a device; None where nothing was.

    ValueError, which names file, entry and reason, where a table is broken.
    """
    path = table_path(device_kind, folder)
    if not path.exists():
        return None
    entries = [entry for entry in read_table(path, device_kind) if (entry.kernel, entry.heads) == (kernel, heads)]
    by_fresh_tokens = sorted(((entry.fresh_tokens, entry.tiling) for entry in entries), key=lambda pair: pair[0])
    return Tilings(tuple(by_fresh_tokens)) if by_fresh_tokens else None


def read_table(path: Path, device_kind: str) -> list[Entry]:
    try:
        table = json.loads(path.read_text())
        _check_fields(table, {"device_kind", "measured", "entries"})
        if table["device_kind"] != device_kind:
            raise ValueError(f"it is of {table['device_kind']!r}, and the device is {device_kind!r}")
        if not isinstance(table["entries"], list):
            raise ValueError(f"entries must be a list, not {table['entries']!r}")
    except (ValueError, OSError) as error:
        raise _broken(path, str(error)) from error
    entries: dict[tuple[str, Heads, int], Entry] = {}
    for number, values in enumerate(table["entries"]):
        try:
            entry = _entry(values)
            key = entry.kernel, entry.heads, entry.fresh_tokens
            if key in entries:
                raise ValueError(
                    f"there is one for {entry.kernel}, {entry.heads} and fresh_tokens={entry.fresh_tokens} already"
                )
        except ValueError as error:
            raise _broken(path, f"entries[{number}]: {error}") from error
        entries[key] = entry
    return [*entries.values()]


def _entry(values: Any) -> Entry:
    of_heads = {field.name for field in fields(Heads)}
    _check_fields(values, {"kernel", "fresh_tokens", "tiling", "layer_us", *of_heads})
    kernel, layer_us = values["kernel"], values["layer_us"]
    _check_one_of("kernel", kernel, TILINGS)
    _check_one_of("dtype", values["dtype"], DTYPES)
    _check_one_of("kv_dtype", values["kv_dtype"], KV_DTYPES)
    for name in ("head_dim", "group", "fresh_tokens"):
        _check_count(name, values[name])
    if isinstance(layer_us, bool) or not isinstance(layer_us, int | float) or not 0 < layer_us < float("inf"):
        raise ValueError(f"{layer_us=} must be a time above 0")
    make, sizes = TILINGS[kernel], values["tiling"]
    _check_fields(sizes, {field.name for field in fields(make)})
    for name, size in sizes.items():
        if (name, size) != ("splits", None):
            _check_count(name, size)
    heads = Heads(**{name: values[name] for name in of_heads})
    return Entry(kernel, heads, values["fresh_tokens"], make(**sizes), layer_us)


def _check_fields(values: Any, expected: set[str]) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"must be an object, not {values!r}")
    for verb, names in (("lacks", expected - values.keys()), ("does not know", values.keys() - expected)):
        if names:
            raise ValueError(f"{verb} {', '.join(sorted(names))}")


def _check_one_of(name: str, value: Any, known: Any) -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}={value!r} must be one of {', '.join(known)}")


def _check_count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")


def _broken(path: Path, reason: str) -> ValueError:
    return ValueError(f"the tuned table {path} is broken: {reason}; mend it, or take it away and measure anew")
