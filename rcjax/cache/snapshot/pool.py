"""The pool of one slice as snapshots see it: listed, read and filled in pieces, between the passes of its owner."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int32

from rcjax.cache.blocks import BlockState, CachedBlock, ListedBlock
from rcjax.cache.directory import BlockDirectory
from rcjax.cache.pages import NOWHERE
from rcjax.cache.saved import take_pages
from rcjax.cache.snapshot.segments import SavedBlock
from rcjax.cache.versions import Name
from rcjax.kernels.kv import KVFormat, KVPages
from rcjax.prompt import Owner

PIECE_PAGES = 16  # read or written between two passes, or one block's if those are more: one gather or scatter
PIECE_SLOTS = 512  # listed, or moved in the order of use, between two passes: about a millisecond

T = TypeVar("T")


@runtime_checkable
class PageStore(Protocol):
    """Where the pages of a directory are (`rcjax.engine.executor.Executor`)."""

    @property
    def format(self) -> KVFormat: ...

    def start_read(self, pages: Sequence[int], /) -> Sequence[KVPages]:
        """Copies of pages as they are now, perhaps not ready yet, in parts of which the last may have more."""
        ...

    def host_parts(self, num_pages: int, /) -> Sequence[KVPages]:
        """Such parts on the host with room for so many pages, to be filled."""
        ...

    def bring(self, parts: Sequence[KVPages], /) -> Sequence[KVPages]:
        """Parts of the host where the pages are; blocks. Any thread may call it, and changes the parts no more."""
        ...

    def start_write(self, pages: Sequence[int], parts: Sequence[KVPages], /) -> None:
        """Overwrites pages; `NOWHERE` is the page of what is not wanted."""
        ...


@dataclass(frozen=True, slots=True)
class ReadBlock:
    """A block on the host."""

    key: bytes
    kind: str
    owner: Owner
    token_ids: Int32[np.ndarray, "S"]
    pages: KVPages


@dataclass(slots=True)
class Installed:
    """How many blocks became ready, and their pages; had a block there already; did not fit or were overtaken."""

    num_blocks: int = 0
    num_pages: int = 0
    num_present: int = 0
    num_skipped: int = 0

    def __iadd__(self, other: "Installed") -> "Installed":
        self.num_blocks += other.num_blocks
        self.num_pages += other.num_pages
        self.num_present += other.num_present
        self.num_skipped += other.num_skipped
        return self


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """A directory and its pages, which one thread owns: `run` has it call something short, and returns what that gives.

    `build_s` says how many seconds it takes to compute a block of so many tokens again.
    """

    directory: BlockDirectory
    pages: PageStore
    build_s: Callable[[int], float]
    run: Callable[[Callable[[], T]], T]

    def listed(self) -> Iterator[list[ListedBlock]]:
        """The ready blocks, some at a time; what changes meanwhile may be in or not."""
        start = 0
        while (some := self.run(partial(self.directory.list_slots, start, start + PIECE_SLOTS))) is not None:
            yield some
            start += PIECE_SLOTS

    def read(self, keys: Sequence[bytes]) -> list[ReadBlock]:
        """Those of the blocks that are still ready; waits for the copy, the owner does not."""

        def begin() -> tuple[list[tuple[bytes, str, Owner, np.ndarray, int]], Sequence[KVPages]]:
            found = [block for key in keys if (block := self.directory.by_key(key)) is not None]
            parts = self.pages.start_read([page for block in found for page in block.pages])
            return [(one.key, one.kind, one.owner, one.token_ids, len(one.pages)) for one in found], parts

        found, parts = self.run(begin)
        if not found:
            return []
        joined = jax.tree.map(lambda *arrays: np.concatenate([np.asarray(one) for one in arrays], axis=1), *parts)
        blocks, at = [], 0
        for key, kind, owner, token_ids, num_pages in found:
            blocks.append(ReadBlock(key, kind, owner, token_ids, take_pages(joined, slice(at, at + num_pages))))
            at += num_pages
        return blocks

    def holds(self, names: Sequence[Name]) -> list[bool]:
        """Of each item or user (kind and owner) whether a block of it is ready, whatever its content."""

        def held(some: Sequence[Name]) -> list[bool]:
            return [self.directory.current(*name) is not None for name in some]

        pieces = (names[at : at + PIECE_SLOTS] for at in range(0, len(names), PIECE_SLOTS))
        return [is_held for piece in pieces for is_held in self.run(partial(held, piece))]

    def install(
        self, blocks: Sequence[SavedBlock], is_intact: Sequence[bool], host_parts: Sequence[KVPages], version: int
    ) -> Installed:
        """Makes those blocks ready that are intact, in free pages; evicts and replaces nothing.

        The pages of all blocks lie in `host_parts`, one after another.
        """
        parts = self.pages.bring(host_parts)

        def place() -> Installed:
            done = Installed()
            reserved: list[CachedBlock] = []
            numbers: list[int] = []
            try:
                for block, intact in zip(blocks, is_intact, strict=True):
                    cached = self._reserved(block, version, done) if intact else None
                    numbers += [NOWHERE] * block.num_pages if cached is None else cached.pages
                    if cached is not None:
                        reserved.append(cached)
                self.pages.start_write(numbers, parts)
            except BaseException:
                for cached in reserved:
                    self.directory.abort(cached)
                raise
            for cached in reserved:
                self._make_ready(cached, done)
            return done

        return self.run(place)

    def _reserved(self, block: SavedBlock, version: int, done: Installed) -> CachedBlock | None:
        directory, key = self.directory, bytes.fromhex(block.key)
        if directory.is_known(key) or directory.current(block.kind, block.owner) is not None:
            done.num_present += 1
            return None
        if directory.pool.num_free < block.num_pages:
            done.num_skipped += 1
            return None
        token_ids = block.token_ids
        return directory.reserve(key, block.kind, block.owner, token_ids, self.build_s(len(token_ids)), version)

    def _make_ready(self, cached: CachedBlock, done: Installed) -> None:
        self.directory.commit(cached)
        if cached.state is BlockState.READY:
            done.num_blocks += 1
            done.num_pages += len(cached.pages)
        else:
            done.num_skipped += 1  # deleted, or written anew, so lately that a plan from before may still live
        self.directory.unpin(cached)

    def use(self, keys: Sequence[bytes]) -> None:
        """Counts those that are ready as just used, in this order."""

        def touch(some: Sequence[bytes]) -> None:
            for key in some:
                block = self.directory.by_key(key)
                if block is not None:
                    self.directory.pin(block)
                    self.directory.unpin(block)

        for at in range(0, len(keys), PIECE_SLOTS):
            self.run(partial(touch, keys[at : at + PIECE_SLOTS]))
