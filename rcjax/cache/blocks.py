"""The cached block, and what a pool says of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int32

SCRATCH = "scratch"  # the kind of blocks that hold pages for a while and cannot be found
NO_SLOT = -1


class BlockState(StrEnum):
    PENDING = "pending"  # its KV is being computed; only its reserver knows it
    READY = "ready"  # can be found, and evicted when not pinned
    RETIRED = "retired"  # cannot be found any more; holds its pages until its last reader leaves


class CachedBlock:
    """A run of tokens and the pages that hold their KV, in order, the last page perhaps partly filled.

    A handle: compared by identity, and changed by its `BlockDirectory` only. It exists while somebody holds it; what
    the directory keeps of an idle block is much smaller, and a handle made of that looks most of it up when asked.
    """

    __slots__ = (
        "__weakref__",
        "_fill",
        "cost",
        "key",
        "kind",
        "order",
        "owner",
        "pages",
        "pins",
        "slot",
        "state",
        "superseded",
        "token_ids",
        "verified_ids",
        "version",
    )

    _fill: "Callable[[CachedBlock], None]"
    key: bytes
    kind: str
    owner: str
    token_ids: Int32[np.ndarray, "S"]  # read-only
    pages: tuple[int, ...]  # empty once they were given back
    cost: float  # seconds that it takes to compute it again
    version: int  # of the plan or write that it was reserved for
    pins: int
    state: BlockState
    superseded: bool  # will never be ready: scratch, or dropped or overtaken while pending
    order: Int32[np.ndarray, "S"] | None  # offsets of all its tokens, those most worth correcting first, if worked out
    slot: int  # where the directory keeps it while it is ready
    verified_ids: Int32[np.ndarray, "S"] | None  # a caller's array that was found equal to `token_ids`; read-only

    def __init__(
        self,
        key: bytes,
        kind: str,
        owner: str,
        token_ids: Int32[np.ndarray, "S"],
        pages: tuple[int, ...],
        cost: float,
        version: int = 0,
    ):
        self.key = key
        self.kind = kind
        self.owner = owner
        self.token_ids = token_ids
        self.pages = pages
        self.cost = cost
        self.version = version
        self.pins = 1
        self.state = BlockState.PENDING
        self.superseded = False
        self.order = None
        self.slot = NO_SLOT
        self.verified_ids = None

    @classmethod
    def ready(cls, slot: int, fill: "Callable[[CachedBlock], None]") -> "CachedBlock":
        """A handle of a ready block without pins, whose other fields `fill` sets when one of them is asked for."""
        block = cls.__new__(cls)
        block.slot = slot
        block._fill = fill
        block.pins = 0
        block.state = BlockState.READY
        block.verified_ids = None
        return block

    def fill(self) -> None:
        """Sets the fields that have not been asked for yet."""
        _ = self.key

    if not TYPE_CHECKING:  # it would make a type checker accept any name

        def __getattr__(self, name):
            """Comes for a field that has not been set."""
            if name not in self.__slots__ or name == "_fill":
                raise AttributeError(f"a cached block has no {name!r}")
            self._fill(self)
            return object.__getattribute__(self, name)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    def __repr__(self) -> str:
        where = f"{self.num_tokens} tokens in pages {self.pages}"
        return f"<{self.state} {self.kind} block of {self.owner!r}: {where}, {self.pins} pins>"


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
