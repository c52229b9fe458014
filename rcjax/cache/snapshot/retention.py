"""Retention: which snapshots stay, and the segments and records that no snapshot refers to any more."""

import logging

from rcjax.cache.snapshot import manifest as manifests
from rcjax.cache.snapshot import records, segments
from rcjax.cache.snapshot.manifest import Manifest, manifest_name, numbers_in, read_manifest
from rcjax.cache.snapshot.store import SnapshotStore
from rcjax.errors import InvalidRequestError

_log = logging.getLogger(__name__)


def delete_unreferenced(store: SnapshotStore, keep: int) -> None:
    """Deletes all but the `keep` newest snapshots that can be read, then what none of these refers to.

    Manifests first: one that is killed in between leaves values without a snapshot, never the other way round.
    """
    kept: list[Manifest] = []
    gone: list[str] = []
    for number in reversed(numbers_in(store)):
        if len(kept) == keep:
            gone.append(manifest_name(number))
            continue
        try:
            kept.append(read_manifest(store, number))
        except InvalidRequestError as error:
            _log.warning("%s; what it refers to is deleted", error)
            gone.append(manifest_name(number))
    store.delete(gone)
    referenced = {name for manifest in kept for name in values_of(manifest)}
    there = [*store.list(segments.PREFIX), *store.list(records.PREFIX)]
    store.delete(name for name in there if name not in referenced)


def values_of(manifest: Manifest) -> set[str]:
    """The names of all that a snapshot refers to."""
    names = {manifests.manifest_name(manifest.number)}
    for use in manifest.segments:
        names |= {segments.kv_name(use.name), segments.index_name(use.name)}
    for part in (*manifest.items, *manifest.users, *manifest.orders):
        names.add(f"{records.PREFIX}{part.digest}")
    return names
