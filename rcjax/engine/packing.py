"""Packing: blocks that see the instruction and themselves, side by side in the rows of one pass.

That is how a slice computes blocks that miss and how training computes all blocks of a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int32

from rcjax.kernels.selective_attention import TokenLayout
from rcjax.prompt import Block


@dataclass(slots=True)
class PackedRow:
    """Blocks of one row, each with the offset of its first token in the row; up to `num_tokens` is taken."""

    blocks: list[tuple[int, Block]] = field(default_factory=list)
    num_tokens: int = 0


def pack(blocks: Sequence[Block], row_tokens: int, *, align: int = 1, longest_first: bool = False) -> list[PackedRow]:
    """Puts each block into the first row of `row_tokens` that has room for it; offsets are multiples of `align`.

    ValueError if a block is longer than a row.
    """
    rows: list[PackedRow] = []
    for block in sorted(blocks, key=len, reverse=True) if longest_first else blocks:
        size = -(-len(block) // align) * align
        if size > row_tokens:
            raise ValueError(f"a block of {len(block)} tokens does not fit in a row of {row_tokens=}; make rows longer")
        row = next((row for row in rows if row.num_tokens + size <= row_tokens), None)
        if row is None:
            row = PackedRow()
            rows.append(row)
        row.blocks.append((row.num_tokens, block))
        row.num_tokens += size
    return rows


def side_by_side(blocks: Sequence[Block], start: int) -> list[Block]:
    """The blocks at position `start`, which is where the instruction ends: each sees segment 0 and itself."""
    return [Block(b.kind, b.token_ids, start, segment, 1, b.owner) for segment, b in enumerate(blocks, start=1)]


def lay_out(
    rows: Sequence[PackedRow], num_rows: int, row_tokens: int, start: int
) -> tuple[Int32[np.ndarray, "B T"], TokenLayout]:
    """Token ids and layout of the rows' blocks side by side at `start`, padded to `num_rows`."""
    token_ids, pos, segment, horizon = np.zeros((4, num_rows, row_tokens), np.int32)
    pos[:] = -1
    for r, row in enumerate(rows):
        placed = side_by_side([block for _, block in row.blocks], start)
        for (at, _), block in zip(row.blocks, placed, strict=True):
            here = r, slice(at, at + len(block))
            token_ids[here] = block.token_ids
            pos[here] = np.arange(block.start, block.end)
            segment[here] = block.segment
            horizon[here] = block.horizon
    return token_ids, TokenLayout(pos, segment, horizon)
