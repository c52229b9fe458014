"""Fetches: blocks that are asked for elsewhere, of another slice or of a tier, instead of being computed."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

from rcjax.engine.claim import Build
from rcjax.engine.origin import Origin
from rcjax.engine.plan import PlannedBlock
from rcjax.kernels.kv import KVPages

Order = Int32[np.ndarray, "S"]  # of correction, as in `CachedBlock`


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """What came of the blocks that were asked for.

    `parts` hold the pages of those found, one block after another, as `Executor.start_read` gives them; `orders` are
    known for some.
    """

    is_found: tuple[bool, ...]
    orders: tuple[Order | None, ...]
    parts: tuple[KVPages, ...]


@runtime_checkable
class Lender(Protocol):
    """Another slice (`rcjax.engine.worker.SliceWorker`)."""

    @property
    def load_s(self) -> float: ...

    def lend(self, wanted: Sequence[PlannedBlock]) -> Future[Delivery]:
        """Copies of the blocks that it holds; returns at once, and answers between two of its steps.

        Its answer waits for nothing but its turn, so that slices may lend to each other. Fails where it is lost.
        """
        ...


@runtime_checkable
class Peers(Protocol):
    """The other slices, and what they are said to hold: a hint, as a lender's own look-up decides."""

    def holders(self, keys: Sequence[bytes]) -> Sequence[Sequence[Lender]]:
        """For each key the slices, but for the one that asks, that hold it."""
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """Where a block can be had: a tier, or a slice, which `lender` is."""

    origin: Origin
    lender: Lender | None = None


@dataclass(eq=False, slots=True)
class Fetch:
    """Blocks that are asked for together, and what came of it; `give_up_s` is when nobody waits for it any longer."""

    source: Source
    builds: Sequence[Build]
    num_pages: int
    start_s: float = 0.0
    give_up_s: float = 0.0
    lent: Future[Delivery] | None = None
    delivery: Delivery | None = None
    error: BaseException | None = None

    @property
    def wanted(self) -> list[PlannedBlock]:
        return [PlannedBlock(build.block, build.cached.key) for build in self.builds]

    @property
    def open_builds(self) -> list[Build]:
        """Those that still wait for it: others were given up, or come from elsewhere."""
        return [build for build in self.builds if build.fetch is self]
