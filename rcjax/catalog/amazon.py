"""Amazon Reviews: product metadata and reviews, in the layouts of 2014 and 2023.

2014 (https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html): `meta_*.json.gz` and `reviews_*.json.gz`.
The metadata's lines are Python literals in the original files and JSON in later copies; both are read.
2023 (https://amazon-reviews-2023.github.io): `meta_*.jsonl.gz` and `*.jsonl.gz`.
"""

import ast
import html
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rcjax.catalog.errors import RecordError, shown
from rcjax.catalog.json_record import json_record
from rcjax.catalog.record import Record
from rcjax.catalog.report import ReadLog
from rcjax.catalog.schema import Interaction
from rcjax.catalog.source import Line, read_lines
from rcjax.catalog.types import Item

_MAX_STARS = 5.0


def read_items_2014(path: Path, log: ReadLog) -> Iterator[Item]:
    return log.each(path, read_lines(path, progress=log.progress), lambda line: _item_2014(line, log))


def read_events_2014(path: Path, log: ReadLog) -> Iterator[Interaction]:
    return log.each(path, read_lines(path, progress=log.progress), _event_2014)


def read_items_2023(path: Path, log: ReadLog) -> Iterator[Item]:
    """The description is followed by the features, because many products have only one of the two."""
    return log.each(path, read_lines(path, progress=log.progress), lambda line: _item_2023(line, log))


def read_events_2023(path: Path, log: ReadLog) -> Iterator[Interaction]:
    return log.each(path, read_lines(path, progress=log.progress), _event_2023)


def _item_2014(line: Line, log: ReadLog) -> Item:
    record = _literal_record(line)
    return Item(
        item_id=record.identifier("asin"),
        title=_unescaped(record.text("title")),
        description=_unescaped(record.text("description")),
        brand=_unescaped(record.text("brand")),
        categories=_flat_categories(record),
        price=log.price(record),
    )


def _event_2014(line: Line) -> Interaction:
    record = json_record(line)
    return Interaction(
        user_id=record.identifier("reviewerID"),
        item_id=record.identifier("asin"),
        text=_review(record.text("summary"), record.text("reviewText")),
        rating=record.number("overall", low=0.0, high=_MAX_STARS),
        timestamp_s=record.timestamp("unixReviewTime"),
    )


def _item_2023(line: Line, log: ReadLog) -> Item:
    record = json_record(line)
    return Item(
        item_id=record.identifier("parent_asin"),
        title=_unescaped(record.text("title")),
        description=_unescaped(" ".join((*record.texts("description"), *record.texts("features")))),
        brand=_unescaped(record.text("store")),
        categories=tuple(_unescaped(category) for category in record.texts("categories")),
        price=log.price(record),
    )


def _event_2023(line: Line) -> Interaction:
    record = json_record(line)
    timestamp_ms = record.timestamp("timestamp", unit="ms")
    return Interaction(
        user_id=record.identifier("user_id"),
        item_id=record.identifier("parent_asin"),
        text=_review(record.text("title"), record.text("text")),
        rating=record.number("rating", low=0.0, high=_MAX_STARS),
        timestamp_s=None if timestamp_ms is None else timestamp_ms // 1000,
        order=None if timestamp_ms is None else float(timestamp_ms),  # tells events of one second apart
    )


def _literal_record(line: Line) -> Record:
    """JSON where the line is JSON, else a Python literal, else JSON's complaint."""
    try:
        return json_record(line)
    except RecordError:
        values = _literal_object(line)
        if values is None:
            raise
        return Record(line.where, values)


def _literal_object(line: Line) -> dict[Any, Any] | None:
    """The dict that the line writes as a Python literal; None where it is not one. A literal is data, never code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of backslashes that escape nothing
            body = ast.parse(line.text().strip(), mode="eval").body
            values = ast.literal_eval(body)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(values, dict) or not isinstance(body, ast.Dict):
        return None
    if len(body.keys) > len(values):
        raise RecordError(f"{line.where}: a field that is there more than once; keep one")
    return values


def _flat_categories(record: Record) -> tuple[str, ...]:
    """Every name on the product's category paths, once each, in order."""
    paths = record.values.get("categories") or []
    if not isinstance(paths, list):
        raise record.error("categories", f"expected a list of paths, got {shown(paths)}")
    names: dict[str, None] = {}
    for n, path in enumerate(paths):
        # some copies have one flat path
        texts = record.texts_of(f"categories[{n}]", path if isinstance(path, list) else [path])
        names.update(dict.fromkeys(map(_unescaped, texts)))
    return tuple(name for name in names if name)


def _review(summary: str, text: str) -> str:
    summary, text = _unescaped(summary), _unescaped(text)
    if summary and text and summary[-1] not in ".!?":
        summary += "."
    return f"{summary} {text}".strip()


def _unescaped(text: str) -> str:
    try:
        return html.unescape(text).strip()
    except ValueError:  # "&#" and more digits than Python converts: no character, so it stays as it is
        return text.strip()
