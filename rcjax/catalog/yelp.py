"""Yelp Open Dataset (https://www.yelp.com/dataset): businesses and reviews as JSON Lines."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from rcjax.catalog.errors import shown
from rcjax.catalog.json_record import json_record
from rcjax.catalog.record import Record
from rcjax.catalog.report import ReadLog
from rcjax.catalog.schema import Interaction
from rcjax.catalog.source import Line, read_lines
from rcjax.catalog.types import Item

_MAX_STARS = 5.0


def read_items(path: Path, log: ReadLog) -> Iterator[Item]:
    """A business's place is its description; stars are left out, since they tell what users chose later."""
    return log.each(path, read_lines(path, progress=log.progress), _item)


def read_events(path: Path, log: ReadLog) -> Iterator[Interaction]:
    return log.each(path, read_lines(path, progress=log.progress), _event)


def _item(line: Line) -> Item:
    record = json_record(line)
    place = (record.text("address"), record.text("city"), record.text("state"))
    categories = (category.strip() for category in record.text("categories").split(","))
    return Item(
        item_id=record.identifier("business_id"),
        title=record.text("name"),
        description=", ".join(part for part in place if part),
        categories=tuple(category for category in categories if category),
    )


def _event(line: Line) -> Interaction:
    record = json_record(line)
    return Interaction(
        user_id=record.identifier("user_id"),
        item_id=record.identifier("business_id"),
        text=record.text("text"),
        rating=record.number("stars", low=0.0, high=_MAX_STARS),
        timestamp_s=_timestamp_s(record),
    )


def _timestamp_s(record: Record) -> int | None:
    """A date without a zone, as all of Yelp's are, counts as UTC: that keeps their order, which is all that is used."""
    text = record.text("date")
    if not text:
        return None
    try:
        date = datetime.fromisoformat(text)
        return int((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as error:
        raise record.error("date", f"expected a date like 2016-03-09 20:56:38, got {shown(text)}") from error
