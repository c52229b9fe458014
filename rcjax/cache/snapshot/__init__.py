"""Snapshots: the KV of a server's blocks, its items and its users, in a folder or an object store.

    snapshots/<number>.json  a manifest: of which model it is, and what is in the snapshot; written last, which makes it
                             one. A line with its SHA-256, then JSON
    segments/<name>          KV of blocks, one after another; and <name>.index, which says of which and where
    library/<digest>         items, users and orders of correction as JSON lines, compressed by zstd

Segments and library parts are never changed, and shared by all snapshots that need them: a block or an item that did
not change is not written again. Retention deletes the oldest snapshots, and then what none of the others refers to.

Not saved are the instruction, which every cache computes for itself, and content that came inline, which shall not
outlive the process. A snapshot holds users' histories, so protect the folder as you would these, and still holds what
was deleted after it was taken, until retention takes it away.

Everything has a digest: KV that was damaged is a miss, a record that was damaged is refused. This finds damage; it
cannot find forgery, since who can write the folder can also write a digest.
"""

from rcjax.cache.snapshot.pool import Pool as Pool
from rcjax.cache.snapshot.report import SnapshotReport as SnapshotReport
from rcjax.cache.snapshot.restoring import Restoring as Restoring
from rcjax.cache.snapshot.restoring import open_snapshot as open_snapshot
from rcjax.cache.snapshot.saving import Content as Content
from rcjax.cache.snapshot.saving import save_snapshot as save_snapshot
from rcjax.cache.snapshot.store import SnapshotStore as SnapshotStore
