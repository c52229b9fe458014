"""A slice without threads, for benchmarks that measure its parts: the caller's thread owns its cache."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from rcjax.cache import CachedBlock
from rcjax.config import Settings
from rcjax.engine.assembly import Row, assemble
from rcjax.engine.claim import Claim
from rcjax.engine.plan import PlannedBlock
from rcjax.model.spec import Model
from rcjax.prompt import Block, BlockKind, FittingTexts, PromptBuilder
from rcjax.prompt.template import load_template
from rcjax.serving.slices import new_worker, slice_parts
from rcjax.serving.startup import Progress, new_planner
from rcjax.serving.warm_up import warm_up


class BareSlice:
    """The model, its compiled passes and a block cache, with nothing in front."""

    def __init__(self, settings: Settings, model: Model, progress: Progress):
        self.settings = settings
        self.builder = PromptBuilder(load_template(settings.template), model.tokenizer, settings.limits.max_candidates)
        self._parts = slice_parts(settings, model, self.builder, progress)
        worker = new_worker(settings, self._parts, new_planner(settings, self._parts, self.builder), self.builder)
        warm_up(settings, self._parts, [worker], progress)
        self.cache = worker.cache
        limits = settings.limits
        self._texts = FittingTexts(self.builder, limits.max_item_tokens, limits.max_history_tokens)

    @cached_property
    def embedding(self) -> np.ndarray:
        """Of the model's tokens [V, D]."""
        return self.cache.executor.embedding

    @property
    def page_tokens(self) -> int:
        return self.cache.page_tokens

    def history_ids(self, events: Sequence[Any]) -> np.ndarray:
        """The tokens of a history as a library would keep it."""
        return self._texts.history(events, "user.events").token_ids

    @contextmanager
    def pinned(self, blocks: Sequence[Block]) -> Iterator[list[CachedBlock]]:
        """The blocks as they are cached, those that miss computed first, for the length of a `with`."""
        claim = Claim([PlannedBlock(block, self._key(block)) for block in blocks], 0, is_urgent=True)
        if not self.cache.grant(claim):
            raise RuntimeError("the pool has no room for these blocks")
        try:
            while self.cache.has_builds:
                group = self.cache.next_builds()
                self._run(self.cache.run_builds(group))
            yield claim.pins
        finally:
            self.cache.release(claim)

    def logits(self, row: Row, table: Sequence[Sequence[int]]) -> np.ndarray:
        """The ranking logits [R, W] of one row; `table` has the pages of its sources."""
        shape = self._parts.rank_shapes.fit([row.size])
        batch = assemble([row], [table], shape, self.page_tokens, self._parts.num_reads)
        return self.cache.executor.rank(batch, shape).result()[0]

    def _key(self, block: Block) -> bytes:
        keys = self.cache.keys
        if block.kind is BlockKind.INSTRUCTION:
            return keys.instruction
        return keys.key(block.kind, block.owner, block.token_ids)

    def _run(self, steps: Any) -> None:
        for pending in steps:
            pending.result()
