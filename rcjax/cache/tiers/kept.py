"""What a tier holds: blocks with their KV, found by key and by name, within a number of bytes."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Int32

from rcjax.cache.saved import digest_of_block
from rcjax.cache.versions import Name
from rcjax.kernels.kv import KVPages
from rcjax.prompt import Owner


@dataclass(frozen=True, eq=False)
class KeptBlock:
    """A block that a pool evicted, on the host. Nobody changes its arrays."""

    key: bytes
    kind: str
    owner: Owner
    token_ids: Int32[np.ndarray, "S"]
    order: Int32[np.ndarray, "S"] | None  # of correction, as in `CachedBlock`
    pages: KVPages
    digest: str  # of the KV as it came from the device

    @property
    def name(self) -> Name:
        return self.kind, self.owner

    @cached_property
    def num_bytes(self) -> int:
        return self.pages.num_bytes + self.token_ids.nbytes

    @property
    def is_intact(self) -> bool:
        """Whether the KV is, byte for byte, what came from the device; reads all of it."""
        return digest_of_block(self.key, self.pages) == self.digest


@runtime_checkable
class Entry(Protocol):
    """Something that takes bytes and is found by key and name."""

    @property
    def key(self) -> bytes: ...

    @property
    def name(self) -> Name: ...

    @property
    def num_bytes(self) -> int: ...


EntryT = TypeVar("EntryT", bound=Entry)


class KeptIndex(Generic[EntryT]):
    """Entries in order of use, at most one of a name. Its user locks."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._by_key: OrderedDict[bytes, EntryT] = OrderedDict()  # used last at the end
        self._key_of: dict[Name, bytes] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: bytes) -> bool:
        return key in self._by_key

    def peek(self, key: bytes) -> EntryT | None:
        """The entry of that key, which does not count as a use."""
        return self._by_key.get(key)

    def use(self, key: bytes) -> EntryT | None:
        """The entry of that key, as just used."""
        entry = self._by_key.get(key)
        if entry is not None:
            self._by_key.move_to_end(key)
        return entry

    def add(self, entry: EntryT) -> list[EntryT]:
        """Takes in an entry; returns those that had to go: the one of its name, then those used longest ago.

        An entry that is larger than all room goes itself.
        """
        gone = self.remove_name(entry.name)
        if (same := self.remove(entry.key)) is not None:
            gone.append(same)
        self._by_key[entry.key] = entry
        self._key_of[entry.name] = entry.key
        self.num_bytes += entry.num_bytes
        while self.num_bytes > self.max_bytes:
            oldest = self.remove(next(iter(self._by_key)))
            assert oldest is not None
            gone.append(oldest)
        return gone

    def remove(self, key: bytes) -> EntryT | None:
        entry = self._by_key.pop(key, None)
        if entry is not None:
            self.num_bytes -= entry.num_bytes
            if self._key_of.get(entry.name) == key:
                del self._key_of[entry.name]
        return entry

    def remove_name(self, name: Name) -> list[EntryT]:
        key = self._key_of.get(name)
        entry = None if key is None else self.remove(key)
        return [] if entry is None else [entry]
