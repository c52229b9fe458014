"""One record of a data file, whose fields are checked when they are asked for."""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from rcjax.catalog.errors import RecordError, shown

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# the years 1 to 9999; a time in milliseconds that is taken for seconds lies beyond them
_MIN_TIMESTAMP_S, _MAX_TIMESTAMP_S = -62_135_596_800, 253_402_300_799


@dataclass(frozen=True, slots=True)
class Record:
    """The fields of one record, and where it stands (`items.jsonl:17`, `items.parquet: row 17`).

    The accessors raise `RecordError` on a value of the wrong kind. Numbers may be written as text.
    """

    where: str
    values: Mapping[str, Any]
    prefix: str = ""  # of a nested record's field names, "events[3]."
    columns: Mapping[str, str] | None = None  # what the file calls fields that have another name there

    def __post_init__(self) -> None:
        for name in self.values:
            if not isinstance(name, str):
                raise RecordError(f"{self.where}: expected text as a field's name, got {shown(name)}")
            if not name.isascii():
                self._characters(name, name)

    def error(self, field: str, problem: str) -> RecordError:
        column = self.columns.get(field.partition("[")[0]) if self.columns else None
        named = f" (column '{column}')" if column is not None else ""
        return RecordError(f"{self.where}: field '{self.prefix}{field}'{named}: {problem}")

    def identifier(self, field: str) -> str:
        """A required id; integers become text."""
        return self._identifier(field, self.values.get(field))

    def identifiers(self, field: str) -> tuple[str, ...]:
        """A list of ids; integers become text."""
        return tuple(self._identifier(f"{field}[{n}]", entry) for n, entry in enumerate(self._list(field)))

    def text(self, field: str) -> str:
        """Text without surrounding blanks; absent or null is empty."""
        value = self.values.get(field)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.error(field, f"expected text, got {shown(value)}")
        return self._characters(field, value).strip()

    def texts(self, field: str) -> tuple[str, ...]:
        """A list of text, without empty entries; absent or null is empty."""
        return self.texts_of(field, self._list(field))

    def texts_of(self, field: str, entries: list[Any]) -> tuple[str, ...]:
        """The texts of a list that stands in a field."""
        texts = []
        for entry in entries:
            if not isinstance(entry, str):
                raise self.error(field, f"expected a list of text, got the entry {shown(entry)}")
            texts.append(self._characters(field, entry).strip())
        return tuple(text for text in texts if text)

    def number(self, field: str, *, low: float = -math.inf, high: float = math.inf) -> float | None:
        """A finite number from `low` to `high`; absent, null or empty is None."""
        value = self.values.get(field)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        number = number_of(value)
        if not math.isfinite(number):
            raise self.error(field, f"expected a number, got {shown(value)}; leave it out where there is none")
        if not low <= number <= high:
            raise self.error(field, f"expected a number from {low:g} to {high:g}, got {shown(value)}")
        return number

    def timestamp(self, field: str, *, unit: Literal["s", "ms"] = "s") -> int | None:
        """Whole seconds or milliseconds since 1970, of the years 1 to 9999; absent, null or empty is None."""
        number = self.number(field)
        if number is None:
            return None
        value = self.values[field]
        if not number.is_integer():
            raise self.error(field, f"expected a whole number, got {shown(value)}")
        per_second = 1000 if unit == "ms" else 1
        if not _MIN_TIMESTAMP_S <= number / per_second <= _MAX_TIMESTAMP_S:
            raise self.error(field, f"expected a time in {unit} since 1970, got {shown(value)}; is it in another unit?")
        return int(number)  # exact: the range is far below 2**53

    def records(self, field: str) -> Iterator["Record"]:
        """A list of records, which know their place in this one."""
        for n, entry in enumerate(self._list(field)):
            if not isinstance(entry, Mapping):
                raise self.error(f"{field}[{n}]", f"expected an object, got {shown(entry)}")
            yield Record(self.where, entry, f"{self.prefix}{field}[{n}].")

    def _list(self, field: str) -> list[Any]:
        value = self.values.get(field)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.error(field, f"expected a list, got {shown(value)}")
        return value

    def _identifier(self, field: str, value: object) -> str:
        if value is None or (isinstance(value, str) and not value.strip()):
            raise self.error(field, "missing")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.error(field, f"expected an id, got {shown(value)}; write text or a whole number")
        if isinstance(value, int):
            return self._written(field, value)
        value = self._characters(field, value)
        if value != value.strip():
            raise self.error(field, f"blanks around the id {shown(value)}; take them away")
        if not value.isprintable() and any(unicodedata.category(character) == "Cc" for character in value):
            raise self.error(field, f"a control character in the id {shown(value)}; take it away")
        return value

    def _written(self, field: str, value: int) -> str:
        try:
            return str(value)
        except ValueError as error:
            raise self.error(field, f"expected an id, got {shown(value)}") from error

    def _characters(self, field: str, value: str) -> str:
        """The text, two halves of a surrogate pair made one character; half a pair alone is an error."""
        if value.isascii():
            return value
        try:
            value.encode("utf-8")
            return value
        except UnicodeEncodeError as half:
            try:
                return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
            except UnicodeDecodeError as error:
                code = f"\\u{ord(value[half.start]):04x}"
                problem = f"{code} at character {half.start + 1} is half a surrogate pair, no character; take it away"
                raise self.error(field, problem) from error


def number_of(value: object) -> float:
    """The number; NaN where the value is none, or too large."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return math.nan
    # float() would also take "1_000", "nan" and digits of other scripts
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        return math.nan
    try:
        return float(value)
    except (OverflowError, ValueError):  # an int beyond 1e308, a signalling NaN of Decimal
        return math.nan
