"""The orders in which blocks' tokens are worth correcting, kept whether the block is cached or not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from rcjax.cache.blocks import READY, CachedBlock
from rcjax.cache.keys import TokenIds, as_token_ids
from rcjax.cache.packing import pack_ids, unpack_ids
from rcjax.cache.versions import Name
from rcjax.prompt import Owner


def as_order(order: TokenIds, num_tokens: int) -> Int32[np.ndarray, "S"]:
    """The order as a read-only array; ValueError unless it names each offset of the block once."""
    offsets = as_token_ids(order)
    if not np.array_equal(np.sort(offsets), np.arange(num_tokens)):
        raise ValueError(f"the order of a block of {num_tokens} tokens must name each offset once: {order}")
    return offsets


@dataclass(frozen=True, slots=True, eq=False)
class NamedOrder:
    """An order and whose it is."""

    kind: str
    owner: Owner
    order: Int32[np.ndarray, "S"]


class BlockOrders(Mapping[bytes, NamedOrder]):
    """Orders by the key of their content: at most one for each item or user, that of the content it had last."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, tuple[Name, bytes]] = {}  # whose it is, and packed
        self._keys: dict[Name, bytes] = {}

    def __getitem__(self, key: bytes) -> NamedOrder:
        name, packed = self._by_key[key]
        return NamedOrder(*name, unpack_ids(packed))

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._by_key)

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def find(self, key: bytes) -> Int32[np.ndarray, "S"] | None:
        stored = self._by_key.get(key)
        return None if stored is None else unpack_ids(stored[1])

    def put(self, key: bytes, name: Name, order: Int32[np.ndarray, "S"]) -> None:
        self.drop(name)
        self._by_key[key] = (name, pack_ids(order))
        self._keys[name] = key

    def give(self, block: CachedBlock, order: TokenIds) -> None:
        """Gives a block its order, and stores it if the block is ready; ValueError unless it is one."""
        block.fill()
        block.order = as_order(order, block.num_tokens)
        block.brings_order = block.state is not READY
        if not block.brings_order:
            self.put(block.key, (block.kind, block.owner), block.order)

    def offer(self, key: bytes, name: Name, order: TokenIds, current: CachedBlock | None) -> bool:
        """Stores an order, and gives it to the ready block of that name, if there is one: `current`.

        False, and nothing stored, where that block has another key, or the name an order already.
        """
        offsets = as_order(order, len(order))
        if name in self._keys or (current is not None and current.key != key):
            return False
        if current is not None and len(offsets) != current.num_tokens:
            raise ValueError(f"an order of {len(offsets)} tokens is of no use to a block of {current.num_tokens}")
        self.put(key, name, offsets)
        if current is not None:
            current.order = offsets
        return True

    def settle(self, block: CachedBlock) -> None:
        """Stores the order that a block brings as it becomes ready, or gives it the one that is stored for its content.

        That of other content of its name is forgotten; one that was found at `reserve` and is stored no more stays so.
        """
        key, name = block.key, (block.kind, block.owner)
        if block.brings_order and block.order is not None:
            self.put(key, name, block.order)
            return
        if self._keys.get(name, key) != key:
            self.drop(name)
        block.order = self.find(key)

    def drop(self, name: Name) -> None:
        key = self._keys.pop(name, None)
        if key is not None:
            del self._by_key[key]
