"""From texts to blocks, for one template and one tokenizer."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from rcjax.catalog.types import Event, Item
from rcjax.prompt.blocks import Block, BlockKind, Layout, Prompt, Scoring
from rcjax.prompt.encoder import Encoder
from rcjax.prompt.labels import single_token_labels
from rcjax.prompt.template import Glue, Template


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
