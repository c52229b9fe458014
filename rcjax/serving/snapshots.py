"""Snapshots of an engine's cache: saved and restored between two passes, on the thread that owns it."""

from pathlib import Path
from typing import Any

from rcjax.serving.local import LocalEngine


def save(engine: LocalEngine, folder: Path) -> Any:
    """Saves the KV of all blocks that are cached; returns a `rcjax.cache.snapshot.SnapshotReport`."""
    from rcjax.cache.snapshot import save_cache  # imports orbax, which takes seconds

    def on_slice(worker: Any) -> Any:
        cache = worker.cache
        return save_cache(cache.directory, cache.executor, cache.keys, folder)

    (report,) = engine.call_workers(on_slice)
    return report


def restore(engine: LocalEngine, folder: Path) -> Any:
    """Reads back what `save` wrote, as far as it fits; returns a `rcjax.cache.snapshot.SnapshotReport`."""
    from rcjax.cache.snapshot import restore_cache

    def on_slice(worker: Any) -> Any:
        cache = worker.cache
        return restore_cache(cache.directory, cache.executor, cache.keys, folder, cache.executor.cost.build_s)

    (report,) = engine.call_workers(on_slice)
    return report
