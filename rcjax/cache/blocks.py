"""The cached block, and what a pool says of itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int32

from rcjax.cache.errors import BlockBusyError
from rcjax.cache.eviction import cost_class
from rcjax.cache.keys import KEY_BYTES, TokenIds, as_token_ids
from rcjax.prompt import NOBODY, Owner

SCRATCH = "scratch"  # the kind of blocks that hold pages for a while and cannot be found
NO_SLOT = -1


class BlockState(StrEnum):
    PENDING = "pending"  # its KV is being computed; only its reserver knows it
    READY = "ready"  # can be found, and evicted when not pinned
    RETIRED = "retired"  # cannot be found any more; holds its pages until its last reader leaves


# A member that is looked up on its class costs ten times as much as a global, in Python 3.11.
PENDING, READY, RETIRED = BlockState.PENDING, BlockState.READY, BlockState.RETIRED


class CachedBlock:
    """A run of tokens and the pages that hold their KV, in order, the last page perhaps partly filled.

    A handle: compared by identity, and changed by its `BlockDirectory` only. It exists while somebody holds it; what
    the directory keeps of an idle block is much smaller, and a handle made of that looks most of it up when asked.
    """

    __slots__ = (
        "__weakref__",
        "_fill",
        "brings_order",
        "cost",
        "is_replica",
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
    owner: Owner
    token_ids: Int32[np.ndarray, "S"]  # read-only
    pages: tuple[int, ...]  # empty once they were given back
    cost: float  # seconds that it takes to compute it again
    version: int  # of the plan or write that it was reserved for
    pins: int
    state: BlockState
    superseded: bool  # will never be ready: scratch, or dropped or overtaken while pending
    order: Int32[np.ndarray, "S"] | None  # offsets of all its tokens, those most worth correcting first, if worked out
    is_replica: bool  # copied from another slice for a request: it goes before others
    brings_order: bool  # got its order while pending, to be stored when it is ready
    slot: int  # where the directory keeps it while it is ready
    verified_ids: Int32[np.ndarray, "S"] | None  # a caller's array that was found equal to `token_ids`; read-only

    def __init__(
        self,
        key: bytes,
        kind: str,
        owner: Owner,
        token_ids: Int32[np.ndarray, "S"],
        pages: tuple[int, ...],
        cost: float,
        version: int = 0,
        order: Int32[np.ndarray, "S"] | None = None,
    ):
        self.key = key
        self.kind = kind
        self.owner = owner
        self.token_ids = token_ids
        self.pages = pages
        self.cost = cost
        self.version = version
        self.pins = 1
        self.state = PENDING
        self.superseded = False
        self.order = order
        self.is_replica = False
        self.brings_order = False
        self.slot = NO_SLOT
        self.verified_ids = None

    @classmethod
    def ready(cls, slot: int, fill: "Callable[[CachedBlock], None]") -> "CachedBlock":
        """A handle of a ready block without pins, whose other fields `fill` sets when one of them is asked for."""
        block = cls.__new__(cls)
        block.slot = slot
        block._fill = fill
        block.pins = 0
        block.state = READY
        block.verified_ids = None
        return block

    @classmethod
    def scratch(cls, pages: tuple[int, ...]) -> "CachedBlock":
        block = cls(b"", SCRATCH, NOBODY, as_token_ids(()), pages, 0.0)
        block.superseded = True
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

    def require_sole_reader(self) -> None:
        """Raises where the block is not ready and pinned (ValueError), or by several (`BlockBusyError`)."""
        if self.state is not READY or not self.pins:
            raise ValueError(f"only a ready block pinned by the caller can grow: {self.state=!s} {self.pins=}")
        if self.pins > 1:
            raise BlockBusyError(f"{self.kind} block of {self.owner} has {self.pins - 1} other readers")

    def __repr__(self) -> str:
        where = f"{self.num_tokens} tokens in pages {self.pages}"
        return f"<{self.state} {self.kind} block of {self.owner}: {where}, {self.pins} pins>"


def checked_ids(key: bytes, kind: str, token_ids: TokenIds, cost: float) -> Int32[np.ndarray, "S"]:
    """The token ids as a block keeps them; ValueError for a key, kind, tokens or cost that no cached block can have."""
    if kind == SCRATCH:
        raise ValueError(f"{kind=} is reserved; use reserve_scratch")
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}; make it with BlockKeys")
    cost_class(cost)  # refuses what is no cost
    ids = as_token_ids(token_ids)
    if not len(ids):
        raise ValueError("a block without tokens has nothing to cache; leave it out")
    return ids


@dataclass(frozen=True, slots=True)
class ListedBlock:
    """A ready block, as a list of many has it: `last_use` rises with each use of any, and is infinite while pinned."""

    key: bytes
    kind: str
    owner: Owner
    num_pages: int
    last_use: float


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
