"""Snapshots: a cache's blocks on disk, so that a restarted server starts with them.

    folder/index.json   what is saved, of which model, and where; replaced last, in one step
    folder/kv-<n>/<i>   chunk i as an Orbax checkpoint: `k` and `v`, each [L, W, C, K, H] for W pages

Not saved are the instruction, which every cache computes for itself, and content that came inline, which shall not
outlive the process. A snapshot still holds what was deleted after it was taken: save again after deleting users. It
holds their histories as token ids, so protect the folder as you would these.

Orbax does not notice a flipped byte, so each block has a digest. This finds damage; it cannot find forgery, since who
can write the folder can also write a digest.
"""

import hashlib
import itertools
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
from jaxtyping import Float

from rcjax.cache import CachedBlock, as_token_ids, block_key
from rcjax.cache.keys import TokenIds
from rcjax.cache.snapshot.index import INDEX_NAME, SavedBlock, SnapshotIndex, check_same, read_index, write_index
from rcjax.engine.block_cache import BlockCache
from rcjax.prompt import BlockKind

CHUNK_BYTES = 2**27  # of KV in a chunk, or one block if that is larger; saving and restoring hold two or three of them

_log = logging.getLogger(__name__)
_Pages = Float[np.ndarray, "L W C K H"]


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """What saving or restoring did, block by block; the instruction is not counted.

    `num_blocks` (and `num_bytes`, of their KV) were saved or restored. `num_skipped` were left out: inline content
    when saving, blocks that did not fit into the free pages when restoring. The others are of restoring only:
    `num_resident` had a block already, which stayed, and `corrupt` names those whose bytes are not what was saved.
    """

    num_blocks: int
    num_bytes: int
    num_skipped: int
    num_resident: int = 0
    corrupt: tuple[str, ...] = ()


# ---- saving


