"""An executor whose passes take no time, and an engine around it: all that is left is the host's work."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from rcjax.cache import BlockDirectory, GreedyDual, PagePool
from rcjax.config import Settings
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.cost import CostModel, Program
from rcjax.engine.ranker import Ranker
from rcjax.engine.selector import Selector
from rcjax.engine.shape import Shape
from rcjax.engine.worker import SliceWorker
from rcjax.model.selection import Measure
from rcjax.model.spec import Model
from rcjax.prompt import PromptBuilder
from rcjax.prompt.template import load_template
from rcjax.serving.local import LocalEngine
from rcjax.serving.router import Router
from rcjax.serving.slices import SliceParts, slice_parts
from rcjax.serving.startup import engine_info, new_planner

PASS_S, ROW_S = 1e-3, 1e-4  # what passes are said to take, so that it pays to fill them


class IdlePending:
    """A pass that is done."""

    def __init__(self, program: Program, value: Any):
        self.program = program
        self.num_rows, self.num_tokens = program.shape.batch, 0
        self.start_s = time.monotonic()
        self._value = value

    def is_ready(self) -> bool:
        return True

    def result(self) -> Any:
        return self._value


class IdleCost(CostModel):
    """Says of each pass what `PASS_S` and `ROW_S` say, and learns nothing."""

    def pass_s(self, purpose: str, shape: Shape, measure: Measure | None = None) -> float:
        return PASS_S + ROW_S * shape.batch

    def build_s(self, num_tokens: int) -> float:
        return ROW_S * num_tokens

    def observe(self, purpose: str, shape: Shape, seconds: float, measure: Measure | None = None) -> None:
        pass


class IdleExecutor:
    """Ranks by random logits that were drawn beforehand, and builds nothing."""

    pool_bytes = 0

    def __init__(self, parts: SliceParts, cost: CostModel):
        self.cost = cost
        rng = np.random.default_rng(0)
        self._logits = {
            shape.batch: rng.standard_normal((shape.batch, parts.num_reads, len(parts.scorer.vocab_ids)), np.float32)
            for shape in parts.rank_shapes
        }

    def rank(self, batch: Any, shape: Shape) -> IdlePending:
        return IdlePending(Program("rank", shape), self._logits[shape.batch])

    def build(self, batch: Any, source: np.ndarray, destination: np.ndarray, shape: Shape) -> IdlePending:
        return IdlePending(Program("build", shape), None)

    def check(self) -> None:
        pass

    def read_pages(self, pages: Sequence[int]) -> Any:
        raise NotImplementedError

    def write_pages(self, pages: Sequence[int], values: Any) -> None:
        raise NotImplementedError


def idle_engine(settings: Settings, model: Model, num_pages: int) -> LocalEngine:
    """An engine with everything but the device: of the model only its tokenizer and sizes are used."""
    builder = PromptBuilder(load_template(settings.template), model.tokenizer, settings.limits.max_candidates)
    parts = slice_parts(settings, model, builder, lambda step: None)
    cost = IdleCost(model.config, parts.page_tokens, parts.programs.format.page_bytes)
    for shapes in parts.shapes.values():
        shapes.seconds = lambda shape: cost.pass_s("", shape)
    executor: Any = IdleExecutor(parts, cost)
    directory = BlockDirectory(PagePool(num_pages, parts.page_tokens), GreedyDual())
    cache = BlockCache(executor, directory, parts.keys, parts.shapes["build"], builder.instruction_block())
    cache.build_instruction()
    ranker = Ranker(
        executor,
        Selector(executor, parts.rank_shapes, parts.page_tokens),
        parts.rank_shapes,
        parts.scorer,
        page_tokens=parts.page_tokens,
        num_reads=parts.num_reads,
        clock=time.monotonic,
    )
    planner = new_planner(settings, parts, builder)
    router = Router(
        planner,
        [SliceWorker(cache, ranker)],
        planner.library,
        engine_info(settings, model, builder),
        planner_threads=settings.server.planner_threads,
    )
    router.start()
    return LocalEngine(router, builder.text_block)
