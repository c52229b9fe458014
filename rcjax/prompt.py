"""From a request's text to blocks: which tokens, at which positions, and who may see whom.

Positions are absolute, counted from the start of the prompt. Visibility is a number pair per block, its `segment`
`s` and `horizon` `h`: a token sees earlier positions of segments below `h` and of its own.

`sequential`: everything is in segment 0, and positions run on: plain causal attention.

`parallel`: the instruction is segment 0, the history 1, candidate i is 2 + i, the task comes last. History and items
start at the same position, right after the instruction, and have horizon 1: they see the instruction and
themselves. The glue that closes an item belongs to the item's segment with horizon 2: it sees the instruction, the
history and its own item, and it starts where the longer of these ends. The task sees everything.
So a score read from an item's closing glue depends on the user and that item alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from string import ascii_lowercase, ascii_uppercase
from typing import Protocol, runtime_checkable

import numpy as np

from rcjax.catalog.types import Event, Item
from rcjax.template import Glue, Template


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


@runtime_checkable
class ChatFrame(Protocol):
    @property
    def prefix(self) -> str: ...

    @property
    def suffix(self) -> str: ...


@runtime_checkable
class Encoder(Protocol):
    """What a prompt needs of a tokenizer (`rcjax.model.tokenizer.Tokenizer`)."""

    @property
    def bos_ids(self) -> np.ndarray: ...

    def encode(self, text: str, *, allow_special: bool = False) -> np.ndarray: ...

    def chat_frame(self, system: str) -> ChatFrame: ...


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A run of tokens at `start, start + 1, ...`; `owner` is the item's or user's id, where the kind has one."""

    kind: BlockKind
    token_ids: np.ndarray  # int32
    start: int
    segment: int = 0
    horizon: int = 0
    owner: str = ""

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


