"""The disk tier: KV of blocks as values of a TensorStore key-value store, a file each."""

import fcntl
import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import IO

import numpy as np
import tensorstore as ts
from jaxtyping import Int32

from rcjax.cache.saved import pages_from_bytes, pages_to_bytes
from rcjax.cache.tiers.kept import KeptBlock, KeptIndex
from rcjax.cache.versions import Name
from rcjax.disk import DiskError, make_folder, writing
from rcjax.kernels.kv import KVFormat
from rcjax.prompt import Owner

logger = logging.getLogger(__name__)

SUBFOLDER = "kv-tier"  # of the folder that is configured: all in it is deleted at the start and at the end
MAX_WAITING_BYTES = 2**28  # to be written; what comes while so much waits is not kept
CLOSE_S = 10.0  # that closing waits for the files to be deleted


@dataclass(eq=False, slots=True)
class StoredBlock:
    """A block on disk, under a name that no other ever has; `kept` until it is written."""

    key: bytes
    kind: str
    owner: Owner
    token_ids: Int32[np.ndarray, "S"]
    order: Int32[np.ndarray, "S"] | None
    digest: str
    num_pages: int
    num_bytes: int
    file: str
    kept: KeptBlock | None

    @property
    def name(self) -> Name:
        return self.kind, self.owner


class DiskTier:
    """Blocks on disk, the least recently used making room; any thread may call it, and its own thread writes.

    Starts empty, whatever a process that died has left in its folder. Raises `DiskError` where the folder cannot be
    written or another process uses it. A write that fails later is logged, and the block is not kept.
    """

    def __init__(self, folder: Path, max_bytes: int, kv_format: KVFormat):
        self._format = kv_format
        self._folder = folder.resolve() / SUBFOLDER
        make_folder(folder)
        self._lock_file = _locked(folder / f"{SUBFOLDER}.lock")
        with writing(self._folder):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.mkdir(mode=0o700)
        spec = {"driver": "file", "path": f"{self._folder}/", "context": {"file_io_sync": False}}
        self._store = ts.KvStore.open(spec).result()
        self._index: KeptIndex[StoredBlock] = KeptIndex(max_bytes)
        self._num_waiting_bytes = 0
        self._num_files = 0
        self._undeleted: list[str] = []  # files that could not go yet; the thread's own
        self._is_closed = False
        self._lock = threading.Lock()
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.num_failed = 0
        self._thread = threading.Thread(target=self._run, name="rcjax-disk-tier", daemon=True)
        self._thread.start()

    @property
    def num_bytes(self) -> int:
        return self._index.num_bytes

    def __contains__(self, key: bytes) -> bool:
        return key in self._index

    def use(self, key: bytes) -> bool:
        """Whether the block is here; if it is, it counts as just used."""
        return self.find(key) is not None

    def find(self, key: bytes) -> StoredBlock | None:
        with self._lock:
            return self._index.use(key)

    def put(self, kept: KeptBlock) -> None:
        """Takes in a block, to be written soon; not while too much waits to be written."""
        num_bytes = kept.num_bytes
        with self._lock:
            if self._num_waiting_bytes + num_bytes > MAX_WAITING_BYTES or kept.key in self._index:
                return
            self._num_files += 1
            stored = StoredBlock(
                key=kept.key,
                kind=kept.kind,
                owner=kept.owner,
                token_ids=kept.token_ids,
                order=kept.order,
                digest=kept.digest,
                num_pages=kept.pages.num_pages,
                num_bytes=num_bytes,
                file=f"{self._num_files % 256:02x}/{self._num_files}",
                kept=kept,
            )
            self._num_waiting_bytes += num_bytes
            gone = self._index.add(stored)  # first, as what is not there is not written
            self._work.put(partial(self._write, stored))
            self._delete(gone)

    def read(self, stored: StoredBlock) -> KeptBlock | None:
        """The block as its file has it, its digest not checked; None where that cannot be read. Waits for the disk."""
        kept = stored.kept
        if kept is not None:
            return kept
        try:
            found = self._store.read(stored.file).result()
        except Exception as error:
            logger.warning("a file of the disk tier cannot be read: %r", error)
            return None
        pages = pages_from_bytes(found.value, self._format, stored.num_pages) if found.state == "value" else None
        if pages is None:
            return None
        return KeptBlock(stored.key, stored.kind, stored.owner, stored.token_ids, stored.order, pages, stored.digest)

    def remove(self, key: bytes) -> None:
        """Forgets a block; its file is deleted soon."""
        with self._lock:
            stored = self._index.remove(key)
            self._delete([] if stored is None else [stored])

    def remove_name(self, name: Name) -> None:
        """The same by name."""
        with self._lock:
            self._delete(self._index.remove_name(name))

    def settled(self) -> Future[None]:
        """Done when all that was asked so far has happened on the disk; `DiskError` where a file could not go."""
        done: Future[None] = Future()
        with self._lock:
            if self._is_closed:
                done.set_result(None)  # everything is being deleted
            else:
                self._work.put(partial(self._settle, done))
        return done

    def close(self) -> None:
        """Deletes everything; waits for that, within `CLOSE_S`."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._index = KeptIndex(0)
                self._work.put(None)
        self._thread.join(CLOSE_S)

    # ---- the thread

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock_file.close()

    def _write(self, stored: StoredBlock) -> None:
        kept = stored.kept
        assert kept is not None
        try:
            if self._is_held(stored):
                self._store.write(stored.file, pages_to_bytes(kept.pages)).result()
        except Exception as error:
            self.num_failed += 1
            logger.warning("a block cannot be written to the disk tier: %r", error)
            with self._lock:
                if self._is_held(stored):
                    self._index.remove(stored.key)
            self._delete_file(stored.file)  # what there is of it
        finally:
            stored.kept = None
            with self._lock:
                self._num_waiting_bytes -= stored.num_bytes

    def _is_held(self, stored: StoredBlock) -> bool:
        return self._index.peek(stored.key) is stored

    def _delete(self, gone: list[StoredBlock]) -> None:
        for stored in gone:
            self._work.put(partial(self._delete_file, stored.file))

    def _delete_file(self, file: str) -> None:
        try:
            self._store.write(file, None).result()
        except Exception as error:
            logger.warning("a file of the disk tier cannot be deleted: %r", error)
            self._undeleted.append(file)

    def _settle(self, done: "Future[None]") -> None:
        files, self._undeleted = self._undeleted, []
        for file in files:
            self._delete_file(file)
        if self._undeleted:
            where = self._folder / self._undeleted[0]
            done.set_exception(DiskError(f"{where} cannot be deleted; see to permissions there, and delete it"))
        else:
            done.set_result(None)


def _locked(path: Path) -> IO[str]:
    """The file, locked for as long as it is open."""
    with writing(path):
        file = path.open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise DiskError(f"{path} is held by another process; give each its own cache.disk.folder") from None
    return file
