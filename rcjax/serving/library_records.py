"""The library in a snapshot: items and users as records, in the catalogue's own layout and with their tenant."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from rcjax.cache.snapshot import Content, Restoring
from rcjax.catalog.schema import record_of
from rcjax.catalog.types import Event, Item
from rcjax.engine.library import Library, StoredItem, StoredUser
from rcjax.engine.plan import Stored
from rcjax.prompt import BlockKind, Owner

Record = Mapping[str, Any]


def library_content(library: Library) -> Content:
    """What a snapshot holds of a library, as it is when it is asked for."""
    return Content(
        items=lambda: {one.full_id: partial(_item_record, one, stored) for one, stored in library.items().items()},
        users=lambda: {one.full_id: partial(_user_record, one, stored) for one, stored in library.users().items()},
        is_known=partial(is_known, library),
    )


def is_known(library: Library, kind: str, owner: Owner) -> bool:
    """Whether the library has the item or user."""
    return (library.item if kind == BlockKind.ITEM else library.user)(owner.tenant, owner.id) is not None


def add_records(library: Library, restoring: Restoring, version: int) -> tuple[int, int]:
    """Makes the items and users of a snapshot known that are not; returns how many of each.

    `version` is that of a read that lives. Raises `InvalidRequestError`, with nothing added, where some are damaged.
    """
    items = [record for some in restoring.records("items") for record in some]
    users = [record for some in restoring.records("users") for record in some]
    num_items = library.add_missing(BlockKind.ITEM, (_stored_item(record, version) for record in items))
    num_users = library.add_missing(BlockKind.HISTORY, (_stored_user(record, version) for record in users))
    return num_items, num_users


def _item_record(owner: Owner, stored: StoredItem) -> Record:
    return {"tenant": owner.tenant, "item": record_of(stored.content)}


def _user_record(owner: Owner, stored: StoredUser) -> Record:
    events = [record_of(event) for event in stored.content]
    return {"tenant": owner.tenant, "user_id": owner.id, "events": events, "event_lens": stored.event_lens}


def _stored_item(record: Record, version: int) -> tuple[Owner, Stored[Any]]:
    item = Item(**{**record["item"], "categories": tuple(record["item"]["categories"])})
    return Owner(record["tenant"], item.item_id), Stored(item, version, None)


def _stored_user(record: Record, version: int) -> tuple[Owner, Stored[Any]]:
    events = tuple(Event(**event) for event in record["events"])
    stored = Stored(events, version, None, tuple(record["event_lens"]))
    return Owner(record["tenant"], record["user_id"]), stored
