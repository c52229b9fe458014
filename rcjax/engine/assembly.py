"""Assembly: from blocks, and the pages that hold some of them, to the arrays of one forward pass.

Everything here is NumPy on the host. What does not depend on pages is worked out once per row (`Row.layout`), which the
planner does before the request waits anywhere; a pass then only copies rows and their page numbers into a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Int32

from rcjax.engine.own_pages import OwnPages, own_pages
from rcjax.engine.shape import RowSize, Shape
from rcjax.kernels.selective_attention import PageLayout, TileLayout, TokenLayout
from rcjax.model.decoder import Batch
from rcjax.prompt import Block, BlockKind

NOTHING = np.zeros(0, np.int32)
_AT_HOME = (BlockKind.HISTORY, BlockKind.ITEM)  # computed right after the instruction, wherever a prompt has them
_RANGE = np.arange(2**14, dtype=np.int32)  # a slice of it costs a tenth of a new range; nothing writes to it
_RANGE.flags.writeable = False


def _offsets(start: int, stop: int) -> Int32[np.ndarray, "n"]:
    return _RANGE[start:stop] if stop <= len(_RANGE) else np.arange(start, stop, dtype=np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What the cache has of a block: its first `num_cached` tokens; the rest is computed fresh.

    `selected` holds offsets below `num_cached` that are computed again; their cached KV is not looked at. With
    `is_corrected` that has been done, and another block of the row holds the outcome. An item or a history was computed
    right after the instruction, unless its KV is `in_place`: computed where this row has the block.
    """

    num_cached: int
    selected: np.ndarray = field(default_factory=lambda: NOTHING)
    is_corrected: bool = False
    in_place: bool = False

    @property
    def is_read(self) -> bool:
        """Whether the pass reads its pages: not where every cached token is computed again."""
        return len(self.selected) < self.num_cached


@dataclass(frozen=True, eq=False)
class RowLayout:
    """A row as arrays: T fresh tokens, and M pages of which only the numbers are missing.

    `drops` are the (page, slot) of cached tokens that are selected, `last` where each readout block's last token went.
    """

    fresh: Int32[np.ndarray, "4 T"]  # token id, position, segment, horizon
    pages: Int32[np.ndarray, "4 M"]  # position, length, segment, shift
    drops: tuple[np.ndarray, np.ndarray]
    last: list[int]
    is_moved: bool

    @cached_property
    def own(self) -> OwnPages:
        return own_pages(self.fresh[2:], self.pages[2])


@dataclass(frozen=True, eq=False)
class Row:
    """One row of a forward pass: blocks in prompt order, sources by block index, and blocks to read out."""

    blocks: Sequence[Block]
    sources: Mapping[int, Source]
    readouts: Sequence[int]
    page_tokens: int

    @cached_property
    def home(self) -> int:
        """Where items and histories were computed: right after the instruction."""
        first = self.blocks[0] if self.blocks else None
        return first.end if first is not None and first.kind is BlockKind.INSTRUCTION else 0

    @property
    def num_pages(self) -> int:
        return self.layout.pages.shape[1]

    @property
    def num_fresh(self) -> int:
        """Tokens that the pass computes, selected ones included."""
        return self.layout.fresh.shape[1]

    @cached_property
    def size(self) -> RowSize:
        """What a pass has to have for it; the batch former asks for every shape."""
        layout = self.layout
        own = () if layout.is_moved else layout.own.sizes  # shapes with tiles turn no keys
        return RowSize(layout.fresh.shape[1], layout.pages.shape[1], own, layout.is_moved)

    @property
    def num_selected(self) -> int:
        return sum(len(source.selected) for source in self.sources.values() if not source.is_corrected)

    @property
    def num_cached(self) -> int:
        """Cached tokens that are used as they are."""
        return sum(source.num_cached - len(source.selected) for source in self.sources.values())

    def shift(self, index: int) -> int:
        """How far from where it was computed the row has the index-th block, one of `sources`."""
        block = self.blocks[index]
        return 0 if self.sources[index].in_place or block.kind not in _AT_HOME else block.start - self.home

    def fresh_offsets(self, index: int) -> np.ndarray:
        """Which tokens of the index-th block the pass computes."""
        length = len(self.blocks[index].token_ids)
        source = self.sources.get(index)
        if source is None:
            return _offsets(0, length)
        beyond = _offsets(source.num_cached, length)
        if source.is_corrected or not len(source.selected):
            return beyond
        return np.concatenate([source.selected, beyond]) if len(beyond) else source.selected

    @cached_property
    def layout(self) -> RowLayout:
        fresh, last = _lay_out_fresh(self)
        pages, drops, is_moved = _lay_out_pages(self)
        return RowLayout(fresh, pages, drops, last, is_moved)


