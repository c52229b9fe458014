"""Collation: from examples to the arrays of one training pass, which is the pass that serving runs.

A pass computes the instruction, then every block that is exact where it stands (histories; items too in the
`parallel` layout), each once however many requests use it, and assembles the requests from these. With a selection
policy items of the `sequential` layout are taken from such blocks too, and what the policy selects is computed again.
What the gradient flows through is therefore what will be served: block KV in pages, read at absolute positions.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from rcjax.engine.assembly import Row, Source, assemble
from rcjax.engine.packing import PackedRow, lay_out, pack
from rcjax.engine.shape import Shape
from rcjax.kernels.arrays import AnyArray, register_arrays
from rcjax.model.decoder import Batch
from rcjax.model.selection import SelectionPolicy
from rcjax.prompt import Block, BlockKind, Layout, Prompt, PromptBuilder, Scoring
from rcjax.training.examples import Example

PAGE_TOKENS = 8  # a short title has 10-20 tokens, and what a block leaves of its last page is computed as padding
_CACHEABLE = (BlockKind.HISTORY, BlockKind.ITEM)
_MIN_ROW_TOKENS = 256


@register_arrays
@dataclass(frozen=True, slots=True)
class TrainBatch:
    """One pass: the instruction, rows of blocks that see it, and requests that are assembled from both.

    Pages are numbered 0 (null), then the instruction's, then those of the build rows, row by row. A request with fewer
    candidates than there are columns has none (`is_candidate`) in the last ones.
    """

    instruction: Batch
    build: Batch
    rank: Batch
    target_shares: Float[AnyArray, "B candidates"]
    is_candidate: Bool[AnyArray, "B candidates"]


class Collator:
    """Makes `TrainBatch`es of few distinct shapes, so that few programs are compiled.

    With a `selection`, all items are taken from blocks, as in serving, and what it selects of these is computed again;
    without one, items that would not be exact are computed in each request.
    """

    def __init__(
        self, builder: PromptBuilder, layout: Layout, scoring: Scoring, selection: SelectionPolicy | None = None
    ):
        if selection is not None and selection.measures:
            raise ValueError(f"{selection} asks for a probe or a stored order, which training does not have")
        self._builder = builder
        self._layout = layout
        self._scoring = scoring
        self._selection = selection
        self._instruction = builder.instruction_block()
        self._instruction_pages = tuple(range(1, 1 + _num_pages(self._instruction)))

    def __call__(self, examples: Sequence[Example]) -> TrainBatch:
        """The pass of these examples."""
        prompts = [self._prompt(example) for example in examples]
        blocks = {self._key(b): b for prompt in prompts for b in prompt.blocks if self._is_built(prompt, b)}
        row_tokens = _row_tokens(blocks.values())
        packed = pack(list(blocks.values()), row_tokens, align=PAGE_TOKENS, longest_first=True)
        requests = [self._row(prompt) for prompt in prompts]
        pages = self._pages_by_key(packed, row_tokens)
        tables = [[pages[self._key(row.blocks[i])] for i in row.sources] for row in requests]
        num_fresh = _rounded(max(row.num_fresh for row in requests))
        num_rows, num_pages = max(len(packed), 1), max(row.num_pages for row in requests)
        num_rows = _padded(num_rows, (len(requests) * num_fresh + num_rows * row_tokens) // row_tokens)
        num_pages = _padded(num_pages, num_fresh // PAGE_TOKENS + num_pages)
        shape = Shape(num_fresh, num_pages, len(requests))
        num_candidates = [len(example.candidates) for example in examples]
        # Of several numbers the largest that there may be, so that the program does not depend on the draw.
        width = num_candidates[0] if len(set(num_candidates)) == 1 else len(self._builder.labels)
        num_reads = width if self._scoring is Scoring.ANCHOR else 1
        return TrainBatch(
            self._instruction_batch(),
            self._build_batch(packed, num_rows, row_tokens),
            assemble(requests, tables, shape, PAGE_TOKENS, num_reads),
            np.stack([_padded_shares(example, width) for example in examples]),
            np.arange(width) < np.array(num_candidates)[:, None],
        )

    def _prompt(self, example: Example) -> Prompt:
        history = self._builder.history_block(self._builder.history_ids(example.history))
        items = [self._builder.item_block(item) for item in example.candidates]
        return self._builder.build(history, items, self._layout, self._scoring)

    def _is_built(self, prompt: Prompt, block: Block) -> bool:
        is_taken = prompt.is_exact(block) or self._selection is not None
        return block.kind in _CACHEABLE and is_taken and len(block) > 0

    def _key(self, block: Block) -> tuple[BlockKind, bytes]:
        return block.kind, block.token_ids.tobytes()

    def _row(self, prompt: Prompt) -> Row:
        """The request's row, which takes the instruction and all built blocks from pages."""
        blocks = {i: b for i, b in enumerate(prompt.blocks) if self._is_built(prompt, b)}
        built = {i: Source(len(b)) for i, b in blocks.items()}
        if self._selection is not None:
            selected = self._selection.select(prompt, list(blocks.values()))
            built = {i: Source(len(b), chosen) for (i, b), chosen in zip(blocks.items(), selected, strict=True)}
        return Row(prompt.blocks, {0: Source(len(self._instruction))} | built, prompt.readouts, PAGE_TOKENS)

    def _pages_by_key(
        self, packed: Sequence[PackedRow], row_tokens: int
    ) -> dict[tuple[BlockKind, bytes], tuple[int, ...]]:
        """The pages that hold each block once the build pass has run, and those of the instruction."""
        pages = {self._key(self._instruction): self._instruction_pages}
        for r, row in enumerate(packed):
            for at, block in row.blocks:
                first = 1 + len(self._instruction_pages) + (r * row_tokens + at) // PAGE_TOKENS
                pages[self._key(block)] = tuple(range(first, first + _num_pages(block)))
        return pages

    def _instruction_batch(self) -> Batch:
        shape = Shape(len(self._instruction_pages) * PAGE_TOKENS, 0)
        return assemble([Row([self._instruction], {}, (), PAGE_TOKENS)], [()], shape, PAGE_TOKENS, 1)

    def _build_batch(self, packed: Sequence[PackedRow], num_rows: int, row_tokens: int) -> Batch:
        """Rows that read the instruction's pages, and the packed blocks as their fresh tokens."""
        instruction = Row([self._instruction], {0: Source(len(self._instruction))}, (), PAGE_TOKENS)
        shape = Shape(row_tokens, len(self._instruction_pages), num_rows)
        tables = [[self._instruction_pages]] * num_rows
        batch = assemble([instruction] * num_rows, tables, shape, PAGE_TOKENS, 1)
        token_ids, tokens = lay_out(packed, num_rows, row_tokens, self._instruction.end)
        return replace(batch, token_ids=token_ids, tokens=tokens)


def _padded_shares(example: Example, width: int) -> np.ndarray:
    """Zeros where nothing is known of the answer: such a batch has scores, and no loss worth the name."""
    shares = np.zeros(width, np.float32)
    if example.soft_targets or example.choices:
        shares[: len(example.candidates)] = example.target_shares
    return shares


def _num_pages(block: Block) -> int:
    return -(-len(block) // PAGE_TOKENS)


def _row_tokens(blocks: Collection[Block]) -> int:
    longest = max((_num_pages(block) for block in blocks), default=0)
    return max(_MIN_ROW_TOKENS, _rounded(longest) * PAGE_TOKENS)


def _padded(size: int, of_total: int) -> int:
    """The next multiple of a power of two that is at most an eighth of the total that `size` is part of."""
    step = 2 ** (max(of_total // 8, 1).bit_length() - 1)
    return -(-size // step) * step


def _rounded(size: int) -> int:
    """The next size of the series 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ...: at most a quarter too many."""
    step = max(1, 2 ** (max(size - 1, 1).bit_length() - 3))
    return -(-size // step) * step
