"""Saving a cache's blocks."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType

import jax
import orbax.checkpoint.experimental.v1 as ocp

from rcjax.cache.blocks import CachedBlock
from rcjax.cache.directory import BlockDirectory
from rcjax.cache.keys import BlockKeys
from rcjax.cache.saved import digest_of_block, is_inline, take_pages
from rcjax.cache.snapshot.index import INDEX_NAME, NEW_INDEX_NAME, SavedBlock, SavedOrder, SnapshotIndex, write_index
from rcjax.cache.snapshot.store import PageStore, SnapshotReport, digest_of_order
from rcjax.disk import writing
from rcjax.prompt import BlockKind

CHUNK_BYTES = 2**27  # of KV in a chunk, or one block if that is larger; saving and restoring hold two or three of them


def save_cache(directory: BlockDirectory, pages: PageStore, keys: BlockKeys, folder: Path) -> SnapshotReport:
    """Saves the ready blocks and the orders of `directory`, replacing the snapshot in `folder`.

    Call it from the thread that uses the directory. As `Saver` in all else.
    """
    with Saver(keys, folder) as saver:
        saver.add(directory, pages)
        return saver.finish()


class Saver:
    """Saves caches, one after the other, as one snapshot, which replaces that in `folder` once it is complete.

    What several caches hold is saved once. The former snapshot is valid until then, and stays if this fails, so both
    need to fit on the disk. Raises `DiskError` where it cannot be written.
    """

    def __init__(self, keys: BlockKeys, folder: Path):
        self._keys = keys
        self._folder = folder.resolve()  # Orbax takes absolute paths only
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._data = _new_data_folder(self._folder)
        self._saved: dict[str, SavedBlock] = {}  # by key, in hex
        self._orders: dict[str, SavedOrder] = {}
        self._num_chunks = 0
        self._num_bytes = 0
        self._skipped: set[bytes] = set()
        self._is_complete = False

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_complete:
            shutil.rmtree(self._data, ignore_errors=True)
            (self._folder / NEW_INDEX_NAME).unlink(missing_ok=True)

    def add(self, directory: BlockDirectory, pages: PageStore) -> None:
        """Saves what this cache holds and those before did not; call it from the thread that uses the directory."""
        ready = [block for block in directory.ready_blocks() if block.kind != BlockKind.INSTRUCTION]
        self._skipped |= {block.key for block in ready if is_inline(block.owner)}
        blocks = [block for block in ready if not is_inline(block.owner) and block.key.hex() not in self._saved]
        with writing(self._folder):
            for group in _chunks(blocks, CHUNK_BYTES // pages.format.page_bytes):
                with writing(self._data, ValueError):  # Orbax's word for it
                    saved = _save_chunk(pages, group, self._num_chunks, self._data / str(self._num_chunks))
                self._num_chunks += 1
                self._saved |= {block.key: block for block in saved}
        self._orders |= {order.key: order for order in _saved_orders(directory)}
        self._num_bytes += sum(len(block.pages) for block in blocks) * pages.format.page_bytes

    def finish(self) -> SnapshotReport:
        """Makes it the snapshot of the folder."""
        index = SnapshotIndex(
            identity=self._keys.identity,
            instruction=self._keys.instruction.hex(),
            data=self._data.name,
            blocks=list(self._saved.values()),
            orders=list(self._orders.values()),
        )
        with writing(self._folder):
            write_index(index, self._folder).replace(self._folder / INDEX_NAME)
            self._is_complete = True
            for other in _data_folders(self._folder):
                if other != self._data:
                    shutil.rmtree(other)
        return SnapshotReport(len(self._saved), self._num_bytes, num_skipped=len(self._skipped))


def _data_folders(folder: Path) -> list[Path]:
    return [path for path in folder.glob("kv-*") if path.name[3:].isdigit()]


def _new_data_folder(folder: Path) -> Path:
    last = max((int(path.name[3:]) for path in _data_folders(folder)), default=0)
    new = folder / f"kv-{last + 1}"
    new.mkdir()
    return new


def _chunks(blocks: Iterable[CachedBlock], max_pages: int) -> Iterator[list[CachedBlock]]:
    """Groups blocks in order, as many as `max_pages` hold and at least one."""
    group: list[CachedBlock] = []
    num_pages = 0
    for block in blocks:
        if group and num_pages + len(block.pages) > max_pages:
            yield group
            group, num_pages = [], 0
        group.append(block)
        num_pages += len(block.pages)
    if group:
        yield group


def _save_chunk(pages: PageStore, blocks: Sequence[CachedBlock], chunk: int, path: Path) -> list[SavedBlock]:
    values = pages.read_pages([page for block in blocks for page in block.pages])
    saved, start = [], 0
    for block in blocks:
        end = start + len(block.pages)
        last_len = block.num_tokens - (len(block.pages) - 1) * pages.format.page_tokens
        # The slots after a block's end still have what they held before, perhaps a deleted user's KV.
        for array in jax.tree.leaves(values):
            array[:, end - 1, last_len:] = 0
        entry = SavedBlock(
            key=block.key.hex(),
            kind=block.kind,
            owner=block.owner,
            token_ids=block.token_ids.tolist(),
            chunk=chunk,
            first_page=start,
            digest=digest_of_block(block.key, take_pages(values, slice(start, end))),
        )
        saved.append(entry)
        start = end
    arrays = {field.name: getattr(values, field.name) for field in fields(values)}
    ocp.save(path, {name: array for name, array in arrays.items() if array is not None})
    return saved


def _saved_orders(directory: BlockDirectory) -> list[SavedOrder]:
    saved = []
    for key, named in directory.orders().items():
        if not is_inline(named.owner):
            digest = digest_of_order(key, named.kind, named.owner, named.order)
            offsets = named.order.tolist()
            saved.append(SavedOrder(key=key.hex(), kind=named.kind, owner=named.owner, order=offsets, digest=digest))
    return saved