def assemble(
    rows: Sequence[Row], tables: Sequence[Sequence[Sequence[int]]], shape: Shape, page_tokens: int, num_reads: int
) -> Batch:
    """Lays `rows` out as one batch of `shape`, padded; a row beyond the given ones sees and reads nothing.

    `tables[b]` has the pages of each source of row b, in the order of `sources`: as many as its cached tokens fill. The
    last token of each readout block is read; it must be computed fresh.
    """
    batch = shape.batch
    fresh = np.zeros((4, batch, shape.fresh_tokens), np.int32)
    fresh[1] = -1
    # Of each page: number, position, length, segment, shift. Those of tiles come after those that all may see.
    num_pages = shape.num_pages + shape.tiles * shape.tile_pages
    cached = np.zeros((5, batch, num_pages), np.int32)
    drop = np.zeros((batch, num_pages, page_tokens), bool)
    read = np.zeros((batch, num_reads), np.int32)
    queries = np.full((batch, shape.tiles * shape.tile_tokens), -1, np.int32)
    for b, (row, table) in enumerate(zip(rows, tables, strict=True)):
        layout = row.layout
        fresh[:, b, : layout.fresh.shape[1]] = layout.fresh
        where: Any = slice(0, layout.pages.shape[1])
        if shape.tiles:
            where, place, token = layout.own.places(shape)
            queries[b, place] = token
        cached[1:, b, where] = layout.pages
        numbers = chain.from_iterable(
            pages for source, pages in zip(row.sources.values(), table, strict=True) if source.is_read
        )
        cached[0, b, where] = np.fromiter(numbers, np.int32, layout.pages.shape[1])
        page, slot = layout.drops
        if len(page):
            drop[b, page if isinstance(where, slice) else where[page], slot] = True
        read[b, : len(layout.last)] = layout.last
    ids, pos, segment, horizon = fresh
    shared = _page_layout(cached[..., : shape.num_pages], drop[:, : shape.num_pages], shape)
    tiles = None
    if shape.tiles:
        grid = (batch, shape.tiles, shape.tile_pages)
        own = _page_layout(
            cached[..., shape.num_pages :].reshape(5, *grid), drop[:, shape.num_pages :].reshape(*grid, -1), shape
        )
        tiles = TileLayout(queries.reshape(batch, shape.tiles, shape.tile_tokens), own)
    return Batch(ids, TokenLayout(pos, segment, horizon), shared, read, tiles)


def _page_layout(cached: np.ndarray, drop: np.ndarray, shape: Shape) -> PageLayout:
    number, position, length, segment, shift = cached
    return PageLayout(number, position, length, segment, drop, None if shape.at_home else shift)


def _lay_out_fresh(row: Row) -> tuple[np.ndarray, list[int]]:
    """The row's fresh tokens, and where the last one of each readout block stands."""
    own: list[np.ndarray] = []  # of each run of fresh tokens: which tokens of its block
    lengths: list[int] = []
    places: list[int] = []  # of each run: tokens of the row's blocks before it, first position, segment, horizon
    ends: list[int] = []
    tokens = [block.token_ids for block in row.blocks]
    sources = row.sources
    before = at = 0
    for index, block in enumerate(row.blocks):
        length = len(tokens[index])
        offsets = row.fresh_offsets(index) if index in sources else _offsets(0, length)
        num = len(offsets)
        if num:
            own.append(offsets)
            lengths.append(num)
            places += (before, block.start, block.segment, block.horizon)
        before += length
        at += num
        ends.append(at - 1)
    fresh = np.empty((4, at), np.int32)
    if at:
        fresh[:] = np.array(places, np.int32).reshape(-1, 4).repeat(lengths, axis=0).T
        fresh[:2] += np.concatenate(own)
        fresh[0] = np.concatenate(tokens)[fresh[0]]
    return fresh, [ends[index] for index in row.readouts]


def _lay_out_pages(row: Row) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], bool]:
    """Position, length, segment and shift of the pages that the row reads, the slots of selected tokens in them, and
    whether any shift is not 0."""
    size = row.page_tokens
    counts: list[int] = []
    places: list[int] = []  # of each block: position less slots before, cached tokens and slots before, segment, shift
    selected: list[np.ndarray] = []
    num_selected: list[int] = []
    bases: list[int] = []  # slots before each block that has selected tokens
    at = 0
    is_moved = False
    for index, source in row.sources.items():
        num_cached = source.num_cached
        if not source.is_read:
            continue
        block = row.blocks[index]
        before = at * size
        shift = row.shift(index)
        is_moved = is_moved or shift != 0
        places += (block.start - before, num_cached + before, block.segment, shift)
        if len(source.selected):
            selected.append(source.selected)
            num_selected.append(len(source.selected))
            bases.append(before)
        num = -(-num_cached // size)
        counts.append(num)
        at += num
    pages = np.empty((4, at), np.int32)
    if at:
        pages[:] = np.array(places, np.int32).reshape(-1, 4).repeat(counts, axis=0).T
        first = _offsets(0, at) * size
        pages[0] += first
        np.minimum(pages[1] - first, size, out=pages[1])
    if not selected:
        return pages, (NOTHING, NOTHING), is_moved
    slots = np.concatenate(selected) + np.repeat(np.array(bases, np.int32), num_selected)
    return pages, np.divmod(slots, size), is_moved
