"""What saving and restoring share: where pages come from, what they report, and the digest of an order."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

from rcjax.kernels.kv import KVFormat, KVPages


@runtime_checkable
class PageStore(Protocol):
    """Where the pages of a directory are."""

    @property
    def format(self) -> KVFormat: ...

    def read_pages(self, pages: Sequence[int], /) -> KVPages:
        """Copies of these pages on the host, which the caller may change."""
        ...

    def write_pages(self, pages: Sequence[int], values: KVPages, /) -> None: ...


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """What saving or restoring did, block by block; the instruction is not counted.

    `num_blocks` (and `num_bytes`, of their KV) were saved or restored. `num_skipped` were left out: inline content
    when saving, blocks that did not fit into the free pages when restoring. The others are of restoring only:
    `num_present` had a block already, which stayed, and `corrupt` names those whose bytes are not what was saved.
    """

    num_blocks: int
    num_bytes: int
    num_skipped: int
    num_present: int = 0
    corrupt: tuple[str, ...] = ()


def digest_of_order(key: bytes, kind: str, owner: str, order: Int32[np.ndarray, "S"]) -> str:
    """The SHA-256 over an order and whose it is, as hex."""
    name = f"{kind}\0{owner}\0".encode()
    return hashlib.sha256(key + name + order.astype("<i4").tobytes()).hexdigest()
