"""Yelp Open Dataset (https://www.yelp.com/dataset): businesses and reviews as JSON Lines."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from rcjax.catalog.schema import Interaction
from rcjax.catalog.source import Row, read_json_rows
from rcjax.catalog.types import Item


def read_items(path: Path, *, progress: bool = False) -> Iterator[Item]:
    """A business's place is its description; stars are left out, since they tell what users chose later."""
    for row in read_json_rows(path, progress=progress):
        place = (row.text("address"), row.text("city"), row.text("state"))
        categories = (category.strip() for category in row.text("categories").split(","))
        yield Item(
            item_id=row.identifier("business_id"),
            title=row.text("name"),
            description=", ".join(part for part in place if part),
            categories=tuple(category for category in categories if category),
        )


def read_events(path: Path, *, progress: bool = False) -> Iterator[Interaction]:
    for row in read_json_rows(path, progress=progress):
        yield Interaction(
            user_id=row.identifier("user_id"),
            item_id=row.identifier("business_id"),
            text=row.text("text"),
            rating=row.number("stars"),
            timestamp_s=_timestamp_s(row),
        )


def _timestamp_s(row: Row) -> int | None:
    """Yelp's dates have no zone; UTC keeps their order, which is all that is read from them."""
    date = row.text("date")
    if not date:
        return None
    try:
        return int(datetime.fromisoformat(date).replace(tzinfo=UTC).timestamp())
    except ValueError as error:
        raise row.error("date", f"expected a date like 2016-03-09 20:56:38, got {date!r}") from error
