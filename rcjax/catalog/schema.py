"""The project's own record layout, which its JSONL and Parquet files share.

items: item_id, title, description, brand, categories, price.
users: user_id, events, each with item_id, title, text, rating, timestamp_s.
events: user_id, item_id, title, text, rating, timestamp_s, order (a flat stream instead of `users`).
requests: user_id, candidates, target.
"""

from dataclasses import asdict, dataclass
from typing import Any

from rcjax.catalog.source import Row
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


def item_from_row(row: Row) -> Item:
    return Item(
        item_id=row.identifier("item_id"),
        title=row.text("title"),
        description=row.text("description"),
        brand=row.text("brand"),
        categories=row.texts("categories"),
        price=row.number("price"),
    )


def interaction_from_row(row: Row, user_id: str) -> Interaction:
    return Interaction(
        user_id=user_id,
        item_id=row.identifier("item_id"),
        title=row.text("title"),
        text=row.text("text"),
        rating=row.number("rating"),
        timestamp_s=row.integer("timestamp_s"),
        order=row.number("order"),
    )


def interactions_from_user_row(row: Row) -> tuple[str, list[Interaction]]:
    """A user's id and events; a user may have none."""
    user_id = row.identifier("user_id")
    return user_id, [interaction_from_row(event, user_id) for event in row.rows("events")]


def request_from_row(row: Row) -> Request:
    candidates = row.identifiers("candidates")
    if not candidates:
        raise row.error("candidates", "missing")
    target = None if row.values.get("target") is None else row.identifier("target")
    if target is not None and target not in candidates:
        raise row.error("target", f"{target!r} is not among the candidates")
    return Request(row.identifier("user_id"), candidates, target)


def record_of(thing: Item | User | Event | Request) -> dict[str, Any]:
    """The record that the readers turn back into an equal `thing`."""
    return asdict(thing)
