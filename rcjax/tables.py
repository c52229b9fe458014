"""Tables: items, users and rankings from and to pandas. Needs the extra `notebook`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from rcjax.catalog.errors import CatalogueError, shown
from rcjax.catalog.record import Record
from rcjax.catalog.report import ReadLog
from rcjax.catalog.schema import Interaction, event_from_record, item_from_record
from rcjax.catalog.types import Event, Item, User

if TYPE_CHECKING:
    from pandas import DataFrame

ITEM_COLUMNS = ("item_id", "title", "description", "brand", "categories", "price")
EVENT_COLUMNS = ("user_id", "item_id", "title", "text", "rating", "timestamp_s")


def items_from_pandas(frame: "DataFrame") -> list[Item]:
    """The items of a table with a row for each: `item_id`, `title`, and perhaps `description`, `brand`, `categories`
    (lists of text) and `price`.

    What is missing (NaN, None) is left out of the item. `CatalogueError` names the row and column of a wrong value, a
    column that is none of these, and an id that stands twice.

    Example:

        >>> import pandas
        >>> table = pandas.DataFrame({"item_id": ["mug"], "title": ["Stoneware mug"], "price": [12.5]})
        >>> items_from_pandas(table)
        [Item(item_id='mug', title='Stoneware mug', description='', brand='', categories=(), price=12.5)]
    """
    items: dict[str, Item] = {}
    for record in _records(frame, ITEM_COLUMNS, required=("item_id", "title")):
        log = ReadLog()
        item = item_from_record(record, log)
        if log.unread_price is not None:
            raise CatalogueError(log.unread_price)
        if not item.title:
            raise record.error("title", "missing")
        if item.item_id in items:
            raise record.error("item_id", f"{shown(item.item_id)} stands twice; keep one of them")
        items[item.item_id] = item
    return list(items.values())


def users_from_pandas(frame: "DataFrame", items: Mapping[str, Item] | None = None) -> list[User]:
    """The users of a table with a row for each event: `user_id`, `item_id`, and perhaps `title`, `text`, `rating` and
    `timestamp_s` (whole seconds since 1970, or datetimes; without a time zone these are UTC).

    An event without a title gets that of `items`. Events are sorted by time, then as they stand in the table; those
    without a time count as the oldest. `CatalogueError` as for `items_from_pandas`.

    Example:

        >>> import pandas
        >>> bought = pandas.DataFrame({"user_id": ["ann", "ann"], "item_id": ["mug", "pot"], "timestamp_s": [2, 1]})
        >>> items = {"mug": Item("mug", "Stoneware mug"), "pot": Item("pot", "Teapot")}
        >>> (ann,) = users_from_pandas(bought, items)
        >>> [event.title for event in ann.events]
        ['Teapot', 'Stoneware mug']
    """
    interactions: dict[str, list[Interaction]] = {}
    for record in _records(frame, EVENT_COLUMNS, required=("user_id", "item_id")):
        interaction = event_from_record(record)
        title = interaction.title
        if not title and items is not None and interaction.item_id in items:
            title = items[interaction.item_id].title
        if not title:
            raise record.error("title", f"missing, and item {shown(interaction.item_id)} is not known; give its title")
        interactions.setdefault(interaction.user_id, []).append(replace(interaction, title=title))
    return [
        User(user_id, tuple(_event(one) for one in sorted(of_user, key=lambda one: one.time_order)))
        for user_id, of_user in interactions.items()
    ]


def ranking_to_pandas(
    ranking: Sequence[tuple[str, float, int]], items: Mapping[str, Item] | None = None
) -> "DataFrame":
    """`rank`, `item_id` and `score` of ranked items, and where `items` are given the `title` of those that it has."""
    item_ids = [item_id for item_id, _, _ in ranking]
    columns: dict[str, list[Any]] = {
        "rank": [rank for _, _, rank in ranking],
        "item_id": item_ids,
        "score": [score for _, score, _ in ranking],
    }
    if items is not None:
        columns["title"] = [items[item_id].title if item_id in items else None for item_id in item_ids]
    return frame_of(columns)


def frame_of(data: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]) -> "DataFrame":
    """A table of columns, or of rows; ImportError says what to install where there is no pandas."""
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise ImportError("tables need pandas; install rcjax[notebook]") from error
    return DataFrame(data)


def _event(interaction: Interaction) -> Event:
    one = interaction
    return Event(one.item_id, one.title, one.text, one.rating, one.timestamp_s)


def _records(frame: "DataFrame", columns: Sequence[str], *, required: Sequence[str]) -> Iterator[Record]:
    """The rows, with values as a JSON file would have them."""
    named = list(frame.columns)
    if missing := [name for name in required if name not in named]:
        raise CatalogueError(f"the table has no column {', '.join(missing)}, only {', '.join(map(str, named))}")
    if unknown := [str(name) for name in named if name not in columns]:
        raise CatalogueError(
            f"the table's column {', '.join(unknown)} is none of {', '.join(columns)}; rename it, or leave it out"
        )
    values = [frame[name].tolist() for name in named]
    for label, row in zip(frame.index, zip(*values, strict=True), strict=True):
        yield Record(f"row {label}", {name: _plain(value) for name, value in zip(named, row, strict=True)})


def _plain(value: Any) -> Any:
    """A cell's value as JSON has it: None where it is missing, seconds for a time, lists for arrays."""
    from pandas import Timestamp, isna

    if isinstance(value, np.ndarray | tuple):
        return list(value)
    if not isinstance(value, list) and isna(value):
        return None
    if isinstance(value, datetime):
        return Timestamp(value).timestamp()  # without a time zone it is UTC, not local time
    return value
