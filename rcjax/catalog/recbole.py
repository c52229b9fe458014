"""RecBole's atomic files (https://recbole.io/docs/user_guide/data/atomic_files.html): `.item` and `.inter`.

Tabs between the values, and a header of `name:type` with the types token, token_seq, float and float_seq.
"""

import ast
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rcjax.catalog.columns import Fields
from rcjax.catalog.errors import CatalogueError, RecordError, shown
from rcjax.catalog.record import Record, number_of
from rcjax.catalog.report import ReadLog
from rcjax.catalog.schema import Interaction, event_from_record
from rcjax.catalog.source import Line, read_lines
from rcjax.catalog.types import Item

T = TypeVar("T")

_TYPES = ("token", "token_seq", "float", "float_seq")
_ITEMS = Fields(
    "items",
    ("item_id", "title", "description", "brand", "categories", "price"),
    needed=("item_id", "title"),
    usual={
        "title": ("title", "item_name", "movie_title", "name"),
        "categories": ("categories", "category", "genre", "genres", "class"),
    },
)
_EVENTS = Fields(
    "events",
    ("user_id", "item_id", "title", "text", "rating", "timestamp_s", "order"),
    needed=("user_id", "item_id"),
    usual={"title": (), "text": (), "order": (), "timestamp_s": ("timestamp",)},
)
_TEXT, _NUMBER = ("token", "token_seq"), ("float", "token")
_TYPES_OF = {"item_id": ("token",), "user_id": ("token",)} | dict.fromkeys(
    ("rating", "timestamp_s", "order", "price"), _NUMBER
)


def read_items(path: Path, log: ReadLog) -> Iterator[Item]:
    """Columns are found by the names that RecBole's own data sets have, unless the log's columns name them."""
    return _each(path, _ITEMS, log.columns.items, log, lambda record: _item(record, log))


def read_events(path: Path, log: ReadLog) -> Iterator[Interaction]:
    return _each(path, _EVENTS, log.columns.events, log, event_from_record)


def _item(record: Record, log: ReadLog) -> Item:
    return Item(
        item_id=record.identifier("item_id"),
        title=record.text("title"),
        description=record.text("description"),
        brand=record.text("brand"),
        categories=_categories(record),
        price=log.price(record),
    )


def _categories(record: Record) -> tuple[str, ...]:
    """A list as its data set writes it: in quotes, with commas, or as RecBole splits it, at blanks.

    `'Movies & TV', 'Drama'`; `Drama, School`; `Animation Comedy`. A token is one category.
    """
    if isinstance(record.values.get("categories"), list):
        return record.texts("categories")
    text = record.text("categories")
    quoted = _quoted_list(text) if text[:1] in ("[", "(", "'", '"') else None
    if quoted is None and text[:1] == "[":
        raise record.error("categories", f"expected a list of quoted text, got {shown(text)}")
    if quoted is None:
        quoted = text.split(",") if "," in text else text.split()
    return record.texts_of("categories", quoted)


def _quoted_list(text: str) -> list[Any] | None:
    """The texts of a Python literal, or None where it is not one. A literal is data, never code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of backslashes that escape nothing
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    values = [value] if isinstance(value, str) else list(value) if isinstance(value, list | tuple) else [value]
    return values if all(isinstance(entry, str) for entry in values) else None


@dataclass(frozen=True, slots=True)
class _Header:
    """Where in a line the fields stand, and of which type they are."""

    num_columns: int
    places: Mapping[str, int]
    types: Mapping[str, str]
    renamed: Mapping[str, str]

    def record(self, line: Line) -> Record:
        values = line.text().split("\t")
        if len(values) != self.num_columns:
            problem = f"expected {self.num_columns} values between tabs as in the header, got {len(values)}"
            raise RecordError(f"{line.where}: {problem}{line.cut()}")
        fields = {name: self._value(name, values[place]) for name, place in self.places.items()}
        return Record(line.where, fields, columns=self.renamed)

    def _value(self, name: str, text: str) -> Any:
        if name == "categories" and self.types[name] == "token":
            return [text]
        if name == "price" and self.types[name] == "float":
            number = number_of(text)  # as a text, 1.234 might be a thousand
            return text if number != number else number
        return text


def _each(
    path: Path, fields: Fields, named: Mapping[str, str], log: ReadLog, parse: Callable[[Record], T]
) -> Iterator[T]:
    lines = log.noting_a_cut_end(read_lines(path, progress=log.progress))
    first = next(lines, None)
    if first is None:
        raise CatalogueError(f"{path}: empty; expected a header of name:type with tabs between")
    header = _header(first, fields, named)
    yield from log.each(path, lines, lambda line: parse(header.record(line)))


def _header(line: Line, fields: Fields, named: Mapping[str, str]) -> _Header:
    try:
        columns = [column.strip().rpartition(":") for column in line.text().split("\t")]
    except RecordError as error:
        raise CatalogueError(str(error)) from error
    for name, _, kind in columns:
        if not name or kind not in _TYPES:
            problem = f"{shown(f'{name}:{kind}' if name else kind)} is not name:type with a type of {', '.join(_TYPES)}"
            raise CatalogueError(f"{line.where}: not a header of RecBole's: {problem}")
    names = [name for name, _, _ in columns]
    chosen = fields.columns(line.where, named, names)
    places = {field: names.index(name) for field, name in chosen.items()}
    types = {field: columns[place][2] for field, place in places.items()}
    for field, kind in types.items():
        if kind not in _TYPES_OF.get(field, _TEXT):
            allowed = " or ".join(_TYPES_OF.get(field, _TEXT))
            problem = f"column {shown(chosen[field])} is of type {kind}, and '{field}' is read from {allowed}"
            raise CatalogueError(f"{line.where}: {problem}; name another column in catalogue.columns.{fields.kind}")
    renamed = {field: name for field, name in chosen.items() if field != name}
    return _Header(len(columns), places, types, renamed)
