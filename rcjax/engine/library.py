"""The library: the items and users that are known, and the tokens of those that were used last."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, TypeAlias

from rcjax.catalog.types import Event, Item
from rcjax.engine.plan import Change, PlannedBlock, Stored, WritePlan
from rcjax.engine.versions import Versions
from rcjax.prompt import BlockKind, Owner

BLOCK_BYTES = 500  # what a block takes besides its tokens: objects, key, place in the order of use

StoredItem: TypeAlias = Stored[Item]
StoredUser: TypeAlias = Stored[tuple[Event, ...]]


class Library:
    """Items and users of each tenant by id. Any thread may read and swap.

    A reader finds what an id stands for before a swap or after it, never a mix. Tokens are kept within
    `max_cache_bytes`, those used last; they go with their item or user, and with it nothing of its text stays.
    """

    def __init__(self, max_cache_bytes: int) -> None:
        self.versions = Versions()
        self._items: dict[str, dict[str, StoredItem]] = {}  # by tenant
        self._users: dict[str, dict[str, StoredUser]] = {}
        self._max_cache_bytes = max_cache_bytes
        self._lock = threading.Lock()  # of all below, and for changes of the two above
        self._cache_bytes = 0
        self._used: OrderedDict[Stored[Any], int] = OrderedDict()  # those with tokens, and their bytes; last used last
        self._deleted: OrderedDict[tuple[BlockKind, Owner], int] = OrderedDict()  # versions, while older plans live

    @property
    def num_items(self) -> int:
        return sum(map(len, list(self._items.values())))

    @property
    def num_users(self) -> int:
        return sum(map(len, list(self._users.values())))

    @property
    def item_owners(self) -> list[Owner]:
        return _owners(self._items)

    @property
    def user_owners(self) -> list[Owner]:
        return _owners(self._users)

    @property
    def cache_bytes(self) -> int:
        """What the tokens take that are kept."""
        return self._cache_bytes

    def item(self, tenant: str, item_id: str) -> StoredItem | None:
        table = self._items.get(tenant)
        return None if table is None else table.get(item_id)

    def user(self, tenant: str, user_id: str) -> StoredUser | None:
        table = self._users.get(tenant)
        return None if table is None else table.get(user_id)

    def items(self) -> dict[Owner, StoredItem]:
        """All items, as they are now."""
        return _flat(self._items)

    def users(self) -> dict[Owner, StoredUser]:
        """All users, as they are now."""
        return _flat(self._users)

    def add_missing(self, kind: BlockKind, stored: Iterable[tuple[Owner, Stored[Any]]]) -> int:
        """Adds items or users that are not known; returns how many.

        Their version is that of a read that lives: what was deleted since it began stays so.
        """
        num_added = 0
        for owner, one in stored:
            with self._lock:
                table = self._table(kind, owner.tenant)
                if owner.id not in table and self._deleted.get((kind, owner), 0) <= one.version:
                    table[owner.id] = one
                    num_added += 1
        return num_added

    def note_used(self, stored: Iterable[Stored[Any]]) -> None:
        """Keeps the tokens of these longest."""
        with self._lock:
            for one in stored:
                if one in self._used:
                    self._used.move_to_end(one)

    def remember(self, stored: Stored[Any], block: PlannedBlock) -> None:
        """Keeps the tokens of an item or user, if this is still what the library has."""
        with self._lock:
            owner = block.block.owner
            if self._table(block.block.kind, owner.tenant).get(owner.id) is stored:
                self._keep(stored, block)

    def swap(self, plan: WritePlan) -> int:
        """Makes a write take effect, the point from which plans see it; returns how many it deleted.

        The last version of each owner wins: an owner that a newer write has changed stays as it is.
        """
        return self.replay(plan.commit, plan.version)

    def replay(self, changes: Iterable[Change], version: int) -> int:
        """Makes the changes of a write take effect that was planned over another library, in whatever order they come.

        Returns how many were deleted, and leaves as they are owners that a newer write has changed.
        """
        with self._lock:
            num_deleted = sum(self._apply(change, version) for change in changes)
            oldest = self.versions.oldest
            while self._deleted and next(iter(self._deleted.values())) <= oldest:
                self._deleted.popitem(last=False)
            return num_deleted

    def _apply(self, change: Change, version: int) -> bool:
        """Whether the change deleted something."""
        table = self._table(change.kind, change.owner.tenant)
        name = (change.kind, change.owner)
        former = table.get(change.owner.id)
        if version < max(former.version if former else 0, self._deleted.get(name, 0)):
            return False
        if former is not None:
            self._forget(former)
        if change.stored is None:
            self._deleted[name] = version
            self._deleted.move_to_end(name)
            table.pop(change.owner.id, None)
            return former is not None
        self._deleted.pop(name, None)
        table[change.owner.id] = change.stored
        if change.stored.block is not None:
            self._keep(change.stored, change.stored.block)
        return False

    def _table(self, kind: BlockKind, tenant: str) -> dict[str, Stored[Any]]:
        tables: dict[str, dict[str, Stored[Any]]] = self._items if kind is BlockKind.ITEM else self._users
        return tables.setdefault(tenant, {})

    def _keep(self, stored: Stored[Any], block: PlannedBlock) -> None:
        stored.block = block
        num_bytes = BLOCK_BYTES + block.block.token_ids.nbytes
        self._cache_bytes += num_bytes - self._used.pop(stored, 0)
        self._used[stored] = num_bytes
        while self._cache_bytes > self._max_cache_bytes:
            self._forget(next(iter(self._used)))

    def _forget(self, stored: Stored[Any]) -> None:
        stored.block = None
        self._cache_bytes -= self._used.pop(stored, 0)


def _owners(tables: dict[str, dict[str, Stored[Any]]]) -> list[Owner]:
    return [Owner(tenant, one) for tenant, table in list(tables.items()) for one in list(table)]


def _flat(tables: dict[str, dict[str, Stored[Any]]]) -> dict[Owner, Stored[Any]]:
    return {
        Owner(tenant, one): stored for tenant, table in list(tables.items()) for one, stored in table.copy().items()
    }