def save_cache(cache: BlockCache, folder: Path) -> SnapshotReport:
    """Saves the ready blocks of `cache`, replacing the snapshot in `folder`.

    Call it from the thread that uses the cache. The former snapshot is valid until the new one is complete, and stays
    if this fails, so both need to fit on the disk.
    """
    folder = folder.resolve()  # Orbax takes absolute paths only
    ready = [block for block in cache.directory.ready_blocks() if block.kind != BlockKind.INSTRUCTION]
    blocks = [block for block in ready if "\0" not in block.owner]
    folder.mkdir(parents=True, exist_ok=True)
    data = _new_data_folder(folder)
    try:
        saved = []
        for i, group in enumerate(_chunks(blocks, CHUNK_BYTES // _page_bytes(cache))):
            saved += _save_chunk(cache, group, i, data / str(i))
        key = cache.instruction_key.hex()
        new = write_index(SnapshotIndex(identity=cache.identity, instruction=key, data=data.name, blocks=saved), folder)
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        raise
    new.replace(folder / INDEX_NAME)
    for other in _data_folders(folder):
        if other != data:
            shutil.rmtree(other)
    num_bytes = sum(len(block.pages) for block in blocks) * _page_bytes(cache)
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


def _save_chunk(cache: BlockCache, blocks: Sequence[CachedBlock], chunk: int, path: Path) -> list[SavedBlock]:
    k, v = cache.slice.read_pages(page for block in blocks for page in block.pages)
    saved, start = [], 0
    for block in blocks:
        end = start + len(block.pages)
        last_len = block.num_tokens - (len(block.pages) - 1) * cache.identity.page_tokens
        # The slots after a block's end still have what they held before, perhaps a deleted user's KV.
        k[:, end - 1, last_len:] = v[:, end - 1, last_len:] = 0
        entry = SavedBlock(
            key=block.key.hex(),
            kind=block.kind,
            owner=block.owner,
            token_ids=block.token_ids.tolist(),
            chunk=chunk,
            first_page=start,
            digest=_digest(block.key, k[:, start:end], v[:, start:end], block.order),
            order=None if block.order is None else block.order.tolist(),
        )
        saved.append(entry)
        start = end
    ocp.save(path, {"k": k, "v": v})
    return saved


# ---- restoring


def restore_cache(cache: BlockCache, folder: Path) -> SnapshotReport:
    """Puts the blocks of the snapshot in `folder` into the free pages of `cache`, evicting and replacing nothing.

    Where they do not all fit, those saved last are taken (`ready_blocks` has the oldest first), and the others are not
    read. A corrupt block is refused and the others go in. Call it from the thread that uses the cache. Raises
    `NotFoundError` where there is no snapshot, `InvalidRequestError` where it is not readable or its KV is not what
    this cache would compute.
    """
    folder = folder.resolve()
    index = read_index(folder)
    check_same(cache.identity, cache.instruction_key, index)
    parent = cache.instruction_key
    corrupt, absent, num_resident = [], [], 0
    for block in index.blocks:
        if block_key(cache.identity, block.kind, block.owner, parent, block.token_ids).hex() != block.key:
            corrupt.append(block)
        elif cache.directory.current(block.kind, block.owner) is not None:
            num_resident += 1
        else:
            absent.append(block)
    chosen = _fitting(absent, cache.directory.pool.num_free, cache.identity.page_tokens)
    num_skipped = len(absent) - len(chosen)
    num_restored = num_pages = 0
    for chunk, group in itertools.groupby(chosen, lambda block: block.chunk):
        blocks = list(group)
        intact = _restore_chunk(cache, blocks, folder / index.data / str(chunk))
        keys = {block.key for block in intact}
        corrupt += [block for block in blocks if block.key not in keys]
        num_restored += len(intact)
        num_pages += sum(block.num_pages(cache.identity.page_tokens) for block in intact)
    names = tuple(str(block) for block in corrupt)
    return SnapshotReport(num_restored, num_pages * _page_bytes(cache), num_skipped, num_resident, names)


def _fitting(blocks: Sequence[SavedBlock], num_free: int, page_tokens: int) -> list[SavedBlock]:
    """Those that `num_free` pages hold, chosen from the last on, in the given order."""
    chosen = []
    for block in reversed(blocks):
        num_pages = block.num_pages(page_tokens)
        if num_pages <= num_free:
            num_free -= num_pages
            chosen.append(block)
    return chosen[::-1]


def _restore_chunk(cache: BlockCache, blocks: Sequence[SavedBlock], path: Path) -> list[SavedBlock]:
    """Makes the intact ones of `blocks` resident, and returns these."""
    pages = _load_chunk(cache, path)
    if pages is None:
        return []
    k, v = pages
    page_tokens = cache.identity.page_tokens
    intact, wanted = [], []
    for block in blocks:
        where = slice(block.first_page, block.first_page + block.num_pages(page_tokens))
        if _digest(bytes.fromhex(block.key), k[:, where], v[:, where], block.order) == block.digest:
            intact.append(block)
            wanted.append(np.arange(where.start, where.stop))
    if intact:
        index = np.concatenate(wanted)
        _install(cache, intact, k[:, index], v[:, index])
    return intact


def _load_chunk(cache: BlockCache, path: Path) -> tuple[_Pages, _Pages] | None:
    """K and V of a chunk; None, and a warning, where it cannot be read."""
    try:
        loaded = ocp.load(path)
        k, v = loaded["k"], loaded["v"]
        like = cache.slice.pages.k
        expected = (like.shape[0], k.shape[1], *like.shape[2:])
        if not (k.shape == v.shape == expected and k.dtype == v.dtype == like.dtype):
            raise ValueError(f"{k.dtype} of shape {k.shape} should be {like.dtype} of shape {expected}")
    except Exception as error:  # damage shows in as many ways as the format has parts
        _log.warning("snapshot chunk %s cannot be read: %r", path, error)
        return None
    return k, v


def _install(cache: BlockCache, blocks: Sequence[SavedBlock], k: _Pages, v: _Pages) -> None:
    directory = cache.directory
    reserved: list[CachedBlock] = []
    try:
        for block in blocks:
            cost = float(len(block.token_ids))
            key = bytes.fromhex(block.key)
            reserved.append(directory.reserve(key, block.kind, block.owner, block.token_ids, cost))
            if block.order is not None:
                directory.set_order(reserved[-1], block.order)
        cache.slice.write_pages([page for cached in reserved for page in cached.pages], k, v)
    except BaseException:
        for cached in reserved:
            directory.abort(cached)
        raise
    for cached in reserved:
        directory.commit(cached)
        directory.unpin(cached)


# ---- both


def _page_bytes(cache: BlockCache) -> int:
    return cache.slice.pages.num_bytes // cache.slice.pages.k.shape[1]


def _digest(key: bytes, k: _Pages, v: _Pages, order: TokenIds | None) -> str:
    """The SHA-256 over a block's key, its order where it has one, and its KV, as hex."""
    digest = hashlib.sha256(key)
    if order is not None:
        digest.update(as_token_ids(order).astype("<i4").tobytes())
    digest.update(k.tobytes())
    digest.update(v.tobytes())
    return digest.hexdigest()
