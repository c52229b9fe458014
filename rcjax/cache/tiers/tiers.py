"""The tiers of a process: what its slices evict, in host memory and behind that on disk."""

import logging
import threading
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Int32

from rcjax.cache.blocks import CachedBlock
from rcjax.cache.keys import TokenIds
from rcjax.cache.saved import digest_of_block
from rcjax.cache.tiers.kept import KeptBlock, KeptIndex
from rcjax.cache.versions import Name
from rcjax.kernels.kv import KVPages
from rcjax.prompt import Owner

if TYPE_CHECKING:
    from rcjax.cache.tiers.disk import DiskTier, StoredBlock  # imports TensorStore, which only a configured disk needs

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Arrival:
    """A block whose KV is on its way here; `is_void` once its item or user was dropped meanwhile."""

    key: bytes
    kind: str
    owner: Owner
    token_ids: Int32[np.ndarray, "S"]
    order: Int32[np.ndarray, "S"] | None
    is_void: bool = False

    @property
    def name(self) -> Name:
        return self.kind, self.owner


class KVTiers:
    """KV of evicted blocks, shared by all slices of a process; any thread may call any method.

    What leaves host memory goes to `disk`, where there is one, unless it came inline with a request. What is dropped
    is gone from every tier, on its way here or not.
    """

    def __init__(self, host_bytes: int, disk: "DiskTier | None" = None):
        self._host: KeptIndex[KeptBlock] = KeptIndex(host_bytes)
        self._disk = disk
        self._lock = threading.Lock()  # taken before the disk tier's own
        self._arrivals: dict[Name, set[Arrival]] = {}
        self._is_closed = False
        self.num_corrupt = 0

    @property
    def host_bytes_used(self) -> int:
        return self._host.num_bytes

    @property
    def disk_bytes_used(self) -> int:
        return 0 if self._disk is None else self._disk.num_bytes

    @property
    def num_expected(self) -> int:
        """Blocks whose KV is on its way here."""
        with self._lock:
            return sum(map(len, self._arrivals.values()))

    def find(self, key: bytes) -> Literal["host", "disk"] | None:
        """Where the block of that key is, if it is anywhere: a hint, as others may drop it at once."""
        if key in self._host:
            return "host"
        return "disk" if self._disk is not None and key in self._disk else None

    # ---- in

    def expect(self, block: CachedBlock) -> Arrival | None:
        """Announces a block that is about to be evicted; None where its KV is not wanted, being here already."""
        with self._lock:
            if self._is_closed or self._host.use(block.key) is not None:
                return None
            if self._disk is not None and self._disk.use(block.key):
                return None
            return self._announce(Arrival(block.key, block.kind, block.owner, block.token_ids, block.order))

    def keep(self, arrival: Arrival, pages: KVPages) -> None:
        """Takes in the KV of a block that was expected. Computes the digest of it: not for a thread in a hurry."""
        digest = digest_of_block(arrival.key, pages)
        kept = KeptBlock(arrival.key, arrival.kind, arrival.owner, arrival.token_ids, arrival.order, pages, digest)
        self._admit(arrival, kept)

    def give_up(self, arrivals: Iterable[Arrival]) -> None:
        """Says that the KV of these blocks will not come."""
        with self._lock:
            for arrival in arrivals:
                self._forget(arrival)

    # ---- out

    def read(self, key: bytes, token_ids: TokenIds) -> KeptBlock | None:
        """The block of that key and those tokens, its KV checked; None where there is none. Waits for the disk."""
        with self._lock:
            kept = self._host.use(key)
        if kept is None:
            return self._read_disk(key, token_ids)
        return kept if self._is_good(kept, token_ids) else None

    def _read_disk(self, key: bytes, token_ids: TokenIds) -> KeptBlock | None:
        """As `read`; what is there comes back into host memory."""
        with self._lock:
            found = self._disk.find(key) if self._disk is not None and not self._is_closed else None
            if found is None:
                return None
            arrival = self._announce(Arrival(key, found.kind, found.owner, found.token_ids, found.order))
        assert self._disk is not None
        kept = self._disk.read(found)
        if kept is None and self._disk.find(key) is found:  # its file was not just deleted: it is damaged
            self._note_corrupt(found)
        if kept is None or not self._is_good(kept, token_ids):
            self.give_up([arrival])
            return None
        self._admit(arrival, kept)
        return kept

    # ---- gone

    def drop(self, names: Iterable[Name]) -> Future[None]:
        """Forgets these items and users: they are not found any more; the result is there once no file is left."""
        with self._lock:
            for name in names:
                for arrival in self._arrivals.pop(name, ()):
                    arrival.is_void = True
                self._host.remove_name(name)
                if self._disk is not None:
                    self._disk.remove_name(name)
            if self._disk is not None:
                return self._disk.settled()
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def discard(self, key: bytes) -> None:
        """Forgets a block whose KV is not to be trusted."""
        with self._lock:
            self._host.remove(key)
            if self._disk is not None:
                self._disk.remove(key)

    def close(self) -> None:
        """Keeps nothing any more, and deletes what is on the disk; blocks until that is done."""
        with self._lock:
            self._is_closed = True
            self._host = KeptIndex(0)
        if self._disk is not None:
            self._disk.close()

    def _announce(self, arrival: Arrival) -> Arrival:
        self._arrivals.setdefault(arrival.name, set()).add(arrival)
        return arrival

    def _forget(self, arrival: Arrival) -> None:
        arrivals = self._arrivals.get(arrival.name)
        if arrivals is not None:
            arrivals.discard(arrival)
            if not arrivals:
                del self._arrivals[arrival.name]

    def _admit(self, arrival: Arrival, kept: KeptBlock) -> None:
        with self._lock:
            self._forget(arrival)
            if arrival.is_void or self._is_closed:
                return
            for gone in self._host.add(kept):
                # Those of the same name make room for newer content, and are not worth a place on the disk.
                if self._disk is not None and gone.name != kept.name and not gone.owner.is_inline:
                    self._disk.put(gone)

    def _is_good(self, kept: KeptBlock, token_ids: TokenIds) -> bool:
        if not np.array_equal(kept.token_ids, token_ids):
            return False  # two contents of one key: the other stays
        if kept.is_intact:
            return True
        self._note_corrupt(kept)
        return False

    def _note_corrupt(self, kept: "KeptBlock | StoredBlock") -> None:
        self.num_corrupt += 1
        logger.warning("the KV of %s %s was damaged in a tier; it is computed anew", kept.kind, kept.owner)
        self.discard(kept.key)
