"""MovieLens (https://grouplens.org/datasets/movielens): movies and ratings, as `.dat` (1M, 10M) and `.csv` (later)."""

import csv
from collections.abc import Iterator
from pathlib import Path

from rcjax.catalog.schema import Interaction
from rcjax.catalog.source import CatalogueError, Row, read_lines
from rcjax.catalog.types import Item

_MOVIE_FIELDS = ("movieId", "title", "genres")
_RATING_FIELDS = ("userId", "movieId", "rating", "timestamp")
_NO_GENRES = "(no genres listed)"


def read_items(path: Path, *, progress: bool = False) -> Iterator[Item]:
    """Titles keep their year; genres become categories."""
    for row in _read_rows(path, _MOVIE_FIELDS, progress):
        genres = row.text("genres")
        yield Item(
            item_id=row.identifier("movieId"),
            title=row.text("title"),
            categories=() if genres in ("", _NO_GENRES) else tuple(genres.split("|")),
        )


def read_events(path: Path, *, progress: bool = False) -> Iterator[Interaction]:
    for row in _read_rows(path, _RATING_FIELDS, progress):
        yield Interaction(
            user_id=row.identifier("userId"),
            item_id=row.identifier("movieId"),
            rating=row.number("rating"),
            timestamp_s=row.integer("timestamp"),
        )


def _read_rows(path: Path, fields: tuple[str, ...], progress: bool) -> Iterator[Row]:
    if ".csv" in path.suffixes:
        return _read_csv_rows(path, fields, progress)
    return _read_dat_rows(path, fields, progress)


def _read_dat_rows(path: Path, fields: tuple[str, ...], progress: bool) -> Iterator[Row]:
    for number, line in read_lines(path, progress=progress, encoding="latin-1"):
        values = line.split("::")
        if len(values) != len(fields):
            raise CatalogueError(
                f"{path}:{number}: expected {len(fields)} fields {', '.join(fields)} between '::', got {len(values)}"
            )
        yield Row(f"{path}:{number}", dict(zip(fields, values, strict=True)))


def _read_csv_rows(path: Path, fields: tuple[str, ...], progress: bool) -> Iterator[Row]:
    """One record per line: MovieLens quotes commas but has no line breaks inside a field."""
    header: list[str] = []
    for number, line in read_lines(path, progress=progress):
        try:
            values = next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise CatalogueError(f"{path}:{number}: not CSV: {error}") from error
        if not header:
            header = values
            for field in fields:
                if field not in header:
                    raise CatalogueError(f"{path}:{number}: field '{field}': not in the header {header}")
            continue
        if len(values) != len(header):
            raise CatalogueError(f"{path}:{number}: expected {len(header)} fields as in the header, got {len(values)}")
        yield Row(f"{path}:{number}", dict(zip(header, values, strict=True)))
