"""Build passes: which blocks one pass computes, and the arrays for it."""

from collections.abc import Iterable

import numpy as np

from rcjax.engine.assembly import Row, Source, assemble
from rcjax.engine.claim import Build
from rcjax.engine.packing import side_by_side
from rcjax.engine.shape import RowSize, Shape, ShapeSet
from rcjax.model.decoder import Batch
from rcjax.prompt import Block


class BuildPasses:
    """Packs builds into one row of a pass, each block in a segment of its own, and says where their KV goes.

    `instruction_pages` is empty until the instruction itself has been computed.
    """

    def __init__(self, shapes: ShapeSet, instruction: Block, page_tokens: int):
        self.page_tokens = page_tokens
        self.instruction_pages: tuple[int, ...] = ()
        self.largest = max(shapes, key=lambda shape: shape.fresh_tokens)
        self._shapes = shapes
        self._instruction = instruction

    def can_extend(self, num_fresh: int, num_cached_pages: int) -> bool:
        """Whether one pass can compute `num_fresh` tokens that follow a block of so many pages."""
        num_pages = num_cached_pages + len(self.instruction_pages)
        return any(shape.holds(_size(num_fresh, num_pages)) for shape in self._shapes)

    def pack(self, group: list[Build], builds: Iterable[Build], shape: Shape) -> list[Build]:
        """`group`, and of `builds`, in order, those that one row of `shape` holds beside it; at least one in all."""
        packed = list(group)
        num_tokens, num_written, num_pages = self._size(packed)
        for build in builds:
            own_tokens, own_written, own_pages = self._size([build])
            own_pages -= len(self.instruction_pages)
            tokens = self._least_tokens(num_tokens + own_tokens, num_written + own_written)
            if packed and not shape.holds(_size(tokens, num_pages + own_pages)):
                if tokens - self._least_tokens(num_tokens, num_written) <= self.page_tokens:
                    break  # the row is as good as full: no need to look at the thousand others
                continue
            packed.append(build)
            num_tokens += own_tokens
            num_written += own_written
            num_pages += own_pages
        return packed

    def fit(self, group: list[Build]) -> Shape:
        num_tokens, num_written, num_pages = self._size(group)
        return self._shapes.fit([_size(self._least_tokens(num_tokens, num_written), num_pages)])

    def _size(self, group: list[Build]) -> tuple[int, int, int]:
        """Tokens to compute, pages to write, and pages to read."""
        num_tokens = sum(build.num_fresh for build in group)
        num_written = sum(len(self._written_pages(build)) for build in group)
        grown = sum(self._pages_for(build.num_cached) for build in group)
        return num_tokens, num_written, len(self.instruction_pages) + grown

    def _least_tokens(self, num_tokens: int, num_written: int) -> int:
        """The fewest fresh tokens of a shape that can compute so many and write so many pages."""
        return max(num_tokens, ((num_written + 1) // 2 - 1) * self.page_tokens + 1)

    def _written_pages(self, build: Build) -> tuple[int, ...]:
        return tuple(build.cached.pages)[build.num_cached // self.page_tokens :]

    def no_writes(self, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
        """The source and destination of a build pass of this shape that writes nothing.

        It can write twice the pages that its tokens fill, as blocks leave their last page partly so.
        """
        num = 2 * self._pages_for(shape.fresh_tokens)
        return np.full((num, self.page_tokens), -1, np.int32), np.zeros(num, np.int32)

    def _row(self, group: list[Build]) -> tuple[Row, list[tuple[int, ...]]]:
        """The instruction, then the blocks side by side: each sees the instruction and itself."""
        blocks: list[Block] = []
        sources: dict[int, Source] = {}
        table: list[tuple[int, ...]] = []
        if self.instruction_pages:
            blocks.append(self._instruction)
            sources[0] = Source(len(self._instruction))
            table.append(self.instruction_pages)
        start = blocks[0].end if blocks else 0
        for index, build in enumerate(group, start=len(blocks)):
            if build.num_cached:
                sources[index] = Source(build.num_cached)
                table.append(tuple(build.cached.pages)[: self._pages_for(build.num_cached)])
        # Not at `block.start`: that is where a prompt puts it, and KV is kept as computed after the instruction.
        blocks += side_by_side([build.block for build in group], start)
        return Row(blocks, sources, (), self.page_tokens), table

    def arrays(self, group: list[Build]) -> tuple[Batch, np.ndarray, np.ndarray, Shape]:
        """The batch of a build pass, which token goes to which slot of which page, and the shape."""
        row, table = self._row(group)
        shape = self.fit(group)
        batch = assemble([row], [table], shape, self.page_tokens, 1)
        source, destination = self.no_writes(shape)
        at = token = 0
        for build in group:
            slots = np.full(len(build.cached.pages) * self.page_tokens, -1, np.int32)
            slots[build.num_cached : len(build.block)] = token + np.arange(build.num_fresh)
            pages = self._written_pages(build)
            source[at : at + len(pages)] = slots.reshape(-1, self.page_tokens)[-len(pages) :]
            destination[at : at + len(pages)] = pages
            at += len(pages)
            token += build.num_fresh
        return batch, source, destination, shape

    def _pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_tokens)


def _size(fresh_tokens: int, num_pages: int) -> RowSize:
    return RowSize(fresh_tokens, num_pages, is_moved=False)  # blocks are computed at home
