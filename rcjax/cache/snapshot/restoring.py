"""Restoring a cache's blocks."""

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orbax.checkpoint.experimental.v1 as ocp

from rcjax.cache.blocks import BlockState, CachedBlock
from rcjax.cache.directory import BlockDirectory
from rcjax.cache.keys import BlockKeys, as_token_ids
from rcjax.cache.saved import digest_of_block, take_pages
from rcjax.cache.snapshot.index import SavedBlock, SavedOrder, check_same, read_index
from rcjax.cache.snapshot.store import PageStore, SnapshotReport, digest_of_order
from rcjax.kernels.kv import KVPages

_log = logging.getLogger(__name__)


def restore_cache(
    directory: BlockDirectory,
    pages: PageStore,
    keys: BlockKeys,
    folder: Path,
    build_s: Callable[[int], float],
    is_wanted: Callable[[str, str], bool] = lambda kind, owner: True,
) -> SnapshotReport:
    """Puts the blocks of the snapshot in `folder` into free pages of `directory`, evicting and replacing nothing.

    `build_s` says how many seconds it takes here to compute a block of so many tokens, and `is_wanted` whether the
    block of a kind and owner belongs here; the others count nowhere. Where those that are wanted do not all
    fit, those saved last are taken (the ones used last), and the others are not read. A corrupt block is refused and
    the others go in. Call it from the thread that uses the directory. Raises `NotFoundError` where there is no
    snapshot, `InvalidRequestError` where it is not readable or its KV is not what this cache would compute.
    """
    folder = folder.resolve()
    index = read_index(folder)
    check_same(keys.identity, keys.instruction, index)
    corrupt: list[SavedBlock | SavedOrder] = []
    absent, num_present = [], 0
    for block in index.blocks:
        if not is_wanted(block.kind, block.owner):
            continue
        if keys.key(block.kind, block.owner, as_token_ids(block.token_ids)).hex() != block.key:
            corrupt.append(block)
        elif directory.current(block.kind, block.owner) is not None:
            num_present += 1
        else:
            absent.append(block)
    chosen = _fitting(absent, directory.pool.num_free, pages.format.page_tokens)
    restorer = _Restorer(directory, pages, build_s)
    for chunk, group in itertools.groupby(chosen, lambda block: block.chunk):
        blocks = list(group)
        intact = restorer.restore_chunk(blocks, folder / index.data / str(chunk))
        found = {block.key for block in intact}
        corrupt += [block for block in blocks if block.key not in found]
    corrupt += _restore_orders(directory, [order for order in index.orders if is_wanted(order.kind, order.owner)])
    num_skipped = len(absent) - len(chosen) + restorer.num_outdated
    num_bytes = restorer.num_pages * pages.format.page_bytes
    return SnapshotReport(restorer.num_blocks, num_bytes, num_skipped, num_present, tuple(map(str, corrupt)))


def _fitting(blocks: Sequence[SavedBlock], num_free: int, page_tokens: int) -> list[SavedBlock]:
    """Those that `num_free` pages hold, chosen from the last on, in the given order."""
    chosen = []
    for block in reversed(blocks):
        num_pages = block.num_pages(page_tokens)
        if num_pages <= num_free:
            num_free -= num_pages
            chosen.append(block)
    return chosen[::-1]


@dataclass
class _Restorer:
    """Puts blocks into the directory, chunk by chunk, and counts."""

    directory: BlockDirectory
    pages: PageStore
    build_s: Callable[[int], float]
    num_blocks: int = 0
    num_pages: int = 0
    num_outdated: int = 0  # deleted, or written anew, so lately that a plan from before may still live

    def restore_chunk(self, blocks: Sequence[SavedBlock], path: Path) -> list[SavedBlock]:
        """Makes the intact ones of `blocks` ready, and returns these."""
        values = _load_chunk(self.pages, path)
        if values is None:
            return []
        intact, wanted = [], []
        for block in blocks:
            where = slice(block.first_page, block.first_page + block.num_pages(self.pages.format.page_tokens))
            if digest_of_block(bytes.fromhex(block.key), take_pages(values, where)) == block.digest:
                intact.append(block)
                wanted.append(np.arange(where.start, where.stop))
        if intact:
            self._install(intact, take_pages(values, np.concatenate(wanted)))
        return intact

    def _install(self, blocks: Sequence[SavedBlock], values: KVPages) -> None:
        reserved: list[CachedBlock] = []
        try:
            for block in blocks:
                key, cost = bytes.fromhex(block.key), self.build_s(len(block.token_ids))
                reserved.append(self.directory.reserve(key, block.kind, block.owner, block.token_ids, cost))
            self.pages.write_pages([page for cached in reserved for page in cached.pages], values)
        except BaseException:
            for cached in reserved:
                self.directory.abort(cached)
            raise
        for cached in reserved:
            self.directory.commit(cached)
            if cached.state is BlockState.READY:
                self.num_blocks += 1
                self.num_pages += len(cached.pages)
            else:
                self.num_outdated += 1
            self.directory.unpin(cached)


def _load_chunk(pages: PageStore, path: Path) -> KVPages | None:
    """The pages of a chunk; None, and a warning, where it cannot be read."""
    try:
        values = KVPages(**ocp.load(path))
        pages.format.check(values)
    except Exception as error:  # damage shows in as many ways as the format has parts
        _log.warning("snapshot chunk %s cannot be read: %r", path, error)
        return None
    return values


def _restore_orders(directory: BlockDirectory, orders: Sequence[SavedOrder]) -> list[SavedOrder]:
    """Puts the intact orders in, where their items or users have none, and returns the others."""
    corrupt = []
    for saved in orders:
        order = as_token_ids(saved.order)
        try:
            key = bytes.fromhex(saved.key)
            if digest_of_order(key, saved.kind, saved.owner, order) != saved.digest:
                raise ValueError("the digest is of another order")
            directory.put_order(key, saved.kind, saved.owner, order)
        except ValueError:
            corrupt.append(saved)
    return corrupt
