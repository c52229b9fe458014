"""Snapshots of an engine's cache: saved and restored between two passes, on the threads that own it."""

from pathlib import Path
from typing import Any

from rcjax.prompt import BlockKind
from rcjax.serving.local import LocalEngine


def save(engine: LocalEngine, folder: Path) -> Any:
    """Saves the KV of all blocks that are cached, once where several slices hold it.

    Returns a `rcjax.cache.snapshot.SnapshotReport`. How many slices there are does not matter to who restores it.
    """
    from rcjax.cache.snapshot import Saver  # imports orbax, which takes seconds

    def on_slice(worker: Any) -> None:
        saver.add(worker.cache.directory, worker.cache.executor)

    workers: list[Any] = engine.workers
    with Saver(workers[0].cache.keys, folder) as saver:
        for worker in workers:  # one after the other, as each saves what those before do not hold
            worker.call(on_slice).result()
        return saver.finish()


def restore(engine: LocalEngine, folder: Path) -> Any:
    """Reads back what `save` wrote, as far as it fits: items to the slices that own them, users to all.

    Returns a `rcjax.cache.snapshot.SnapshotReport`, summed over slices.
    """
    from rcjax.cache.snapshot import SnapshotReport, restore_cache

    owners = engine.router.owners
    reports = []
    for index, worker in enumerate(engine.router.workers):

        def is_wanted(kind: str, owner: str, index: int = index) -> bool:
            return kind != BlockKind.ITEM or index in owners.slices_of(owner)

        def on_slice(worker: Any) -> Any:
            cache = worker.cache
            return restore_cache(
                cache.directory, cache.executor, cache.keys, folder, cache.executor.cost.build_s, is_wanted
            )

        reports.append(worker.call(on_slice).result())
    return SnapshotReport(
        num_blocks=sum(report.num_blocks for report in reports),
        num_bytes=sum(report.num_bytes for report in reports),
        num_skipped=sum(report.num_skipped for report in reports),
        num_present=sum(report.num_present for report in reports),
        corrupt=tuple(dict.fromkeys(name for report in reports for name in report.corrupt)),
    )
