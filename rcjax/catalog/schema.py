"""The project's own record layout, which its JSONL and Parquet files share.

items: item_id, title, description, brand, categories, price.
users: user_id, events, each with item_id, title, text, rating, timestamp_s.
events: user_id, item_id, title, text, rating, timestamp_s, order (a flat stream instead of `users`).
requests: user_id, candidates, target.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from rcjax.catalog.errors import shown
from rcjax.catalog.record import Record
from rcjax.catalog.report import ReadLog
from rcjax.catalog.types import Event, Item, Request, User


@dataclass(frozen=True, slots=True)
class Interaction:
    """An event before it is joined to its item: `title` may be empty, and time order is still to be made."""

    user_id: str
    item_id: str
    title: str = ""
    text: str = ""
    rating: float | None = None
    timestamp_s: int | None = None
    order: float | None = None

    @property
    def time_order(self) -> tuple[float, float]:
        """What a user's events are sorted by; one without a timestamp counts as older than all that have one."""
        when = -math.inf if self.timestamp_s is None else float(self.timestamp_s)
        return when, 0.0 if self.order is None else self.order


def item_from_record(record: Record, log: ReadLog) -> Item:
    return Item(
        item_id=record.identifier("item_id"),
        title=record.text("title"),
        description=record.text("description"),
        brand=record.text("brand"),
        categories=record.texts("categories"),
        price=log.price(record),
    )


def interaction_from_record(record: Record, user_id: str) -> Interaction:
    return Interaction(
        user_id=user_id,
        item_id=record.identifier("item_id"),
        title=record.text("title"),
        text=record.text("text"),
        rating=record.number("rating"),
        timestamp_s=record.timestamp("timestamp_s"),
        order=record.number("order"),
    )


def interactions_from_user_record(record: Record) -> tuple[str, list[Interaction]]:
    """A user's id and events; a user may have none."""
    user_id = record.identifier("user_id")
    return user_id, [interaction_from_record(event, user_id) for event in record.records("events")]


def request_from_record(record: Record) -> Request:
    candidates = record.identifiers("candidates")
    if not candidates:
        raise record.error("candidates", "missing")
    target = None if record.values.get("target") is None else record.identifier("target")
    if target is not None and target not in candidates:
        raise record.error("target", f"{shown(target)} is not among the candidates")
    return Request(record.identifier("user_id"), candidates, target)


def event_from_record(record: Record) -> Interaction:
    """An event of a flat stream, which names its user."""
    return interaction_from_record(record, record.identifier("user_id"))


def record_of(thing: Item | User | Event | Request) -> dict[str, Any]:
    """The record that the readers turn back into an equal `thing`."""
    return asdict(thing)
