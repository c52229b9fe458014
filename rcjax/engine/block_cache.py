"""The block cache: finds the blocks that prompts need, and computes those that miss."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from rcjax.cache import BlockBusyError, BlockDirectory, CachedBlock, PoolIdentity, PoolStats, block_key
from rcjax.engine.assembly import Row, Source, assemble
from rcjax.engine.executor import Slice
from rcjax.engine.shape import Shape, ShapeSet
from rcjax.prompt import Block, BlockKind

FILL_BLOCKS = 64  # pinned at once while a catalogue is put
NOTHING = np.zeros(0, np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class _Build:
    """A reserved block whose tokens from `num_cached` on are still to be computed."""

    block: Block
    cached: CachedBlock
    num_cached: int = 0

    @property
    def num_fresh(self) -> int:
        return len(self.block) - self.num_cached


class BlockCache:
    """Blocks of one slice, by content. Every block but the instruction is computed right after the instruction.

    One thread uses it. Missing blocks are packed side by side into one row of a pass, each in a segment of its
    own, so computing them costs their tokens and no padding but the row's.
    """

    def __init__(
        self,
        slice_: Slice,
        directory: BlockDirectory,
        identity: PoolIdentity,
        build_shapes: ShapeSet,
        instruction: Block,
    ):
        self.slice = slice_
        self.directory = directory
        self.identity = identity
        self._shapes = build_shapes
        self._page_tokens = directory.pool.page_tokens
        self._instruction = instruction
        self.instruction_key = b""
        self._instruction_block: CachedBlock | None = None
        with ExitStack() as stack:
            (self._instruction_block,), _ = self._resolve([instruction], stack)
            self.directory.pin(self._instruction_block)  # for as long as this cache lives
        self.instruction_key = self._instruction_block.key

    def key(self, block: Block) -> bytes:
        """The content key of a block as this cache holds it."""
        parent = b"" if block.kind is BlockKind.INSTRUCTION else self.instruction_key
        return block_key(self.identity, block.kind, block.owner, parent, block.token_ids)

    def current(self, block: Block) -> CachedBlock | None:
        """The block as it is cached now, if it is; neither a hit nor a miss."""
        cached = self.directory.current(block.kind, block.owner)
        return cached if cached is not None and cached.key == self.key(block) else None

    @contextmanager
    def resident(self, blocks: Sequence[Block]) -> Iterator[tuple[list[CachedBlock], list[int]]]:
        """The cached blocks of `blocks`, pinned for the length of a `with`; those that miss are computed first.

        Also yields how many tokens were computed for each, which is 0 for one asked for before. Raises
        `ResourceExhaustedError`, leaving nothing pinned, when the pool cannot hold all of them at once.
        """
        with ExitStack() as stack:
            yield self._resolve(blocks, stack)

    def fill(self, blocks: Sequence[Block]) -> int:
        """Computes the blocks that miss, at most `FILL_BLOCKS` at a time; returns how many missed.

        Where the pool cannot hold all of them, the last ones stay.
        """
        before = self.directory.stats().num_misses
        group: list[Block] = []
        num_pages = 0
        for block in blocks:
            more = self.directory.pool.pages_for(len(block))
            if len(group) == FILL_BLOCKS or (group and num_pages + more > self.directory.num_available_pages):
                with self.resident(group):
                    group, num_pages = [], 0
            group.append(block)
            num_pages += more
        with self.resident(group):
            return self.directory.stats().num_misses - before

    def grow(self, former: Block, block: Block) -> None:
        """Makes `block` resident by extending the cached `former`, whose tokens it starts with, where it can."""
        current = self.current(former)
        if current is None or not self._can_extend(current, block):
            with self.resident([block]):
                return
        self.directory.pin(current)
        try:
            grown = self.directory.grow(current, self.key(block), block.token_ids, float(len(block)))
        except BlockBusyError:
            self.directory.unpin(current)
            with self.resident([block]):
                return
        except BaseException:
            self.directory.unpin(current)
            raise
        self._compute([_Build(block, grown, len(former))])
        self.directory.unpin(grown)

    def _can_extend(self, current: CachedBlock, block: Block) -> bool:
        """Whether `block` starts with the tokens of `current` and one pass can compute the others after these."""
        num_fresh = len(block) - current.num_tokens
        if num_fresh <= 0 or not np.array_equal(block.token_ids[: current.num_tokens], current.token_ids):
            return False
        num_pages = len(current.pages) + self.directory.pool.pages_for(len(self._instruction))
        return any(shape.holds(num_fresh, num_pages) for shape in self._shapes)

    def drop(self, kind: BlockKind, owner: str) -> bool:
        """Forgets a block, so that its KV can never be read again; whether there was one."""
        return self.directory.drop(kind, owner)

    def stats(self) -> PoolStats:
        return self.directory.stats()

    def _resolve(self, blocks: Sequence[Block], stack: ExitStack) -> tuple[list[CachedBlock], list[int]]:
        """Looks all blocks up, computes those that miss, and leaves each pinned through `stack`."""
        keys = [self.key(block) for block in blocks]
        found: dict[bytes, CachedBlock] = {}
        missing: dict[bytes, Block] = {}
        for key, block in zip(keys, blocks, strict=True):
            if key in found or key in missing:
                continue
            cached = self.directory.lookup(key, block.token_ids)
            if cached is None:
                missing[key] = block
                continue
            self.directory.pin(cached)
            stack.callback(self.directory.unpin, cached)
            found[key] = cached
        found |= self._build(missing, stack)
        return [found[key] for key in keys], [len(missing.pop(key, ())) for key in keys]

    def _build(self, missing: dict[bytes, Block], stack: ExitStack) -> dict[bytes, CachedBlock]:
        builds: dict[bytes, _Build] = {}
        try:
            for key, block in missing.items():
                cost = float(len(block))
                cached = self.directory.reserve(key, block.kind, block.owner, block.token_ids, cost)
                builds[key] = _Build(block, cached)
        except BaseException:
            for build in builds.values():
                self.directory.abort(build.cached)
            raise
        self._compute(list(builds.values()))
        for build in builds.values():
            stack.callback(self.directory.unpin, build.cached)
        return {key: build.cached for key, build in builds.items()}

    def _compute(self, builds: Sequence[_Build]) -> None:
        """Computes and commits the builds, pass by pass; after a failure none stays reserved or pinned."""
        pending = list(builds)
        try:
            for group in self._pack(builds):
                self._run(group)
                for build in group:
                    self.directory.commit(build.cached)
                    pending.remove(build)
        except BaseException:
            for build in builds:
                give_up = self.directory.abort if build in pending else self.directory.unpin
                give_up(build.cached)
            raise

    def _pack(self, builds: Sequence[_Build]) -> Iterator[list[_Build]]:
        """Groups builds in order so that each group fits one row of the largest build shape."""
        largest = self._shapes.shapes[-1]
        group: list[_Build] = []
        for build in builds:
            row = self._row([*group, build])
            if group and not largest.holds(self._num_tokens([*group, build]), row.num_pages):
                yield group
                group = []
            group.append(build)
        if group:
            yield group

    def _num_writes(self, shape: Shape) -> int:
        """Pages that a build pass can write: twice what its tokens fill, as blocks leave their last page partly so."""
        return 2 * self.directory.pool.pages_for(shape.fresh_tokens)

    def _num_tokens(self, builds: Sequence[_Build]) -> int:
        """The fewest fresh tokens of a shape that can compute these builds and write all their pages."""
        num_written = sum(len(self._written_pages(build)) for build in builds)
        enough_writes = ((num_written + 1) // 2 - 1) * self._page_tokens + 1
        return max(enough_writes, sum(build.num_fresh for build in builds))

    def _written_pages(self, build: _Build) -> tuple[int, ...]:
        return build.cached.pages[build.num_cached // self._page_tokens :]

    def no_writes(self, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
        """The source and destination of a build pass of this shape that writes nothing."""
        num = self._num_writes(shape)
        return np.full((num, self._page_tokens), -1, np.int32), np.zeros(num, np.int32)

    def _row(self, builds: Sequence[_Build]) -> Row:
        """The instruction, then the blocks side by side: each sees the instruction and itself."""
        blocks: list[Block] = []
        sources: dict[int, Source] = {}
        if self._instruction_block is not None:
            blocks.append(self._instruction)
            sources[0] = Source(self._instruction_block.pages, len(self._instruction), NOTHING)
        start = blocks[0].end if blocks else 0
        for i, build in enumerate(builds):
            block = build.block
            if build.num_cached:
                pages = build.cached.pages[: self.directory.pool.pages_for(build.num_cached)]
                sources[len(blocks)] = Source(pages, build.num_cached, NOTHING)
            # Not `block.start`: that is where a prompt puts it, and KV is kept as computed after the instruction.
            blocks.append(Block(block.kind, block.token_ids, start, 1 + i, 1, block.owner))
        return Row(blocks, sources)

    def _run(self, builds: Sequence[_Build]) -> None:
        row = self._row(builds)
        shape = self._shapes.fit(self._num_tokens(builds), row.num_pages)
        batch = assemble([row], shape, self._page_tokens, 1)
        source, destination = self.no_writes(shape)
        at = token = 0
        for build in builds:
            slots = np.full(len(build.cached.pages) * self._page_tokens, -1, np.int32)
            slots[build.num_cached : len(build.block)] = token + np.arange(build.num_fresh)
            pages = self._written_pages(build)
            source[at : at + len(pages)] = slots.reshape(-1, self._page_tokens)[-len(pages) :]
            destination[at : at + len(pages)] = pages
            at += len(pages)
            token += build.num_fresh
        self.slice.build(batch, source, destination)
