"""Snapshots of an engine: taken and restored on threads of their own, in pieces between the passes of its slices."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from rcjax.cache.snapshot import Pool, Restoring, SnapshotReport, SnapshotStore, open_snapshot, save_snapshot
from rcjax.engine.library import Library
from rcjax.errors import RcjaxError, ResourceExhaustedError, UnavailableError
from rcjax.prompt import BlockKind, Owner
from rcjax.serving.engine import RestoreResult, SnapshotResult
from rcjax.serving.library_records import add_records, is_known, library_content
from rcjax.serving.local import LocalEngine
from rcjax.serving.router import Router

logger = logging.getLogger(__name__)

REST_SHARE = 3.0  # a server's snapshot rests three times as long as its pieces take: a quarter of a core at most


@dataclass(slots=True)
class SnapshotCounters:
    """Since start-up; `last_end_s` is seconds since 1970, None before the first one."""

    num_taken: int = 0
    num_failed: int = 0
    num_restored_blocks: int = 0
    num_corrupt: int = 0  # blocks whose bytes were not what had been saved
    last: SnapshotReport | None = None
    last_end_s: float | None = None
    last_took_s: float = 0.0


class Snapshots:
    """Takes and restores the snapshots of a router, one at a time; any thread may call it, and waits.

    With `every_s` its own thread takes one every so many seconds; with `on_stop` the last is taken when it stops.
    """

    def __init__(
        self,
        router: Router,
        where: str | Path,
        *,
        keep: int = 1,
        every_s: float | None = None,
        on_stop: bool = False,
        rest_share: float = REST_SHARE,
    ):
        self.counters = SnapshotCounters()
        self._router = router
        self._library = cast(Library, router.library)  # which the router knows by its protocol
        self._store = SnapshotStore(where)
        self._keep = keep
        self._every_s = every_s
        self._on_stop = on_stop
        self._rest_share = rest_share
        self._is_busy = threading.Lock()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rcjax-snapshots", daemon=True)

    def start(self) -> None:
        if self._every_s is not None:
            self._thread.start()

    def stop(self) -> None:
        """Takes the last snapshot, if that is asked for; blocks until no snapshot is under way."""
        self._is_stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._on_stop:
            self._take_logged()

    def skip_last(self) -> None:
        """Takes none when it stops: what there is now is not whole, and would take the place of one that is."""
        self._on_stop = False

    def take(self) -> SnapshotReport:
        """Takes a snapshot and keeps the newest ones.

        Raises `DiskError` where it cannot be written, `ResourceExhaustedError` while another snapshot or a restore is
        under way, `UnavailableError` where a slice is lost meanwhile. The former snapshots are then as they were.
        """
        with self._alone():
            start_s = time.monotonic()
            pools = [_pool_of(worker) for worker in _living(self._router).values()]
            keys, content = self._keys(), library_content(self._library)
            try:
                report = save_snapshot(
                    self._store,
                    keys,
                    pools,
                    content,
                    keep=self._keep,
                    rest_share=self._rest_share,
                    sleep=self._is_stopping.wait,  # once it is to stop, nobody waits for anything else any more
                )
            except BaseException:
                self.counters.num_failed += 1
                raise
            counters = self.counters
            counters.num_taken += 1
            counters.last, counters.last_end_s = report, time.time()
            counters.last_took_s = time.monotonic() - start_s
            return report

    def restore(self, number: int | None = None) -> SnapshotReport:
        """Restores the newest snapshot, or the one of that number, into free pages; what is there stays.

        Items and users that are not known become known, and KV goes to the slices that own it. Raises `NotFoundError`
        where there is no such snapshot, `InvalidRequestError` where it cannot be used here, and as `take`.
        """
        return self.begin_restore(number).finish()

    def take_one(self) -> SnapshotResult:
        """As `take`, for who knows nothing of the cache."""
        report = self.take()
        return SnapshotResult(
            number=report.number,
            num_blocks=report.num_blocks,
            num_bytes=report.num_bytes,
            num_written=report.num_written,
            written_bytes=report.written_bytes,
            num_items=report.num_items,
            num_users=report.num_users,
            took_s=self.counters.last_took_s,
        )

    def restore_one(self, number: int) -> RestoreResult:
        """As `restore`, for who knows nothing of the cache; 0 is the newest."""
        start_s = time.monotonic()
        report = self.restore(number or None)
        return RestoreResult(
            number=report.number,
            num_blocks=report.num_blocks,
            num_bytes=report.num_bytes,
            num_skipped=report.num_skipped,
            num_present=report.num_present,
            num_corrupt=len(report.corrupt),
            num_items=report.num_items,
            num_users=report.num_users,
            took_s=time.monotonic() - start_s,
        )

    def begin_restore(self, number: int | None = None, hot_share: float = 0.0) -> "UnderWay":
        """Restores items, users and the `hot_share` of the blocks that was used last; `finish` restores the others."""
        if not self._is_busy.acquire(blocking=False):
            raise _busy()
        version = self._router.versions.begin_read()
        try:
            return self._begin_restore(number, hot_share, version)
        except BaseException:
            self._router.versions.end_read(version)
            self._is_busy.release()
            raise

    def _begin_restore(self, number: int | None, hot_share: float, version: int) -> "UnderWay":
        library, owners = self._library, self._router.owners
        workers = _living(self._router)
        slices = list(workers)

        def is_wanted(pool: int, kind: str, owner: Owner) -> bool:
            is_here = kind != BlockKind.ITEM or slices[pool] in owners.slices_of(owner.full_id)
            return is_here and is_known(library, kind, owner)

        pools = [_pool_of(worker) for worker in workers.values()]
        restoring = open_snapshot(self._store, self._keys(), pools, is_wanted=is_wanted, number=number, version=version)
        num_items, num_users = add_records(library, restoring, version)
        restoring.restore(hot_share)
        return UnderWay(restoring, num_items, num_users, lambda report: self._end_restore(version, report))

    def _end_restore(self, version: int, report: SnapshotReport) -> None:
        self.counters.num_restored_blocks += report.num_blocks
        self.counters.num_corrupt += len(report.corrupt)
        if report.corrupt:
            logger.warning(
                "%d blocks of %s are damaged, first: %s", len(report.corrupt), self._store, report.corrupt[0]
            )
        self._router.versions.end_read(version)
        self._is_busy.release()

    def _keys(self) -> Any:
        return next(iter(_living(self._router).values())).cache.keys

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._is_busy.acquire(blocking=False):
            raise _busy()
        try:
            yield
        finally:
            self._is_busy.release()

    def _run(self) -> None:
        while not self._is_stopping.wait(self._every_s):
            self._take_logged()

    def _take_logged(self) -> None:
        try:
            report = self.take()
        except RcjaxError as error:
            logger.error("no snapshot was taken: %s", error)
        except Exception:
            logger.exception("no snapshot was taken")
        else:
            logger.info(
                "snapshot %d: %d blocks, %d of them new (%.1f MB), in %.1f s",
                report.number,
                report.num_blocks,
                report.num_written,
                report.written_bytes / 1e6,
                self.counters.last_took_s,
            )


@dataclass(eq=False)
class UnderWay:
    """A restore whose items, users and hot blocks are there. `finish` must be called, by one thread, once."""

    restoring: Restoring
    num_items: int  # that became known
    num_users: int
    ended: Callable[[SnapshotReport], None]

    @property
    def report(self) -> SnapshotReport:
        """What was restored so far."""
        return replace(self.restoring.report, num_items=self.num_items, num_users=self.num_users)

    def finish(self) -> SnapshotReport:
        """Restores what is left, and says what was restored in all."""
        try:
            self.restoring.restore()
            self.restoring.finish()
        finally:
            report = self.report
            self.ended(report)
        return report


def save(engine: LocalEngine, where: str | Path) -> SnapshotReport:
    """Takes a snapshot of an engine that nobody waits for, as fast as that goes; it becomes the only one there."""
    return Snapshots(engine.router, where, rest_share=0.0).take()


def restore(engine: LocalEngine, where: str | Path, number: int | None = None) -> SnapshotReport:
    """Restores the newest snapshot, or the one of that number, as `Snapshots.restore` does."""
    return Snapshots(engine.router, where).restore(number)


def _busy() -> ResourceExhaustedError:
    return ResourceExhaustedError("a snapshot or a restore is under way; retry once it has ended")


def _living(router: Router) -> dict[int, Any]:
    """The workers of the slices that are not lost, by index."""
    living = {index: worker for index, worker in enumerate(router.workers) if not worker.lost.done()}
    if not living:
        raise UnavailableError("every slice of this engine is lost; start another")
    return living


def _pool_of(worker: Any) -> Pool:
    """A slice's pool, on whose thread `run` calls between two passes."""
    cache = worker.cache
    return Pool(
        cache.directory,
        cache.executor,
        cache.executor.cost.build_s,
        lambda task: worker.call(lambda _: task()).result(),
    )
