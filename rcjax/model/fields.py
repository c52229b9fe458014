"""The fields of a checkpoint's JSON objects and GGUF headers, read with their types."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcjax.model.load_error import ModelLoadError

_MAX_SHOWN_CHARS = 80
_MAX_INTEGER = 2**40  # no size of a model comes near, and sums and products of them stay exact


@dataclass(frozen=True, slots=True)
class Fields:
    """Named values of one file; a value of another type than asked for is a ModelLoadError with file and field.

    A field that is null is one that is absent: it has the default.
    """

    values: Mapping[str, Any]
    file: str

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= _MAX_INTEGER:
            raise self.error(key, f"must be a whole number of at least {minimum}")
        return value

    def number(self, key: str, default: float | None = None, *, above: float = 0.0) -> float:
        """A finite number greater than `above`."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value) or value <= above:
            raise self.error(key, f"must be a finite number above {above:g}")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self.error(key, "must be a text")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts; empty where the field is absent."""
        value = self._value(key, [])
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise self.error(key, "must be a list of texts")
        return value

    def object(self, key: str) -> "Fields":
        """An object's fields, named KEY.FIELD in errors; empty where the field is absent."""
        value = self._value(key, {})
        if not isinstance(value, Mapping):
            raise self.error(key, "must be an object")
        return Fields(value, f"{self.file}: {key}")

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def error(self, key: str, remedy: str) -> ModelLoadError:
        """An error that names the file, the field, its value and what it should be."""
        if self.values.get(key) is None:
            return ModelLoadError(f"{self.file} lacks {key}, which {remedy}")
        return ModelLoadError(f"{self.file}: {key}={shown(self.values[key])} {remedy}")

    def _value(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        return default if value is None else value


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def shown(value: object) -> str:
    """A value as an error shows it: on one line, and not too long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python refuses to print integers of thousands of digits
        return "a very long number"
    return text if len(text) <= _MAX_SHOWN_CHARS else f"{text[:_MAX_SHOWN_CHARS]}..."


def read_text(path: Path) -> str:
    """A text file of a checkpoint; ModelLoadError where it cannot be read or is not UTF-8."""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise ModelLoadError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ModelLoadError(
            f"{path} is not UTF-8 (byte {error.start}: {error.reason}); download or save the file again"
        ) from error


def read_json(path: Path) -> Fields:
    """The fields of a JSON file that holds an object; ModelLoadError naming the file where it does not."""
    text = read_text(path)
    if text.startswith("\ufeff"):
        raise ModelLoadError(f"{path} starts with a byte order mark; save it as UTF-8 without one")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ModelLoadError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}; download or save the file again"
        ) from error
    except (RecursionError, ValueError) as error:  # nested too deeply; a number of too many digits
        raise ModelLoadError(f"{path}: not JSON that can be read: {first_line(error)}") from error
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} holds {shown(value)}, not an object; download or save the file again")
    return Fields(value, str(path))


def first_line(error: BaseException) -> str:
    """The start of what a library's exception says, on one line; its type where it says nothing."""
    line = " ".join(str(error).split())
    return line[: 4 * _MAX_SHOWN_CHARS] or type(error).__name__
