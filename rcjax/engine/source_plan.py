"""Which cached tokens an arm computes again, as far as that is known before anything has been measured."""

from collections.abc import Sequence

import numpy as np

from rcjax.engine.arm import Arm
from rcjax.engine.assembly import Source
from rcjax.model.selection import CachedTokens, Quantity, SelectionPolicy
from rcjax.model.selection.policy import Scope, Scores
from rcjax.prompt import Block, BlockKind, History, Prompt


class SourcePlanner:
    """The sources of one arm's prompts. Any thread may call it.

    What a policy of scope `BLOCK` selects in a block depends on the block's kind and length alone, so it is worked out
    once for each. Others are asked with scores of zero: scores decide which tokens are selected, not how many.
    """

    def __init__(self, arm: Arm, page_tokens: int):
        self._policy = arm.selection
        self._page_tokens = page_tokens
        self._is_by_block = arm.selection.scope is Scope.BLOCK
        self.is_final = not arm.selection.measures and arm.history is History.EXACT
        self._of_length: dict[tuple[BlockKind, int], Source] = {}

    def sources(self, prompt: Prompt, cached: Sequence[int]) -> dict[int, Source]:
        """By index of the block. Where not `is_final`, only the number of selected tokens in the prompt is right."""
        blocks = prompt.blocks
        if self._is_by_block:
            known = self._of_length
            return {
                i: known.get((blocks[i].kind, len(blocks[i].token_ids))) or self._source(prompt, blocks[i])
                for i in cached
            }
        tokens = CachedTokens.of(prompt, [blocks[index] for index in cached])
        chosen = self._policy.choose(tokens, no_scores(self._policy, len(tokens)))
        return {i: Source(len(blocks[i].token_ids), own) for i, own in zip(cached, chosen, strict=True)}

    def num_pages(self, prompt: Prompt, sources: dict[int, Source]) -> int:
        """The most pages that the pass may read, whatever will be measured."""
        may_move = not self._is_by_block and not self._takes_all(prompt, sources)
        return sum(
            -(-source.num_cached // self._page_tokens) for source in sources.values() if may_move or source.is_read
        )

    def _takes_all(self, prompt: Prompt, sources: dict[int, Source]) -> bool:
        """Whether every token is selected that may be, so that scores do not even decide which."""
        exact = (prompt.is_exact(prompt.blocks[index]) for index in sources)
        return all(is_exact or not source.is_read for is_exact, source in zip(exact, sources.values(), strict=True))

    def _source(self, prompt: Prompt, block: Block) -> Source:
        (selected,) = self._policy.choose(CachedTokens.of(prompt, [block]), no_scores(self._policy, len(block)))
        source = self._of_length[block.kind, len(block)] = Source(len(block), selected)
        return source


def no_scores(policy: SelectionPolicy, num_tokens: int) -> list[Scores]:
    """Zeros for each of the policy's measures: what it chooses by them is as many as it will choose."""
    rows = {Quantity.FIRST_LAYER: 2}
    return [
        np.zeros((rows[measure.quantity], num_tokens) if measure.quantity in rows else num_tokens, np.float32)
        for measure in policy.measures
    ]
