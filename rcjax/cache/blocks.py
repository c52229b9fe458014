"""The cached block, and what a pool says of itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Int32

SCRATCH = "scratch"  # the kind of blocks that hold pages for a while and cannot be found


class BlockState(StrEnum):
    PENDING = "pending"  # its KV is being computed; only its reserver knows it
    READY = "ready"  # can be found, and evicted when not pinned
    RETIRED = "retired"  # cannot be found any more; holds its pages until its last reader leaves


@dataclass(eq=False, slots=True)
class CachedBlock:
    """A run of tokens and the pages that hold their KV, in order, the last page perhaps partly filled.

    A handle: compared by identity, and changed by its `BlockDirectory` only. `cost` is what it takes to
    compute the block again, in a unit of the caller's choice. `pages` is empty once they were given back.
    `order`, where it was worked out, has the offsets of all its tokens, those most worth correcting first.
    """

    key: bytes
    kind: str
    owner: str
    token_ids: Int32[np.ndarray, "S"]  # read-only
    pages: tuple[int, ...]
    cost: float
    pins: int = 1
    state: BlockState = BlockState.PENDING
    superseded: bool = False  # will never be ready: scratch, or dropped or overtaken while pending
    order: Int32[np.ndarray, "S"] | None = None  # read-only

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Gauges of now and counters since the start.

    `num_blocks` (by kind) and `num_tokens` count what can be found; `pages_used` and `pages_pinned` also
    count pending, retired and scratch blocks, which are always pinned. `num_misses` includes collisions.
    """

    num_blocks: Mapping[str, int]
    num_tokens: int
    pages_total: int
    pages_used: int
    pages_pinned: int
    num_hits: int
    num_misses: int
    num_evictions: int
    num_collisions: int
