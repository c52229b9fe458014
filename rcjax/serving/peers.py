"""What connects slices: each learns of the others, and all share the tiers that their evicted blocks go to."""

from collections.abc import Callable, Sequence

import numpy as np

from rcjax.cache.tiers import KVTiers
from rcjax.config import Settings
from rcjax.engine.fetch import Lender, Peers
from rcjax.engine.worker import SliceWorker
from rcjax.serving.residency import Residency


class SlicePeers:
    """The slices but for the one of `index`, and what residency says they hold (`rcjax.engine.fetch.Peers`)."""

    def __init__(self, index: int, workers: Sequence[Lender], residency: Residency):
        self._index = index
        self._workers = workers
        self._residency = residency

    def holders(self, keys: Sequence[bytes]) -> list[list[Lender]]:
        """For each key the other slices that hold it."""
        held = self._residency.holders(keys)
        held[:, self._index] = 0
        found: list[list[Lender]] = [[] for _ in keys]
        for row, column in np.argwhere(held):
            found[row].append(self._workers[column])
        return found


def connect_slices(
    settings: Settings,
    workers: Sequence[SliceWorker],
    residency: Residency,
    peers_of: Callable[[int], Peers] | None = None,
) -> KVTiers | None:
    """Has slices fetch what they miss from each other and from tiers; call it before they start. Returns the tiers.

    `peers_of` gives each slice other peers than those of this process. One slice without any and without tiers is left
    as it is. Raises `DiskError` where the disk tier cannot use its folder.
    """
    tiers = _new_tiers(settings, workers[0])
    if tiers is None and len(workers) == 1 and peers_of is None:
        return None
    for index, worker in enumerate(workers):
        peers: Peers | None = SlicePeers(index, workers, residency) if len(workers) > 1 else None
        if peers_of is not None:
            peers = peers_of(index)
        worker.connect(peers=peers, tiers=tiers, replica_share=settings.mesh.replica_share)
    return tiers


def _new_tiers(settings: Settings, worker: SliceWorker) -> KVTiers | None:
    cache = settings.cache
    if not cache.host_bytes:
        return None
    disk = None
    if cache.disk is not None:
        from rcjax.cache.tiers.disk import DiskTier  # imports TensorStore

        disk = DiskTier(cache.disk.folder, int(cache.disk.bytes), worker.cache.executor.format)
    return KVTiers(int(cache.host_bytes), disk)