class PromptBuilder:
    """Turns items, events and requests into blocks, for one template and one tokenizer.

    Each piece of text is tokenised on its own, so that its tokens do not depend on its neighbours. That differs
    from tokenising the whole prompt only where a token would have spanned two pieces (see docs/architecture.md).
    """

    def __init__(self, template: Template, encoder: Encoder, max_candidates: int):
        self.template = template
        self._encoder = encoder
        instruction, self._answer = _frame(template, encoder)
        ids = encoder.encode(instruction, allow_special=True)
        self.instruction_ids = np.concatenate([encoder.bos_ids, ids]).astype(np.int32)
        self.labels, self.label_ids = single_token_labels(encoder.encode, max_candidates)
        self.yes_id = _first_token(encoder, template.anchor.positive, "anchor.positive")
        self.no_id = _first_token(encoder, template.anchor.negative, "anchor.negative")
        if self.yes_id == self.no_id:
            raise ValueError(f"template fields anchor.positive and .negative are both {template.anchor.positive!r}")
        self.item_ids = lru_cache(maxsize=1_000_000)(self._item_ids)
        self.event_ids = lru_cache(maxsize=1_000_000)(self._event_ids)
        self._glue_ids = lru_cache(maxsize=100_000)(self._encode_glue)

    def _item_ids(self, item: Item) -> np.ndarray:
        return _read_only(self._encoder.encode(self.template.render_item(item)))

    def _event_ids(self, event: Event) -> np.ndarray:
        return _read_only(self._encoder.encode(self.template.render_event(event)))

    def _encode_glue(self, text: str, label: str) -> np.ndarray:
        return _read_only(self._encoder.encode(self.template.render_glue(text, label), allow_special=True))

    def history_ids(self, events: Sequence[Event]) -> np.ndarray:
        """The history's tokens; appending an event appends tokens, unless the history was empty."""
        pieces = [self._glue_ids(self.template.history.open, "")]
        pieces += [self.event_ids(event) for event in events]
        if not events:
            pieces.append(self._glue_ids(self.template.history.empty, ""))
        return np.concatenate(pieces)

    def item_block(self, item: Item, owner: str = "") -> Block:
        """An item as it is cached: right after the instruction."""
        start = len(self.instruction_ids)
        return Block(BlockKind.ITEM, self.item_ids(item), start, owner=owner or item.item_id)

    def history_block(self, token_ids: np.ndarray, owner: str) -> Block:
        return Block(BlockKind.HISTORY, token_ids, len(self.instruction_ids), owner=owner)

    def text_block(self, text: str) -> Block:
        """A plain text from the start of the prompt, without instruction or chat template."""
        return Block(BlockKind.TASK, np.concatenate([self._encoder.bos_ids, self._encoder.encode(text)]), 0)

    def instruction_block(self) -> Block:
        return Block(BlockKind.INSTRUCTION, self.instruction_ids, 0)

    def build(self, history: Block, items: Sequence[Block], layout: Layout, scoring: Scoring) -> Prompt:
        """Places the blocks of one request; the i-th item gets the i-th label."""
        if len(items) > len(self.labels):
            raise ValueError(f"{len(items)=} exceeds max_candidates={len(self.labels)}")
        choice = self.template.label if scoring is Scoring.LABEL else self.template.anchor
        glue = choice.sequential if layout is Layout.SEQUENTIAL else choice.parallel
        place = self._place_sequential if layout is Layout.SEQUENTIAL else self._place_parallel
        blocks, closing = place(history, items, glue)
        if scoring is Scoring.ANCHOR:
            return Prompt(tuple(blocks), tuple(closing), layout, scoring)
        ids = self._glue_ids(glue.task + self._answer, "")
        end = max(block.end for block in blocks)
        sees_all = 0 if layout is Layout.SEQUENTIAL else 2 + len(items)
        blocks.append(Block(BlockKind.TASK, ids, end, segment=sees_all, horizon=sees_all))
        return Prompt(tuple(blocks), (len(blocks) - 1,), layout, scoring)

    def _place_sequential(self, history: Block, items: Sequence[Block], glue: Glue) -> tuple[list[Block], list[int]]:
        blocks, closing = [self.instruction_block()], []
        end = blocks[0].end

        def append(kind: BlockKind, ids: np.ndarray, owner: str = "") -> None:
            nonlocal end
            if len(ids):
                blocks.append(Block(kind, ids, end, owner=owner))
                end += len(ids)

        append(BlockKind.HISTORY, history.token_ids, history.owner)
        for label, item in zip(self.labels, items, strict=False):
            append(BlockKind.GLUE, self._glue_ids(glue.before_item, label))
            append(BlockKind.ITEM, item.token_ids, item.owner)
            append(BlockKind.GLUE, self._glue_ids(glue.after_item, label))
            closing.append(len(blocks) - 1)
        return blocks, closing

    def _place_parallel(self, history: Block, items: Sequence[Block], glue: Glue) -> tuple[list[Block], list[int]]:
        instruction = self.instruction_block()
        start = instruction.end
        seen = Block(BlockKind.HISTORY, history.token_ids, start, segment=1, horizon=1, owner=history.owner)
        blocks, closing = [instruction, seen], []
        for i, (label, item) in enumerate(zip(self.labels, items, strict=False)):
            own = Block(BlockKind.ITEM, item.token_ids, start, segment=2 + i, horizon=1, owner=item.owner)
            ids = self._glue_ids(glue.after_item, label)
            blocks.append(own)
            blocks.append(Block(BlockKind.GLUE, ids, max(seen.end, own.end), segment=2 + i, horizon=2))
            closing.append(len(blocks) - 1)
        return blocks, closing


def single_token_labels(encode: Callable[[str], np.ndarray], num_labels: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Labels that are one token each, and these tokens: A to Z, then AA, AB, ..., then a to z.

    Digits would not do: many tokenizers split numbers, and 1, 10 and 11 then share their first token.
    """
    pairs = [a + b for a in ascii_uppercase for b in ascii_uppercase]
    found: dict[int, str] = {}
    for label in (*ascii_uppercase, *pairs, *ascii_lowercase):
        ids = encode(label)
        if len(ids) == 1:
            found.setdefault(int(ids[0]), label)
        if len(found) == num_labels:
            return tuple(found.values()), np.array(list(found), np.int32)
    raise ValueError(f"{num_labels=} exceeds the {len(found)} single-token labels that this tokenizer has")


def _frame(template: Template, encoder: Encoder) -> tuple[str, str]:
    if not template.chat:
        return template.instruction, ""
    frame = encoder.chat_frame(template.instruction)
    return frame.prefix, frame.suffix


def _first_token(encoder: Encoder, text: str, field: str) -> int:
    ids = encoder.encode(text)
    if len(ids) != 1:
        raise ValueError(f"template field {field}={text!r} must be one token, but this tokenizer makes {len(ids)}")
    return int(ids[0])


def _read_only(ids: np.ndarray) -> np.ndarray:
    ids.setflags(write=False)
    return ids
