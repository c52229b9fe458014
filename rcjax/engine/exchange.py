"""The exchange of a slice: what connects its cache to other slices and to the tiers, and the threads for that."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from rcjax.cache.tiers import KVTiers
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.fetch import Fetch, Peers
from rcjax.engine.fetching import MAX_UNDER_WAY, Fetches
from rcjax.engine.spilling import Spilling
from rcjax.engine.state import fail, resolve
from rcjax.engine.transfers import Transfers
from rcjax.prompt import BlockKind, Owner


class Exchange:
    """Gives a cache its `fetches` and, where there are `tiers`, its `spilling`."""

    def __init__(
        self,
        cache: BlockCache,
        on_landed: Callable[[Fetch], None],
        clock: Callable[[], float],
        name: str,
        *,
        num_waiting: Callable[[], int],
        peers: Peers | None,
        tiers: KVTiers | None,
        replica_share: float,
    ):
        self._tiers = tiers
        inward = Transfers(f"rcjax-{name}-fetches", MAX_UNDER_WAY)
        self._threads = [inward]
        cache.fetches = Fetches(
            cache.executor, inward, on_landed, clock, num_waiting=num_waiting, peers=peers, tiers=tiers
        )
        cache.directory.replicas.max_pages = int(replica_share * cache.directory.pool.capacity_pages)
        if tiers is not None:
            outward = Transfers(f"rcjax-{name}-spills", 1)
            self._threads.append(outward)
            cache.spilling = Spilling(cache.executor, tiers, outward)
            cache.directory.on_last_look(cache.spilling.note)

    def start(self) -> None:
        for threads in self._threads:
            threads.start()

    def stop(self) -> None:
        """Ends the threads and the tiers."""
        for threads in self._threads:
            threads.stop()
        if self._tiers is not None:
            self._tiers.close()

    def join(self) -> bool:
        """Waits a moment for the threads to end after `stop`; whether they have."""
        return all(threads.join() for threads in self._threads)

    def drop_after(self, dropped: Future[int], names: Sequence[tuple[BlockKind, Owner]]) -> Future[int]:
        """`dropped` from the pool, and then from the tiers."""
        tiers = self._tiers
        if tiers is None:
            return dropped
        future: Future[int] = Future()

        def end(num_dropped: int, gone: Future[None]) -> None:
            error = gone.exception()
            if error is None:
                resolve(future, num_dropped)
            else:
                fail(future, error)

        def drop(dropped: Future[int]) -> None:
            try:
                num_dropped = dropped.result()
            except BaseException as error:
                fail(future, error)
                return
            tiers.drop(names).add_done_callback(lambda gone: end(num_dropped, gone))

        dropped.add_done_callback(drop)
        return future
