"""Saving a cache's blocks."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import jax
import orbax.checkpoint.experimental.v1 as ocp

from rcjax.cache.blocks import CachedBlock
from rcjax.cache.directory import BlockDirectory
from rcjax.cache.keys import BlockKeys
from rcjax.cache.snapshot.index import INDEX_NAME, NEW_INDEX_NAME, SavedBlock, SavedOrder, SnapshotIndex, write_index
from rcjax.cache.snapshot.store import (
    PageStore,
    SnapshotReport,
    digest_of_block,
    digest_of_order,
    is_inline,
    take_pages,
)
from rcjax.disk import writing
from rcjax.prompt import BlockKind

CHUNK_BYTES = 2**27  # of KV in a chunk, or one block if that is larger; saving and restoring hold two or three of them


def save_cache(directory: BlockDirectory, pages: PageStore, keys: BlockKeys, folder: Path) -> SnapshotReport:
    """Saves the ready blocks and the orders of `directory`, replacing the snapshot in `folder`.

    Call it from the thread that uses the directory. The former snapshot is valid until the new one is complete, and
    stays if this fails, so both need to fit on the disk. Raises `DiskError` where it cannot be written.
    """
    folder = folder.resolve()  # Orbax takes absolute paths only
    with writing(folder):
        return _save(directory, pages, keys, folder)


def _save(directory: BlockDirectory, pages: PageStore, keys: BlockKeys, folder: Path) -> SnapshotReport:
    ready = [block for block in directory.ready_blocks() if block.kind != BlockKind.INSTRUCTION]
    blocks = [block for block in ready if not is_inline(block.owner)]
    folder.mkdir(parents=True, exist_ok=True)
    data = _new_data_folder(folder)
    try:
        saved = []
        for i, group in enumerate(_chunks(blocks, CHUNK_BYTES // pages.format.page_bytes)):
            with writing(data, ValueError):  # Orbax's word for it
                saved += _save_chunk(pages, group, i, data / str(i))
        index = SnapshotIndex(
            identity=keys.identity,
            instruction=keys.instruction.hex(),
            data=data.name,
            blocks=saved,
            orders=_saved_orders(directory),
        )
        new = write_index(index, folder)
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        (folder / NEW_INDEX_NAME).unlink(missing_ok=True)
        raise
    new.replace(folder / INDEX_NAME)
    for other in _data_folders(folder):
        if other != data:
            shutil.rmtree(other)
    num_bytes = sum(len(block.pages) for block in blocks) * pages.format.page_bytes
    return SnapshotReport(len(blocks), num_bytes, num_skipped=len(ready) - len(blocks))


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
