"""Amazon Reviews: product metadata and reviews, in the layouts of 2014 and 2023.

2014 (https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html): `meta_*.json.gz` and `reviews_*.json.gz`.
The metadata's lines are Python literals in the original files and JSON in later copies; both are read.
2023 (https://amazon-reviews-2023.github.io): `meta_*.jsonl.gz` and `*.jsonl.gz`.
"""

import ast
import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

from rcjax.catalog.schema import Interaction
from rcjax.catalog.source import Row, json_row, read_json_rows, read_lines
from rcjax.catalog.types import Item

_PRICE = re.compile(r"\d[\d,]*(?:\.\d+)?")
_NO_PRICE = {"", "none", "null", "nan", "-", "—"}


def read_items_2014(path: Path, *, progress: bool = False) -> Iterator[Item]:
    for number, line in read_lines(path, progress=progress):
        row = _literal_row(line, f"{path}:{number}")
        yield Item(
            item_id=row.identifier("asin"),
            title=_unescaped(row.text("title")),
            description=_unescaped(row.text("description")),
            brand=_unescaped(row.text("brand")),
            categories=_flat_categories(row),
            price=_price(row),
        )


def read_events_2014(path: Path, *, progress: bool = False) -> Iterator[Interaction]:
    for row in read_json_rows(path, progress=progress):
        yield Interaction(
            user_id=row.identifier("reviewerID"),
            item_id=row.identifier("asin"),
            text=_review(row.text("summary"), row.text("reviewText")),
            rating=row.number("overall"),
            timestamp_s=row.integer("unixReviewTime"),
        )


def read_items_2023(path: Path, *, progress: bool = False) -> Iterator[Item]:
    """The description is followed by the features, because many products have only one of the two."""
    for row in read_json_rows(path, progress=progress):
        yield Item(
            item_id=row.identifier("parent_asin"),
            title=_unescaped(row.text("title")),
            description=_unescaped(" ".join((*row.texts("description"), *row.texts("features")))),
            brand=_unescaped(row.text("store")),
            categories=tuple(_unescaped(category) for category in row.texts("categories")),
            price=_price(row),
        )


def read_events_2023(path: Path, *, progress: bool = False) -> Iterator[Interaction]:
    for row in read_json_rows(path, progress=progress):
        timestamp_ms = row.integer("timestamp")
        yield Interaction(
            user_id=row.identifier("user_id"),
            item_id=row.identifier("parent_asin"),
            text=_review(row.text("title"), row.text("text")),
            rating=row.number("rating"),
            timestamp_s=None if timestamp_ms is None else timestamp_ms // 1000,
            order=None if timestamp_ms is None else float(timestamp_ms),  # tells events of one second apart
        )


def _literal_row(line: str, where: str) -> Row:
    """JSON where the line is JSON, else a Python literal, else JSON's complaint."""
    try:
        json.loads(line)
    except json.JSONDecodeError:
        try:
            values = ast.literal_eval(line)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            values = None
        if isinstance(values, dict):
            return Row(where, values)
    return json_row(line, where)


def _flat_categories(row: Row) -> tuple[str, ...]:
    """Every name on the product's category paths, once each, in order."""
    paths = row.values.get("categories") or []
    if not isinstance(paths, list):
        raise row.error("categories", f"expected a list of paths, got {paths!r}")
    names: dict[str, None] = {}
    for n, path in enumerate(paths):
        # some copies have one flat path
        entry = Row(row.where, {f"categories[{n}]": path if isinstance(path, list) else [path]})
        names.update(dict.fromkeys(_unescaped(name) for name in entry.texts(f"categories[{n}]")))
    return tuple(names)


def _price(row: Row) -> float | None:
    """The first number of `12.99`, `"$12.00"`, `"from 12.99"` or `"$12.00 - $15.00"`."""
    value = row.values.get("price")
    if not isinstance(value, str):
        return row.number("price")
    if value.strip().lower() in _NO_PRICE:
        return None
    match = _PRICE.search(value)
    if match is None:
        raise row.error("price", f"expected a price, got {value!r}")
    return float(match.group().replace(",", ""))


def _review(summary: str, text: str) -> str:
    summary, text = _unescaped(summary), _unescaped(text)
    if summary and text and summary[-1] not in ".!?":
        summary += "."
    return f"{summary} {text}".strip()


def _unescaped(text: str) -> str:
    return html.unescape(text).strip()
