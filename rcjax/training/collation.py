"""Collation: from examples to the arrays of one training pass, which is the pass that serving runs.

A pass computes the instruction, then every block that is exact where it stands (histories; items too in the
`parallel` layout), each once however many requests use it, and assembles the requests from these. What the gradient
flows through is therefore what will be served: block KV in pages, read at absolute positions.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from rcjax.engine.assembly import Row, Source, assemble
from rcjax.engine.shape import Shape
from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.selective_attention import PageLayout, TokenLayout
from rcjax.model.decoder import Batch
from rcjax.prompt import Block, BlockKind, Layout, Prompt, PromptBuilder, Scoring
from rcjax.training.examples import Example

PAGE_TOKENS = 8  # a short title has 10-20 tokens, and what a block leaves of its last page is computed as padding
_NOTHING = np.zeros(0, np.int32)
_CACHEABLE = (BlockKind.HISTORY, BlockKind.ITEM)
_MIN_ROW_TOKENS = 256


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True)
class TrainBatch:
    """One pass: the instruction, rows of blocks that see it, and requests that are assembled from both.

    Pages are numbered 0 (null), then the instruction's, then those of the build rows, row by row.
    """

    instruction: Batch
    build: Batch
    rank: Batch
    choice_shares: Float[AnyArray, "B candidates"]


@dataclass(slots=True)
class _BuildRow:
    """Blocks side by side in one row, each from a page boundary on."""

    blocks: list[tuple[int, Block]]  # where it starts, and what
    num_tokens: int = 0


class Collator:
    """Makes `TrainBatch`es of few distinct shapes, so that few programs are compiled."""

    def __init__(self, builder: PromptBuilder, layout: Layout, scoring: Scoring):
        self._builder = builder
        self._layout = layout
        self._scoring = scoring
        self._instruction = builder.instruction_block()
        self._instruction_pages = tuple(range(1, 1 + _pages(len(self._instruction))))

    def __call__(self, examples: Sequence[Example]) -> TrainBatch:
        """All examples must have the same number of candidates."""
        prompts = [self._prompt(example) for example in examples]
        blocks = {self._key(b): b for prompt in prompts for b in prompt.blocks if self._is_built(prompt, b)}
        rows, places = self._pack(list(blocks.values()))
        width = _row_tokens(blocks.values())
        first = 1 + len(self._instruction_pages)
        sources = {
            key: Source(
                tuple(first + (row * width + at) // PAGE_TOKENS + i for i in range(_pages(len(blocks[key])))),
                len(blocks[key]),
                _NOTHING,
            )
            for key, (row, at) in places.items()
        }
        requests = [self._row(prompt, sources) for prompt in prompts]
        num_fresh = _rounded(max(row.num_fresh for row in requests))
        num_rows, num_pages = max(len(rows), 1), max(row.num_pages for row in requests)
        num_rows = _padded(num_rows, (len(requests) * num_fresh + num_rows * width) // width)
        num_pages = _padded(num_pages, num_fresh // PAGE_TOKENS + num_pages)
        shape = Shape(num_fresh, num_pages, len(requests))
        num_reads = max(len(prompt.readouts) for prompt in prompts)
        return TrainBatch(
            self._instruction_batch(),
            self._build_batch(rows, num_rows, width),
            assemble(requests, shape, PAGE_TOKENS, num_reads),
            np.stack([_choice_shares(example) for example in examples]),
        )

    def _prompt(self, example: Example) -> Prompt:
        history = self._builder.history_block(self._builder.history_ids(example.history), "")
        items = [self._builder.item_block(item) for item in example.candidates]
        return self._builder.build(history, items, self._layout, self._scoring)

    def _is_built(self, prompt: Prompt, block: Block) -> bool:
        return block.kind in _CACHEABLE and prompt.is_exact(block) and len(block) > 0

    def _key(self, block: Block) -> tuple[BlockKind, bytes]:
        return block.kind, block.token_ids.tobytes()

    def _row(self, prompt: Prompt, built: dict[tuple[BlockKind, bytes], Source]) -> Row:
        sources = {0: Source(self._instruction_pages, len(self._instruction), _NOTHING)}
        for i, block in enumerate(prompt.blocks):
            if self._is_built(prompt, block):
                sources[i] = built[self._key(block)]
        return Row(prompt.blocks, sources, prompt.readouts)

    def _pack(self, blocks: Sequence[Block]) -> tuple[list[_BuildRow], dict[tuple[BlockKind, bytes], tuple[int, int]]]:
        """First-fit, longest first."""
        width = _row_tokens(blocks)
        rows: list[_BuildRow] = []
        places = {}
        for block in sorted(blocks, key=len, reverse=True):
            need = _pages(len(block)) * PAGE_TOKENS
            index = next((i for i, row in enumerate(rows) if row.num_tokens + need <= width), len(rows))
            if index == len(rows):
                rows.append(_BuildRow([]))
            row = rows[index]
            places[self._key(block)] = (index, row.num_tokens)
            row.blocks.append((row.num_tokens, block))
            row.num_tokens += need
        return rows, places

    def _instruction_batch(self) -> Batch:
        width = len(self._instruction_pages) * PAGE_TOKENS
        fresh = _padding(1, width)
        _write(fresh[:, 0], 0, self._instruction, segment=0, horizon=0)
        return _batch(fresh, np.zeros((4, 1, 0), np.int32))

    def _build_batch(self, rows: Sequence[_BuildRow], num_rows: int, width: int) -> Batch:
        fresh = _padding(num_rows, width)
        for r, row in enumerate(rows):
            for i, (at, block) in enumerate(row.blocks):
                _write(fresh[:, r], at, block, segment=1 + i, horizon=1)
        num_pages = len(self._instruction_pages)
        pages = np.zeros((4, num_rows, num_pages), np.int32)
        table, pos, length, _ = pages
        table[:] = self._instruction_pages
        pos[:] = np.arange(num_pages) * PAGE_TOKENS
        length[:] = np.clip(len(self._instruction) - pos, 0, PAGE_TOKENS)
        return _batch(fresh, pages)


def _choice_shares(example: Example) -> np.ndarray:
    counts = np.bincount(example.choices, minlength=len(example.candidates))
    return (counts / len(example.choices)).astype(np.float32)


def _padding(num_rows: int, width: int) -> np.ndarray:
    fresh = np.zeros((4, num_rows, width), np.int32)
    fresh[1] = -1
    return fresh


def _write(fresh: np.ndarray, at: int, block: Block, *, segment: int, horizon: int) -> None:
    here = slice(at, at + len(block))
    fresh[0, here] = block.token_ids
    fresh[1, here] = block.start + np.arange(len(block))
    fresh[2, here] = segment
    fresh[3, here] = horizon


def _batch(fresh: np.ndarray, pages: np.ndarray) -> Batch:
    drop = np.zeros((*pages.shape[1:], PAGE_TOKENS), bool)
    read = np.zeros((fresh.shape[1], 1), np.int32)
    return Batch(
        fresh[0],
        TokenLayout(fresh[1], fresh[2], fresh[3]),
        PageLayout(pages[0], pages[1], pages[2], pages[3], drop),
        read,
    )


def _pages(num_tokens: int) -> int:
    return -(-num_tokens // PAGE_TOKENS)


def _row_tokens(blocks: Collection[Block]) -> int:
    longest = max((len(block) for block in blocks), default=0)
    return max(_MIN_ROW_TOKENS, _rounded(_pages(longest)) * PAGE_TOKENS)


def _padded(size: int, of_total: int) -> int:
    """The next multiple of a power of two that is at most an eighth of the total that `size` is part of."""
    step = 2 ** (max(of_total // 8, 1).bit_length() - 1)
    return -(-size // step) * step


def _rounded(size: int) -> int:
    """The next size of the series 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ...: at most a quarter too many."""
    step = max(1, 2 ** (max(size - 1, 1).bit_length() - 3))
    return -(-size // step) * step
