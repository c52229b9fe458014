"""MovieLens (https://grouplens.org/datasets/movielens): movies and ratings, as `.dat` (1M, 10M) and `.csv` (later)."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from rcjax.catalog.encoding import text_encoding
from rcjax.catalog.errors import CatalogueError, RecordError
from rcjax.catalog.record import Record
from rcjax.catalog.report import ReadLog
from rcjax.catalog.schema import Interaction
from rcjax.catalog.source import Line, read_lines
from rcjax.catalog.types import Item

T = TypeVar("T")

_MOVIE_FIELDS = ("movieId", "title", "genres")
_RATING_FIELDS = ("userId", "movieId", "rating", "timestamp")
_NO_GENRES = "(no genres listed)"
_MAX_STARS = 5.0


def read_items(path: Path, log: ReadLog) -> Iterator[Item]:
    """Titles keep their year; genres become categories."""
    # 1M is Latin-1 and 10M is UTF-8; later ones, as .csv, say that they are UTF-8
    encoding = "utf-8" if _is_csv(path) else text_encoding(path)
    return _each(path, _MOVIE_FIELDS, log, _item, encoding)


def read_events(path: Path, log: ReadLog) -> Iterator[Interaction]:
    return _each(path, _RATING_FIELDS, log, _event)


def _item(record: Record) -> Item:
    genres = record.text("genres")
    return Item(
        item_id=record.identifier("movieId"),
        title=record.text("title"),
        categories=() if genres == _NO_GENRES else tuple(genre for genre in genres.split("|") if genre),
    )


def _event(record: Record) -> Interaction:
    return Interaction(
        user_id=record.identifier("userId"),
        item_id=record.identifier("movieId"),
        rating=record.number("rating", low=0.0, high=_MAX_STARS),
        timestamp_s=record.timestamp("timestamp"),
    )


def _each(
    path: Path, fields: tuple[str, ...], log: ReadLog, parse: Callable[[Record], T], encoding: str = "utf-8"
) -> Iterator[T]:
    lines = log.noting_a_cut_end(read_lines(path, progress=log.progress))
    if _is_csv(path):
        header = _header(path, fields, lines)
        return log.each(path, lines, lambda line: parse(_csv_record(line, header)))
    return log.each(path, lines, lambda line: parse(_dat_record(line, fields, encoding)))


def _is_csv(path: Path) -> bool:
    return path.name.removesuffix(".gz").endswith(".csv")


def _dat_record(line: Line, fields: tuple[str, ...], encoding: str) -> Record:
    values = line.text(encoding).split("::")
    if len(values) != len(fields):
        problem = f"expected {len(fields)} fields {', '.join(fields)} between '::', got {len(values)}"
        raise RecordError(f"{line.where}: {problem}{line.cut()}")
    return Record(line.where, dict(zip(fields, values, strict=True)))


def _header(path: Path, fields: tuple[str, ...], lines: Iterator[Line]) -> list[str]:
    """The names in the first line; an empty file has none."""
    first = next(lines, None)
    if first is None:
        return []
    try:
        header = _csv_values(first)
    except RecordError as error:
        raise CatalogueError(str(error)) from error
    for field in fields:
        if header.count(field) != 1:
            problem = "not in the header" if field not in header else "more than once in the header"
            raise CatalogueError(f"{first.where}: field '{field}': {problem} {header}")
    return header


def _csv_record(line: Line, header: list[str]) -> Record:
    """One record per line: MovieLens quotes commas but has no line breaks inside a field."""
    values = _csv_values(line)
    if len(values) != len(header):
        problem = f"expected {len(header)} fields as in the header, got {len(values)}"
        raise RecordError(f"{line.where}: {problem}{line.cut()}")
    return Record(line.where, dict(zip(header, values, strict=True)))


def _csv_values(line: Line) -> list[str]:
    try:
        return next(csv.reader([line.text()], strict=True))
    except csv.Error as error:
        raise RecordError(f"{line.where}: not CSV with one record a line: {error}{line.cut()}") from error
