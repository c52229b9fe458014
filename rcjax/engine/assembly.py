"""Assembly: from blocks and the pages that hold some of them to the arrays of one forward pass.

Everything here is NumPy on the host; a prompt of 20 candidates takes about a millisecond.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rcjax.engine.shape import Shape
from rcjax.kernels.selective_attention import PageLayout, TokenLayout
from rcjax.model.decoder import Batch
from rcjax.prompt import Block


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """Where a block's KV comes from: its first `num_cached` tokens from `pages`, the rest computed fresh.

    `selected` holds offsets below `num_cached` that are computed again; their cached KV is not looked at. With
    `is_corrected` that has been done, and another block of the row holds the outcome.
    """

    pages: tuple[int, ...]
    num_cached: int
    selected: np.ndarray
    is_corrected: bool = False

    @property
    def read_pages(self) -> tuple[int, ...]:
        """The pages that the pass reads: none, where every cached token is computed again."""
        return self.pages if len(self.selected) < self.num_cached else ()


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One row of a forward pass: blocks in prompt order, sources by block index, and blocks to read out."""

    blocks: Sequence[Block]
    sources: Mapping[int, Source]
    readouts: Sequence[int] = ()

    @property
    def num_pages(self) -> int:
        return sum(len(source.read_pages) for source in self.sources.values())

    @property
    def num_selected(self) -> int:
        return sum(len(source.selected) for source in self.sources.values() if not source.is_corrected)

    @property
    def num_cached(self) -> int:
        """Cached tokens that are used as they are."""
        return sum(source.num_cached - len(source.selected) for source in self.sources.values())

    @property
    def num_fresh(self) -> int:
        """Tokens that the pass computes, selected ones included."""
        return sum(len(self.fresh_offsets(index)) for index in range(len(self.blocks)))

    def fresh_offsets(self, index: int) -> np.ndarray:
        """Which tokens of the index-th block the pass computes."""
        length = len(self.blocks[index])
        source = self.sources.get(index)
        if source is None:
            return np.arange(length)
        beyond = np.arange(source.num_cached, length)
        return beyond if source.is_corrected else np.concatenate([source.selected, beyond])


def assemble(rows: Sequence[Row], shape: Shape, page_tokens: int, num_reads: int) -> Batch:
    """Lays `rows` out as one batch of `shape`, padded; a row beyond the given ones sees and reads nothing.

    The last token of each readout block is read; it must be computed fresh.
    """
    fresh = np.zeros((4, shape.batch, shape.fresh_tokens), np.int32)
    ids, pos, segment, horizon = fresh
    pos[:] = -1
    cached = np.zeros((4, shape.batch, shape.num_pages), np.int32)
    drop = np.zeros((shape.batch, shape.num_pages, page_tokens), bool)
    read = np.zeros((shape.batch, num_reads), np.int32)
    for b, row in enumerate(rows):
        last = _lay_out_fresh(row, fresh[:, b])
        _lay_out_pages(row, cached[:, b], drop[b])
        read[b, : len(row.readouts)] = [last[index] for index in row.readouts]
    return Batch(
        ids, TokenLayout(pos, segment, horizon), PageLayout(cached[0], cached[1], cached[2], cached[3], drop), read
    )


def _lay_out_fresh(row: Row, fresh: np.ndarray) -> list[int]:
    """Fills in the row's fresh tokens; returns where each block's last fresh token went."""
    ids, pos, segment, horizon = fresh
    at, last = 0, []
    for index, block in enumerate(row.blocks):
        offsets = row.fresh_offsets(index)
        here = slice(at, at + len(offsets))
        ids[here] = block.token_ids[offsets]
        pos[here] = block.start + offsets
        segment[here] = block.segment
        horizon[here] = block.horizon
        at += len(offsets)
        last.append(at - 1)
    return last


def _lay_out_pages(row: Row, cached: np.ndarray, drop: np.ndarray) -> None:
    table, pos, length, segment = cached
    page_tokens = drop.shape[1]
    at = 0
    for index, source in row.sources.items():
        if not source.read_pages:
            continue
        block = row.blocks[index]
        here = slice(at, at + len(source.pages))
        first = np.arange(len(source.pages)) * page_tokens
        table[here] = source.pages
        pos[here] = block.start + first
        length[here] = np.clip(source.num_cached - first, 0, page_tokens)
        segment[here] = block.segment
        drop[at + source.selected // page_tokens, source.selected % page_tokens] = True
        at += len(source.pages)
