"""KV between hosts: a slice asks another host's for copies, which come through Ray's object store, with a digest."""

import asyncio
import hashlib
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import ray
from ray.exceptions import RayError

from rcjax.cluster.ray.handle import HostHandle
from rcjax.cluster.ray.names import NAMESPACE
from rcjax.cluster.ray.parcel import BlocksSent
from rcjax.cluster.ray.remote_slice import HeldElsewhere
from rcjax.engine.fetch import Delivery, Lender, Order
from rcjax.engine.plan import PlannedBlock
from rcjax.engine.state import fail, resolve
from rcjax.engine.worker import SliceWorker
from rcjax.errors import UnavailableError
from rcjax.kernels.kv import KVPages
from rcjax.serving.peers import SlicePeers

logger = logging.getLogger(__name__)

MAX_HINTS = 2**16  # of where blocks can be had, by slice
DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, eq=False)
class Loan:
    """What a `Delivery` is on its way: pages on the host, and a digest of them, which tells of damage."""

    is_found: tuple[bool, ...]
    orders: tuple[Order | None, ...]
    parts: tuple[KVPages, ...]
    digest: bytes

    def delivery(self) -> Delivery:
        """ValueError where the pages are not those that were sent."""
        if digest_of(self.parts) != self.digest:
            raise ValueError("the KV that came is not the KV that was sent: its digest differs")
        return Delivery(self.is_found, self.orders, self.parts)


def digest_of(parts: Sequence[KVPages]) -> bytes:
    """Of all bytes of pages on the host."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for array in jax.tree.leaves(list(parts)):
        digest.update(np.ascontiguousarray(array).view(np.uint8))
    return digest.digest()


class LoanDesk:
    """Copies what other hosts ask for, no more than `max_bytes` at the same time; the host's event loop uses it."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._num_bytes = 0

    async def lend(self, worker: SliceWorker, wanted: Sequence[PlannedBlock]) -> Loan:
        """Copies of those of the blocks that a slice holds; of none where there is no room, so that they are computed.

        Room is taken for all that is asked for, as if it were there.
        """
        cache = worker.cache
        num_pages = sum(cache.executor.num_pages_for(len(one.block)) for one in wanted)
        num_bytes = num_pages * cache.executor.format.page_bytes
        if self._num_bytes + num_bytes > self._max_bytes:
            return Loan((False,) * len(wanted), (None,) * len(wanted), (), digest_of(()))
        self._num_bytes += num_bytes
        try:
            delivery = await asyncio.wrap_future(worker.lend(wanted))
            return await asyncio.to_thread(_loan_of, delivery)
        finally:
            self._num_bytes -= num_bytes


def _loan_of(delivery: Delivery) -> Loan:
    parts = tuple(jax.tree.map(np.asarray, part) for part in delivery.parts)
    return Loan(delivery.is_found, delivery.orders, parts, digest_of(parts))


class RemoteLender:
    """A slice of another host (`rcjax.engine.fetch.Lender`), which may have a block: no more is known of it."""

    load_s = math.inf  # of two that have a block, one of this host is asked

    def __init__(self, name: str, incarnation: str, number: int):
        self._name = name
        self._incarnation = incarnation
        self._number = number
        self._host: HostHandle | None = None

    def lend(self, wanted: Sequence[PlannedBlock]) -> Future[Delivery]:
        try:
            host = self._found()
        except (ValueError, RayError) as error:
            gone: Future[Delivery] = Future()
            gone.set_exception(UnavailableError(f"host {self._name} is gone: {error}"))
            return gone
        delivered: Future[Delivery] = Future()
        asked = host.ask("lend", self._number, BlocksSent.of(wanted))

        def done(answered: Future[Loan]) -> None:
            if answered.cancelled():
                return
            try:
                resolve(delivered, answered.result().delivery())
            except Exception as error:
                fail(delivered, error)

        asked.add_done_callback(done)
        delivered.add_done_callback(lambda one: asked.cancel() if one.cancelled() else None)
        return delivered

    def _found(self) -> HostHandle:
        if self._host is None:
            actor: Any = ray.get_actor(self._name, namespace=NAMESPACE)
            self._host = HostHandle(actor, self._name, self._incarnation)
        return self._host


class RemotePeers:
    """The other slices of this host, and those of others that routers say have a block (`rcjax.engine.fetch.Peers`).

    Routers say it with what they send: there is no list of what all hosts hold, on any of them.
    """

    def __init__(self, local: SlicePeers | None):
        self._local = local
        self._lock = threading.Lock()  # of the two below
        self._hints: OrderedDict[bytes, tuple[str, str, int]] = OrderedDict()
        self._lenders: dict[tuple[str, str, int], RemoteLender] = {}

    def note(self, blocks: Sequence[PlannedBlock], elsewhere: HeldElsewhere) -> None:
        """Takes in where blocks can be had; any thread may call it."""
        with self._lock:
            for number, holder in zip(elsewhere.numbers, elsewhere.holders, strict=True):
                self._hints[blocks[number].key] = holder
            while len(self._hints) > MAX_HINTS:
                self._hints.popitem(last=False)

    def holders(self, keys: Sequence[bytes]) -> list[list[Lender]]:
        found = [[] for _ in keys] if self._local is None else self._local.holders(keys)
        with self._lock:
            for lenders, key in zip(found, keys, strict=True):
                holder = self._hints.get(key)
                if holder is not None:
                    lenders.append(self._lender(holder))
        return found

    def _lender(self, holder: tuple[str, str, int]) -> RemoteLender:
        lender = self._lenders.get(holder)
        if lender is None:
            # One object for each slice, as a source that was tried is known by it; a host that came back is another.
            former = [one for one in self._lenders if one[0] == holder[0] and one[1] != holder[1]]
            for one in former:
                del self._lenders[one]
            lender = self._lenders[holder] = RemoteLender(*holder)
        return lender
