"""The store of snapshots: a folder or an object store's URL, as a TensorStore key-value store.

A value is written whole or not at all: locally to another name, synced and renamed, by TensorStore itself. Not Orbax,
which has the checkpoints of training: it reads and writes whole checkpoints where a restore wants the blocks that are
hot and fit, has no digest, raises what is damaged in threads of its own, and loads random KV at a third of the speed.
"""

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tensorstore as ts

from rcjax.disk import DiskError, writing
from rcjax.errors import ResourceExhaustedError

_log = logging.getLogger(__name__)

FOLDERS = ("segments", "library", "snapshots")  # what names start with

_MAX_BUFFERS = 1024  # that one read of a file may fill (`IOV_MAX`)
_LOCK_NAME = "lock"
_UNFINISHED = ".__lock"  # what TensorStore's file driver writes to before it renames


class SnapshotStore:
    """Values by name, in a folder or at a URL that TensorStore knows (`gs://bucket/path`, `s3://bucket/path`).

    Any thread may call it. What cannot be written is a `DiskError`; what cannot be read is None, and a warning.
    """

    def __init__(self, where: str | Path):
        self.folder = None if "://" in str(where) else Path(where).absolute()
        self.where = str(self.folder or where).rstrip("/")
        spec = f"{self.where}/" if self.folder is None else {"driver": "file", "path": f"{self.folder}/"}
        try:
            self._store = ts.KvStore.open(spec).result()
        except ValueError as error:
            raise DiskError(f"{self.where!r} is no folder and no URL that TensorStore knows: {error}") from error

    def __str__(self) -> str:
        return self.where

    def read(self, name: str) -> bytes | None:
        """A value; None where there is no such value."""
        try:
            if self.folder is not None:
                return (self.folder / name).read_bytes()
            found = self._store.read(name).result()
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            _log.warning("%s cannot be read: %s", self._path(name), error)
            return None
        return bytes(found.value) if found.state == "value" else None

    def read_into(self, name: str, start: int, buffers: Sequence[memoryview]) -> bool:
        """Fills buffers, one after another, with a value's bytes from `start` on; whether there were so many."""
        num_bytes = sum(buffer.nbytes for buffer in buffers)
        try:
            if self.folder is not None:
                num_read = _read_file_into(self.folder / name, start, buffers)
            else:
                found = self._store.read(name, byte_range=slice(start, start + num_bytes)).result()
                num_read = _copy_into(buffers, found.value) if found.state == "value" else 0
        except FileNotFoundError:
            return False
        except (ValueError, OSError) as error:
            _log.warning("%s cannot be read: %s", self._path(name), error)
            return False
        return num_read == num_bytes

    def write(self, name: str, value: bytes) -> None:
        """Puts a value in its place, whole; it is durable when this returns."""
        with writing(self._path(name), ValueError):
            self._store.write(name, value).result()

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            with writing(self._path(name), ValueError):
                self._store.write(name, None).result()

    def delete_quietly(self, name: str) -> None:
        """As far as that can be done: what stays is deleted with the next snapshot."""
        try:
            self.delete([name])
        except DiskError as error:
            _log.warning("%s", error)

    def list(self, prefix: str) -> list[str]:
        """The names that start with `prefix`, sorted; `DiskError` where that cannot be told."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        with writing(self._path(prefix), ValueError):
            return sorted(name.decode() for name in self._store.list(ts.KvStore.KeyRange(prefix, end)).result())

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """For writing: makes the folders, private ones, and keeps other writers out. At a URL nothing does that.

        `ResourceExhaustedError` where another writes now.
        """
        if self.folder is None:
            yield
            return
        with writing(self.folder):
            for name in FOLDERS:
                (self.folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
            file = (self.folder / _LOCK_NAME).open("w", encoding="utf-8")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ResourceExhaustedError(f"another snapshot is being written to {self}; wait for its end") from None
            self._delete_unfinished()
            yield

    def _delete_unfinished(self) -> None:
        """What a process that was killed has left."""
        if self.folder is not None:
            for path in self.folder.glob(f"*/*{_UNFINISHED}"):
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> str:
        return f"{self.where}/{name}"


def _read_file_into(path: Path, start: int, buffers: Sequence[memoryview]) -> int:
    """Bytes read, fewer than there is room for where the file ends. TensorStore copies, and takes ten times the CPU."""
    num_read = 0
    with path.open("rb", buffering=0) as file:
        for first in range(0, len(buffers), _MAX_BUFFERS):
            some = buffers[first : first + _MAX_BUFFERS]
            now = os.preadv(file.fileno(), some, start + num_read)
            num_read += now
            if now < sum(buffer.nbytes for buffer in some):
                break
    return num_read


def _copy_into(buffers: Sequence[memoryview], value: bytes) -> int:
    """Bytes copied; none where there are too few."""
    if len(value) != sum(buffer.nbytes for buffer in buffers):
        return 0
    at, view = 0, memoryview(value)
    for buffer in buffers:
        buffer[:] = view[at : at + buffer.nbytes]
        at += buffer.nbytes
    return at
