"""Residency: which slices hold which blocks, as their workers last said. No JAX."""

import threading
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from rcjax.cache.keys import KEY_BYTES

_BUCKET = 8  # tags of a bucket, a cache line
_HALF = 32  # bits of a tag; the lower half leads to one bucket of a key, the upper half to the other
_HALVES = np.dtype("<u4")  # of a tag, the lower one first
_FREE = 0


class Residency:
    """A hint of where blocks are: a slice's own lookup decides, so what is wrong here costs time and no more.

    Workers say what they commit and evict; any thread may call any method. A message that repeats what is known changes
    nothing. Keys must be hashes, of which 64 bits are kept: two keys that share these are taken for one.
    """

    # A hash table in NumPy, as a request asks for a hundred keys at once: among a million keys a dict waits for memory
    # a hundred times in turn (90 us), a gather for all of them together (10 us). A key's tag is in either of two
    # buckets, in the emptier one when it came; where both are full the table doubles. Nothing is ever moved, so a free
    # place needs no mark of what was there.

    def __init__(self, num_slices: int):
        if num_slices < 1:
            raise ValueError(f"{num_slices=} must be at least 1")
        self.num_slices = num_slices
        self._row_bytes = -(-num_slices // 8)
        self._tags = np.full((1, _BUCKET), _FREE, np.uint64)  # by bucket
        self._rows = np.zeros((_BUCKET, self._row_bytes), np.uint8)  # by place: a bit for each slice
        self._num_keys = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """The keys that some slice holds."""
        return self._num_keys

    def commit(self, index: int, key: bytes) -> None:
        """The slice `index` holds `key` from now on."""
        byte, bit = self._place_of(index)
        tag = _tag(key)
        with self._lock:
            place = self._find(tag)
            if place is None:
                place = self._add(tag)
            self._rows[place, byte] |= bit

    def evict(self, index: int, key: bytes) -> None:
        """The slice `index` no longer holds `key`."""
        byte, bit = self._place_of(index)
        with self._lock:
            place = self._find(_tag(key))
            if place is None:
                return
            row = self._rows[place]
            row[byte] &= 0xFF ^ bit
            if not row.any():
                self._tags.ravel()[place] = _FREE
                self._num_keys -= 1

    def forget(self, index: int) -> None:
        """The slice `index` holds nothing any more: it is lost, or starts anew. Looks at every key there is."""
        byte, bit = self._place_of(index)
        with self._lock:
            self._rows[:, byte] &= 0xFF ^ bit
            self._tags.ravel()[~self._rows.any(axis=1)] = _FREE
            self._num_keys = int(np.count_nonzero(self._tags))

    def holders(self, keys: Sequence[bytes]) -> UInt8[np.ndarray, "blocks slices"]:
        """1 where the slice of the column holds the key of the row, 0 elsewhere."""
        heads = np.frombuffer(b"".join(keys), "<u8").reshape(len(keys), KEY_BYTES // 8)[:, 0]
        tags = np.maximum(heads, 1)
        rows = np.zeros((len(keys), self._row_bytes), np.uint8)
        with self._lock:
            buckets = tags.view(_HALVES) & len(self._tags) - 1  # two of each key
            there = self._tags.take(buckets, axis=0).reshape(len(keys), 2 * _BUCKET)
            found = (there == tags[:, None]).ravel().nonzero()[0]
            places = buckets[found // _BUCKET] * _BUCKET + found % _BUCKET
            rows[found // (2 * _BUCKET)] = self._rows.take(places, axis=0)
        return np.unpackbits(rows, axis=1, count=self.num_slices, bitorder="little")

    def _place_of(self, index: int) -> tuple[int, int]:
        """The byte of a row, and the bit of that byte, which are the slice's."""
        if not 0 <= index < self.num_slices:
            raise ValueError(f"slice {index} of a mesh of {self.num_slices}: slices are numbered from 0")
        return index // 8, 1 << index % 8

    def _buckets(self, tag: int) -> tuple[int, int]:
        mask = len(self._tags) - 1
        return tag & mask, tag >> _HALF & mask

    def _find(self, tag: int) -> int | None:
        """Its place: a bucket's number times the places of a bucket, and the place in the bucket."""
        for bucket in self._buckets(tag):
            tags = self._tags[bucket].tolist()
            if tag in tags:
                return bucket * _BUCKET + tags.index(tag)
        return None

    def _add(self, tag: int) -> int:
        while True:
            free, bucket = max((self._tags[bucket].tolist().count(_FREE), bucket) for bucket in self._buckets(tag))
            if free:
                break
            self._double()
        at = self._tags[bucket].tolist().index(_FREE)
        self._tags[bucket, at] = tag
        self._rows[bucket * _BUCKET + at] = 0
        self._num_keys += 1
        return bucket * _BUCKET + at

    def _double(self) -> None:
        """Each bucket becomes two, and each tag stays where it is in one of them: one bit more of its half decides."""
        tags, num_buckets = self._tags, len(self._tags)
        new_bit, half = np.uint64(num_buckets), np.uint64(_HALF)
        is_first = tags & np.uint64(num_buckets - 1) == np.arange(num_buckets, dtype=np.uint64)[:, None]
        is_upper = np.where(is_first, tags, tags >> half) & new_bit != 0
        self._tags = np.concatenate([np.where(is_upper, _FREE, tags), np.where(is_upper, tags, _FREE)], dtype=np.uint64)
        self._rows = np.concatenate([self._rows, self._rows])


def _tag(key: bytes) -> int:
    return int.from_bytes(key[:8], "little") or 1  # 0 is free
