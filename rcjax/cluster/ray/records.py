"""The library on its way between processes: items and users with the version of the write that made them so."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rcjax.catalog.types import Event, Item
from rcjax.engine.library import Library
from rcjax.engine.plan import Change, Stored
from rcjax.prompt import BlockKind, Owner

CHUNK_RECORDS = 2_000  # of a dump that are sent together: a megabyte or two


@dataclass(frozen=True, slots=True)
class Record:
    """An item, or a user's events, since the write of `version`; `content` is None where that write deleted them."""

    kind: BlockKind
    owner: Owner
    version: int
    content: Item | tuple[Event, ...] | None
    event_lens: tuple[int, ...] = ()

    @property
    def name(self) -> tuple[BlockKind, Owner]:
        return self.kind, self.owner


def record_of(change: Change, version: int) -> Record:
    stored = change.stored
    if stored is None:
        return Record(change.kind, change.owner, version, None)
    return Record(change.kind, change.owner, version, stored.content, stored.event_lens)


def replay(library: Library, records: Iterable[Record]) -> None:
    """Makes records known that come from another process; what is newer here stays."""
    for record in records:
        stored: Stored[Any] | None = None
        if record.content is not None:
            stored = Stored(record.content, record.version, None, record.event_lens)
        library.replay([Change(record.kind, record.owner, stored)], record.version)


def dump(library: Library) -> Iterator[list[Record]]:
    """All that a library has, in chunks; what changes meanwhile may be in it as it was or as it is."""
    owners = [(BlockKind.ITEM, owner) for owner in library.item_owners]
    owners += [(BlockKind.HISTORY, owner) for owner in library.user_owners]
    left = iter(owners)
    while names := list(islice(left, CHUNK_RECORDS)):
        yield list(_found(library, names))


def _found(library: Library, names: Sequence[tuple[BlockKind, Owner]]) -> Iterator[Record]:
    for kind, owner in names:
        stored: Stored[Any] | None = (library.item if kind is BlockKind.ITEM else library.user)(owner.tenant, owner.id)
        if stored is not None:
            yield Record(kind, owner, stored.version, stored.content, stored.event_lens)


def retain(library: Library, names: set[tuple[BlockKind, Owner]], version: int) -> list[tuple[BlockKind, Owner]]:
    """Forgets what a whole dump, begun when `version` was the newest, does not have; returns what that was."""
    known = [(BlockKind.ITEM, owner) for owner in library.item_owners]
    known += [(BlockKind.HISTORY, owner) for owner in library.user_owners]
    gone = [name for name in known if name not in names]
    return [name for name in gone if library.replay([Change(*name, None)], version)]
