"""Spilling: blocks that a pool evicts are copied into the tiers before their pages are written again."""

import logging
import threading
from collections.abc import Sequence

import jax
import numpy as np

from rcjax.cache import CachedBlock
from rcjax.cache.saved import take_pages
from rcjax.cache.tiers import Arrival, KVTiers
from rcjax.engine.executor import Executor
from rcjax.engine.transfers import Transfers
from rcjax.kernels.kv import KVPages

logger = logging.getLogger(__name__)

MAX_PAGES_UNDER_WAY = 256  # copied to the host at once; blocks that are evicted meanwhile are not kept


class Spilling:
    """Copies evicted blocks: `note` each, and `flush` before anything is written into pages.

    The worker's thread uses it; the copies are waited for by `transfers`.
    """

    def __init__(self, executor: Executor, tiers: KVTiers, transfers: Transfers):
        self._executor = executor
        self._tiers = tiers
        self._transfers = transfers
        self._noted: list[tuple[Arrival, tuple[int, ...]]] = []
        self._num_under_way = 0
        self._lock = threading.Lock()  # guards `_num_under_way`
        self.num_pages = 0
        self.num_skipped = 0  # blocks

    def note(self, block: CachedBlock) -> None:
        """Takes in a block that is about to be evicted. Replicas are not kept: another slice has them."""
        if block.is_replica:
            return
        if self._num_under_way + len(block.pages) > MAX_PAGES_UNDER_WAY:
            self.num_skipped += 1
            return
        arrival = self._tiers.expect(block)
        if arrival is not None:
            self._count(len(block.pages))
            self._noted.append((arrival, block.pages))

    def flush(self) -> None:
        """Begins to copy what was noted."""
        if not self._noted:
            return
        noted, self._noted = self._noted, []
        pages = [page for _, own in noted for page in own]
        sizes = [len(own) for _, own in noted]
        arrivals = [arrival for arrival, _ in noted]
        try:
            parts = self._executor.start_read(pages)
        except Exception:
            self._tiers.give_up(arrivals)
            self._count(-len(pages))
            raise
        self.num_pages += len(pages)
        self._transfers.put(lambda: self._keep(arrivals, sizes, parts))

    def _keep(self, arrivals: Sequence[Arrival], sizes: Sequence[int], parts: Sequence[KVPages]) -> None:
        try:
            joined = jax.tree.map(lambda *arrays: np.concatenate([np.asarray(one) for one in arrays], axis=1), *parts)
            at = 0
            for arrival, size in zip(arrivals, sizes, strict=True):
                # A copy of its own, as the block may be kept long after the others.
                own = take_pages(joined, slice(at, at + size))
                self._tiers.keep(arrival, jax.tree.map(np.ascontiguousarray, own))
                at += size
        except Exception as error:
            logger.warning("evicted blocks could not be copied to the host: %r", error)
            self._tiers.give_up(arrivals)
        finally:
            self._count(-sum(sizes))

    def _count(self, num_pages: int) -> None:
        with self._lock:
            self._num_under_way += num_pages
