"""What the directory keeps of its ready blocks: a slot in each of a few columns, no Python object per field."""

from array import array
from collections import Counter

import numpy as np
from jaxtyping import Int32

from rcjax.cache.errors import IntegrityError
from rcjax.cache.keys import KEY_BYTES, TokenIds
from rcjax.cache.packing import holds_ids, pack_ids, unpack_ids
from rcjax.prompt import NOBODY, Owner

_PAGES_PER_BUCKET = 4  # a bucket of the hash tables for so many pages: one for a block, if blocks are as long as that


class BlockColumns:
    """Ready blocks by slot, found by key and by (kind, owner).

    Both ways of finding are hash tables of our own: buckets lead to the first slot with that hash, a column to the next
    one. A million blocks of 100 tokens take 456 bytes each with the eviction's columns and the pages' links, of which
    the tokens and the key are 272 and the owner's name some 64. As Python objects in two dicts they took 1,215.
    """

    def __init__(self, capacity_pages: int) -> None:
        num_buckets = 1 << (capacity_pages // _PAGES_PER_BUCKET).bit_length()
        self._mask = num_buckets - 1
        self._key_buckets = array("i", bytes(4)) * num_buckets  # slots plus one; 0 is the end of a chain
        self._name_buckets = array("i", bytes(4)) * num_buckets
        # By slot.
        self._ids: list[str] = []  # of owners, which would take 80 bytes each as tuples
        self._tenant_numbers = array("H")
        self.kind_numbers = array("B")
        self.first_page = array("i")
        self.num_tokens = array("i")  # 0 where the slot is free
        self.cost = array("d")
        self._records: list[bytes] = []  # the key, then the packed tokens
        self._after_key = array("i")  # the next slot with the same hash, plus one
        self._after_name = array("i")

        self._free: list[int] = []
        self._inline: dict[int, str] = {}  # of the owners that are inline, by slot
        self._tenants: list[str] = []  # by tenant number
        self._number_of_tenant: dict[str, int] = {}
        self.kinds: list[str] = []  # by kind number
        self._number_of_kind: dict[str, int] = {}
        self.num_blocks_by_kind: Counter[str] = Counter()
        self.num_tokens_in_all = 0

    @property
    def num_slots(self) -> int:
        """Slots that there are, free ones included."""
        return len(self._records)

    def find(self, key: bytes) -> int:
        """The slot of the block with that key, or `NO_SLOT`."""
        records = self._records
        slot = self._key_buckets[hash(key) & self._mask] - 1
        while slot >= 0 and records[slot][:KEY_BYTES] != key:
            slot = self._after_key[slot] - 1
        return slot

    def find_name(self, kind: str, owner: Owner) -> int:
        """The slot of the block of that item or user, or `NO_SLOT`."""
        slot = self._name_buckets[hash((kind, owner)) & self._mask] - 1
        while slot >= 0 and not (self._ids[slot] == owner.id and self.owner(slot) == owner and self.kind(slot) == kind):
            slot = self._after_name[slot] - 1
        return slot

    def is_used(self, slot: int) -> bool:
        return 0 <= slot < len(self._records) and self.num_tokens[slot] > 0

    def key(self, slot: int) -> bytes:
        return self._records[slot][:KEY_BYTES]

    def kind(self, slot: int) -> str:
        return self.kinds[self.kind_numbers[slot]]

    def owner(self, slot: int) -> Owner:
        return Owner(self._tenants[self._tenant_numbers[slot]], self._ids[slot], self._inline.get(slot, ""))

    def token_ids(self, slot: int) -> Int32[np.ndarray, "S"]:
        return unpack_ids(self._records[slot], KEY_BYTES)

    def holds(self, slot: int, token_ids: TokenIds) -> bool:
        return holds_ids(self._records[slot], KEY_BYTES, token_ids)

    def add(
        self, key: bytes, kind: str, owner: Owner, token_ids: Int32[np.ndarray, "S"], first_page: int, cost: float
    ) -> int:
        """Puts a block, whose key and name are not there yet, into a free slot and returns it."""
        slot = self._free.pop() if self._free else self._new_slot()
        self._records[slot] = key + pack_ids(token_ids)
        self._set_owner(slot, owner)
        self.kind_numbers[slot] = _number(kind, self.kinds, self._number_of_kind)
        self.first_page[slot] = first_page
        self.num_tokens[slot] = len(token_ids)
        self.cost[slot] = cost
        bucket = hash(key) & self._mask
        self._after_key[slot] = self._key_buckets[bucket]
        self._key_buckets[bucket] = slot + 1
        bucket = hash((kind, owner)) & self._mask
        self._after_name[slot] = self._name_buckets[bucket]
        self._name_buckets[bucket] = slot + 1
        self.num_blocks_by_kind[kind] += 1
        self.num_tokens_in_all += len(token_ids)
        return slot

    def remove(self, slot: int) -> None:
        kind, owner = self.kind(slot), self.owner(slot)
        _unchain(self._key_buckets, hash(self.key(slot)) & self._mask, self._after_key, slot)
        _unchain(self._name_buckets, hash((kind, owner)) & self._mask, self._after_name, slot)
        self.num_blocks_by_kind[kind] -= 1
        self.num_tokens_in_all -= self.num_tokens[slot]
        self._records[slot] = b""
        self._set_owner(slot, NOBODY)
        self.num_tokens[slot] = 0
        self._free.append(slot)

    def count_pages_by_kind(self, page_tokens: int) -> dict[str, int]:
        """Pages of all blocks, counted anew from their tokens; vectorised."""
        num_pages = -(-np.frombuffer(self.num_tokens, np.int32) // page_tokens)
        numbers = np.frombuffer(self.kind_numbers, np.uint8)
        return {kind: int((num_pages * (numbers == i)).sum(dtype=np.int64)) for i, kind in enumerate(self.kinds)}

    def check_slot(self, slot: int) -> None:
        """Raises `IntegrityError` where a used slot cannot be found, or does not hold what its columns say."""
        if self.find(self.key(slot)) != slot:
            raise IntegrityError(f"the key of {slot=} leads to slot {self.find(self.key(slot))}")
        kind, owner = self.kind(slot), self.owner(slot)
        if self.find_name(kind, owner) != slot:
            raise IntegrityError(f"{kind} of {owner} in {slot=} leads to slot {self.find_name(kind, owner)}")
        if len(self.token_ids(slot)) != self.num_tokens[slot]:
            raise IntegrityError(f"{slot=} holds {len(self.token_ids(slot))} tokens, not {self.num_tokens[slot]}")

    def check_counts(self) -> None:
        """Raises `IntegrityError` where the columns do not add up to the counts; vectorised."""
        num_tokens = np.frombuffer(self.num_tokens, np.int32)
        if int(num_tokens.sum(dtype=np.int64)) != self.num_tokens_in_all:
            raise IntegrityError(f"tokens are miscounted: {self.num_tokens_in_all}")
        numbers, is_used = np.frombuffer(self.kind_numbers, np.uint8), num_tokens > 0
        counts = {kind: int(np.count_nonzero((numbers == i) & is_used)) for i, kind in enumerate(self.kinds)}
        if counts != {kind: self.num_blocks_by_kind[kind] for kind in self.kinds}:
            raise IntegrityError(f"blocks are miscounted: {self.num_blocks_by_kind}")
        num_blocks = sum(counts.values())
        if len(self._free) != self.num_slots - num_blocks:
            raise IntegrityError(f"{len(self._free)} slots are free of {self.num_slots} that hold {num_blocks} blocks")

    def _new_slot(self) -> int:
        self._records.append(b"")
        self._ids.append("")
        self._tenant_numbers.append(0)
        self.kind_numbers.append(0)
        self.cost.append(0.0)
        for column in (self.first_page, self.num_tokens, self._after_key, self._after_name):
            column.append(0)
        return len(self._records) - 1

    def _set_owner(self, slot: int, owner: Owner) -> None:
        self._ids[slot] = owner.id
        self._tenant_numbers[slot] = _number(owner.tenant, self._tenants, self._number_of_tenant)
        if owner.inline:
            self._inline[slot] = owner.inline
        else:
            self._inline.pop(slot, None)


def _number(text: str, texts: list[str], number_of: dict[str, int]) -> int:
    """The place of a text among those that recur, where it is put if it is new."""
    number = number_of.get(text)
    if number is None:
        number = number_of[text] = len(texts)
        texts.append(text)
    return number


def _unchain(buckets: "array[int]", bucket: int, after: "array[int]", slot: int) -> None:
    """Takes a slot out of the chain of its bucket."""
    at = buckets[bucket] - 1
    if at == slot:
        buckets[bucket] = after[slot]
        return
    while at >= 0:
        following = after[at] - 1
        if following == slot:
            after[at] = after[slot]
            return
        at = following
    raise IntegrityError(f"{slot=} is not in the chain of its hash")
