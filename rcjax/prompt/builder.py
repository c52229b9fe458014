"""From texts to blocks, for one template and one tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from rcjax.catalog.types import Event, Item
from rcjax.prompt.blocks import Block, BlockKind, Layout, Prompt, Scoring
from rcjax.prompt.encoder import Encoder
from rcjax.prompt.labels import single_token_labels
from rcjax.prompt.owner import NOBODY, Owner
from rcjax.prompt.template import Glue, Template

TokenIds = Int32[np.ndarray, "_"]


@dataclass(frozen=True, slots=True, eq=False)
class _GlueIds:
    """The tokens of one way of laying out and scoring: around the i-th item, and of the task."""

    before_item: Sequence[TokenIds]
    after_item: Sequence[TokenIds]
    task: TokenIds


class PromptBuilder:
    """Turns items, events and requests into blocks, for one template and one tokenizer.

    Each piece of text is tokenised on its own, so that its tokens do not depend on its neighbours. That differs
    from tokenising the whole prompt only where a token would have spanned two pieces (see docs/architecture.md).
    Only texts of the template are kept. Any thread may call it.
    """

    def __init__(self, template: Template, encoder: Encoder, max_candidates: int):
        self.template = template
        self._encoder = encoder
        instruction, answer = _frame(template, encoder)
        ids = encoder.encode(instruction, allow_special=True)
        self.instruction_ids = _read_only(np.concatenate([encoder.bos_ids, ids]).astype(np.int32))
        self._instruction = Block(BlockKind.INSTRUCTION, self.instruction_ids, 0)
        self.labels, self.label_ids = single_token_labels(encoder.encode, max_candidates)
        self.yes_id = _first_token(encoder, template.anchor.positive, "anchor.positive")
        self.no_id = _first_token(encoder, template.anchor.negative, "anchor.negative")
        if self.yes_id == self.no_id:
            raise ValueError(f"template fields anchor.positive and .negative are both {template.anchor.positive!r}")
        self._open_ids, self._empty_ids = (
            self._encode_glue(text, [""])[0] for text in (template.history.open, template.history.empty)
        )
        self._glue = {
            (layout, scoring): self._glue_ids(layout, scoring, answer) for layout in Layout for scoring in Scoring
        }

    def _glue_ids(self, layout: Layout, scoring: Scoring, answer: str) -> _GlueIds:
        choice = self.template.label if scoring is Scoring.LABEL else self.template.anchor
        glue: Glue = choice.sequential if layout is Layout.SEQUENTIAL else choice.parallel
        return _GlueIds(
            self._encode_glue(glue.before_item, self.labels),
            self._encode_glue(glue.after_item, self.labels),
            self._encode_glue(glue.task + answer, [""])[0],
        )

    def _encode_glue(self, text: str, labels: Sequence[str]) -> list[TokenIds]:
        rendered = self.template.render_glue(text, labels)
        ids = {one: _read_only(self._encoder.encode(one, allow_special=True)) for one in set(rendered)}
        return [ids[one] for one in rendered]

    @property
    def max_token_chars(self) -> int:
        """No token stands for more characters of a text than this."""
        return self._encoder.max_token_chars

    def closing_len(self, layout: Layout, scoring: Scoring) -> int:
        """The most tokens that the glue after an item has, whatever its label."""
        return max(map(len, self._glue[layout, scoring].after_item))

    def encode(self, text: str) -> TokenIds:
        """The tokens of a text that an item or an event renders to."""
        return _read_only(self._encoder.encode(text))

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text that tokens spell, control tokens left out."""
        return self._encoder.decode(token_ids)

    def item_ids(self, item: Item) -> TokenIds:
        return self.encode(self.template.render_item(item))

    def event_ids(self, event: Event) -> TokenIds:
        return self.encode(self.template.render_event(event))

    def history_ids(self, events: Sequence[Event]) -> TokenIds:
        """The history's tokens; appending an event appends tokens, unless the history was empty."""
        return self.join_events([self.event_ids(event) for event in events])

    def join_events(self, ids_of_events: Sequence[TokenIds]) -> TokenIds:
        """The tokens of a history whose events have these tokens."""
        return _read_only(np.concatenate([self._open_ids, *(ids_of_events or [self._empty_ids])]))

    def item_block(self, item: Item, owner: Owner | None = None) -> Block:
        """An item as it is cached: right after the instruction. By default it is one of the default tenant."""
        return self.block(BlockKind.ITEM, self.item_ids(item), owner or Owner("", item.item_id))

    def history_block(self, token_ids: TokenIds, owner: Owner = NOBODY) -> Block:
        """A history as it is cached: right after the instruction."""
        return self.block(BlockKind.HISTORY, token_ids, owner)

    def block(self, kind: BlockKind, token_ids: TokenIds, owner: Owner = NOBODY) -> Block:
        """An item or a history as it is cached: right after the instruction."""
        return Block(kind, token_ids, len(self.instruction_ids), owner=owner)

    def text_block(self, text: str) -> Block:
        """A plain text from the start of the prompt, without instruction or chat template."""
        return Block(BlockKind.TASK, np.concatenate([self._encoder.bos_ids, self._encoder.encode(text)]), 0)

    def instruction_block(self) -> Block:
        return self._instruction

    def build(self, history: Block, items: Sequence[Block], layout: Layout, scoring: Scoring) -> Prompt:
        """Places the blocks of one request; the i-th item gets the i-th label. A history without tokens is left out."""
        if len(items) > len(self.labels):
            raise ValueError(f"{len(items)=} exceeds max_candidates={len(self.labels)}")
        glue = self._glue[layout, scoring]
        place = self._place_sequential if layout is Layout.SEQUENTIAL else self._place_parallel
        blocks, closing, end = place(history, items, glue)
        if scoring is Scoring.ANCHOR:
            return Prompt(tuple(blocks), tuple(closing), layout, scoring)
        sees_all = 0 if layout is Layout.SEQUENTIAL else 2 + len(items)
        blocks.append(Block(BlockKind.TASK, glue.task, end, sees_all, sees_all))
        return Prompt(tuple(blocks), (len(blocks) - 1,), layout, scoring)

    def _place_sequential(
        self, history: Block, items: Sequence[Block], glue: _GlueIds
    ) -> tuple[list[Block], list[int], int]:
        blocks, closing = [self._instruction], []
        end = len(self.instruction_ids)
        kind = BlockKind.GLUE
        if len(history.token_ids):
            blocks.append(Block(BlockKind.HISTORY, history.token_ids, end, 0, 0, history.owner))
            end += len(history.token_ids)
        for item, before, after in zip(items, glue.before_item, glue.after_item, strict=False):
            if len(before):
                blocks.append(Block(kind, before, end))
                end += len(before)
            if len(item.token_ids):
                blocks.append(Block(BlockKind.ITEM, item.token_ids, end, 0, 0, item.owner))
                end += len(item.token_ids)
            if len(after):
                blocks.append(Block(kind, after, end))
                end += len(after)
            closing.append(len(blocks) - 1)
        return blocks, closing, end

    def _place_parallel(
        self, history: Block, items: Sequence[Block], glue: _GlueIds
    ) -> tuple[list[Block], list[int], int]:
        blocks, closing = [self._instruction], []
        start = len(self.instruction_ids)
        history_end = last_end = start + len(history.token_ids)
        if len(history.token_ids):
            blocks.append(Block(BlockKind.HISTORY, history.token_ids, start, 1, 1, history.owner))
        for segment, (item, ids) in enumerate(zip(items, glue.after_item, strict=False), start=2):
            blocks.append(Block(BlockKind.ITEM, item.token_ids, start, segment, 1, item.owner))
            end = max(history_end, start + len(item.token_ids))
            blocks.append(Block(BlockKind.GLUE, ids, end, segment, 2))
            last_end = max(last_end, end + len(ids))
            closing.append(len(blocks) - 1)
        return blocks, closing, last_end


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


def _read_only(ids: TokenIds) -> TokenIds:
    ids.setflags(write=False)
    return ids
