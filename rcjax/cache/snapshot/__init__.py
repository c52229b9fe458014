"""Snapshots: a cache's blocks on disk, so that a restarted server starts with them.

    folder/index.json   what is saved, of which model, and where; replaced last, in one step
    folder/kv-<n>/<i>   chunk i as an Orbax checkpoint: the arrays of `KVPages`, of W pages

Not saved are the instruction, which every cache computes for itself, and content that came inline, which shall not
outlive the process. A snapshot still holds what was deleted after it was taken: save again after deleting users. It
holds their histories as token ids, so protect the folder as you would these.

Orbax does not notice a flipped byte, so each block has a digest. This finds damage; it cannot find forgery, since who
can write the folder can also write a digest.
"""

from rcjax.cache.snapshot.restoring import restore_cache as restore_cache
from rcjax.cache.snapshot.saving import Saver as Saver
from rcjax.cache.snapshot.saving import save_cache as save_cache
from rcjax.cache.snapshot.store import PageStore as PageStore
from rcjax.cache.snapshot.store import SnapshotReport as SnapshotReport
