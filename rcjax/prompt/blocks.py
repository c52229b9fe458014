"""The blocks of a prompt: which tokens, at which positions, and who may see whom.

Positions are absolute, counted from the start of the prompt. Visibility is a number pair per block, its `segment`
`s` and `horizon` `h`: a token sees earlier positions of segments below `h` and of its own.

`sequential`: everything is in segment 0, and positions run on: plain causal attention.

`parallel`: the instruction is segment 0, the history 1, candidate i is 2 + i, the task comes last. History and items
start at the same position, right after the instruction, and have horizon 1: they see the instruction and
themselves. The glue that closes an item belongs to the item's segment with horizon 2: it sees the instruction, the
history and its own item, and it starts where the longer of these ends. The task sees everything.
So a score read from an item's closing glue depends on the user and that item alone.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from rcjax.prompt.owner import NOBODY, Owner


class BlockKind(StrEnum):
    INSTRUCTION = "instruction"
    HISTORY = "history"
    ITEM = "item"
    GLUE = "glue"
    TASK = "task"


class Layout(StrEnum):
    SEQUENTIAL = "sequential"
    PARALLEL = "parallel"


class Scoring(StrEnum):
    LABEL = "label"
    ANCHOR = "anchor"


@dataclass(slots=True, eq=False)
class Block:
    """A run of tokens at `start, start + 1, ...`; `owner` is the item or user, where the kind has one.

    Nobody changes a block. It is not `frozen` because a prompt makes 40 of them, and a frozen one takes seven times as
    long to make (1.2 us).
    """

    kind: BlockKind
    token_ids: np.ndarray  # int32
    start: int
    segment: int = 0
    horizon: int = 0
    owner: Owner = NOBODY

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Blocks in an order in which each sees only earlier ones, and the blocks whose last token is read out."""

    blocks: tuple[Block, ...]
    readouts: tuple[int, ...]
    layout: Layout
    scoring: Scoring
    has_exact_history: bool = True  # False: its KV is that of other histories' tokens

    @property
    def num_tokens(self) -> int:
        return sum(len(block) for block in self.blocks)

    def is_exact(self, block: Block) -> bool:
        """Whether the block's cached KV equals what this prompt would compute.

        An item was computed right after the instruction. In the `parallel` layout that is where it stands; in the
        `sequential` one the history and other items come before it.
        """
        if block.kind is BlockKind.HISTORY:
            return self.has_exact_history
        return block.kind is not BlockKind.ITEM or self.layout is Layout.PARALLEL
