"""What the arms' requests ask of shapes and pools, by the same steps as the planner, on blocks of given lengths."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rcjax.config import Settings
from rcjax.engine.arm import Arm
from rcjax.engine.assembly import Row
from rcjax.engine.shape import RowSize, Shape
from rcjax.engine.source_plan import SourcePlanner
from rcjax.prompt import BlockKind, PromptBuilder
from rcjax.serving.slices import arm_of


@dataclass(frozen=True, slots=True)
class RequestSize:
    """Of one request with all its blocks in the cache: its row of a pass, its prompt, and the pages of its blocks."""

    row: RowSize
    prompt_tokens: int
    num_positions: int
    block_pages: int


class ArmReach:
    """How many candidates of a length an arm's requests may have, beside a history of a length, in some shapes."""

    def __init__(self, arm: Arm, builder: PromptBuilder, shapes: Sequence[Shape], page_tokens: int):
        self._arm = arm
        self._builder = builder
        self._shapes = shapes
        self._page_tokens = page_tokens
        self._sources = SourcePlanner(arm, page_tokens)
        self._known: dict[tuple[int, int, int], RequestSize] = {}

    def size(self, num_candidates: int, item_tokens: int, history_tokens: int) -> RequestSize:
        """As `rcjax.engine.planner.Planner` works it out."""
        lengths = num_candidates, item_tokens, history_tokens
        if lengths not in self._known:
            self._known[lengths] = self._size(*lengths)
        return self._known[lengths]

    def _size(self, num_candidates: int, item_tokens: int, history_tokens: int) -> RequestSize:
        history = self._builder.block(BlockKind.HISTORY, _ids(history_tokens))
        item = self._builder.block(BlockKind.ITEM, _ids(item_tokens))
        prompt = self._builder.build(history, [item] * num_candidates, self._arm.layout, self._arm.scoring)
        cached = [i for i, block in enumerate(prompt.blocks) if block.kind in self._arm.reuse.kinds]
        num_tokens = sum(map(len, prompt.blocks))
        block_pages = sum(-(-len(prompt.blocks[i]) // self._page_tokens) for i in cached)
        sources = self._sources.sources(prompt, cached)
        if self._sources.is_final:
            row = Row(prompt.blocks, sources, prompt.readouts, self._page_tokens).size
        else:
            num_fresh = num_tokens - sum(source.num_cached - len(source.selected) for source in sources.values())
            row = RowSize(num_fresh, self._sources.num_pages(prompt, sources))
        return RequestSize(row, num_tokens, max(block.end for block in prompt.blocks), block_pages)

    def max_candidates(self, limit: int, item_tokens: int, history_tokens: int) -> int:
        """The most candidates, up to `limit`, that one of the shapes holds; 0 where not even one fits."""
        low, high = 0, limit
        while low < high:
            middle = (low + high + 1) // 2
            if self._fits(self.size(middle, item_tokens, history_tokens).row):
                low = middle
            else:
                high = middle - 1
        return low

    def _fits(self, row: RowSize) -> bool:
        return any(shape.holds(row) for shape in self._shapes)


def arm_reaches(settings: Settings, builder: PromptBuilder, shapes: Sequence[Shape]) -> dict[str, ArmReach]:
    """By the arm's name."""
    return {
        name: ArmReach(arm_of(arm), builder, shapes, settings.cache.page_tokens) for name, arm in settings.arms.items()
    }


def _ids(num_tokens: int) -> np.ndarray:
    return np.zeros(num_tokens, np.int32)
