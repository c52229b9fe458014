"""Start-up of a slice: from settings and a model to a worker whose programs are compiled."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rcjax.cache import BlockDirectory, BlockKeys, GreedyDual, PagePool, PoolIdentity, num_pages_for_budget
from rcjax.config import ArmSettings, Settings, ShapeSettings
from rcjax.engine.arm import Arm
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.cost import CostModel, Program
from rcjax.engine.executor import TRANSFER_PAGES, Executor, Pending
from rcjax.engine.full_batch import full_batch
from rcjax.engine.generation import Generator
from rcjax.engine.offline import DEVIATION, OrderChooser
from rcjax.engine.planner import Planner
from rcjax.engine.programs import Programs
from rcjax.engine.ranker import Ranker
from rcjax.engine.selector import Selector
from rcjax.engine.semantic_history import SemanticHistories
from rcjax.engine.shape import Shape, ShapeSet
from rcjax.engine.worker import SliceWorker
from rcjax.kernels.selective_attention import Heads, choose_attention
from rcjax.model.kv import kv_format
from rcjax.model.rope import rope_of
from rcjax.model.scoring import Scorer
from rcjax.model.selection import Measure, parse_policy
from rcjax.model.spec import Model
from rcjax.prompt import PromptBuilder

Progress = Callable[[str], None]
Purpose = Literal["rank", "build", "generate"]
_PASSES = {"rank": "rank", "build": "build", "generate": "decode"}  # what a shape's passes are called in the cost model


@dataclass(frozen=True, slots=True, eq=False)
class SliceParts:
    """What a slice is made of and shares: with the planner, and in tests with other slices of the same sizes."""

    model: Model
    scorer: Scorer
    instruction_ids: np.ndarray
    programs: Programs
    keys: BlockKeys
    cost: CostModel
    shapes: dict[Purpose, ShapeSet]
    num_reads: int

    @property
    def rank_shapes(self) -> ShapeSet:
        return self.shapes["rank"]

    @property
    def page_tokens(self) -> int:
        return self.programs.format.page_tokens

    @property
    def max_block_pages(self) -> int:
        """The pages that the blocks of one request may have, the instruction's included."""
        return self.programs.num_pages - 1


def slice_parts(settings: Settings, model: Model, builder: PromptBuilder, progress: Progress) -> SliceParts:
    """Works out sizes and keys; nothing is allocated or compiled yet."""
    config, page_tokens = model.config, settings.cache.page_tokens
    kv_dtype = settings.kv_dtype(model.dtype)
    format = kv_format(config, kv_dtype, page_tokens)
    heads = Heads(config.head_dim, config.num_heads // config.num_kv_heads, model.dtype, kv_dtype)
    num_pages = num_pages_for_budget(int(settings.cache.pool_bytes), format.page_bytes)
    progress(f"allocating {num_pages} pages of {format.page_bytes / 2**20:.2f} MiB")
    scorer = Scorer.of(builder)
    cost = CostModel(config, page_tokens, format.page_bytes)
    identity = PoolIdentity(
        model_fingerprint=model.fingerprint,
        tokenizer_fingerprint=model.tokenizer.fingerprint,
        template_version=builder.template.identity,
        kv_dtype=kv_dtype,
        page_tokens=page_tokens,
    )
    programs = Programs(
        model.params,
        config,
        format,
        num_pages=num_pages,
        vocab_ids=scorer.vocab_ids,
        attention=choose_attention(settings.attention, heads),
    )
    purposes: list[Purpose] = ["rank", "build"]
    if settings.shapes.generate:
        purposes.append("generate")
    return SliceParts(
        model=model,
        scorer=scorer,
        instruction_ids=builder.instruction_ids,
        programs=programs,
        keys=BlockKeys(identity, builder.instruction_ids),
        cost=cost,
        shapes={purpose: shapes_of(purpose, settings.shapes, cost) for purpose in purposes},
        num_reads=settings.limits.max_candidates,
    )


def new_worker(
    settings: Settings, parts: SliceParts, planner: Planner, builder: PromptBuilder, *, num_pages: int | None = None
) -> SliceWorker:
    """A worker that knows no block yet, not even the instruction, on programs that may not be compiled yet.

    `num_pages` makes its pool smaller than its arrays, the null page counted.
    """
    executor = Executor(parts.programs, parts.model.params, parts.cost)
    directory = BlockDirectory(PagePool(num_pages or parts.programs.num_pages, parts.page_tokens), GreedyDual())
    cache = BlockCache(executor, directory, parts.keys, parts.shapes["build"], builder.instruction_block())
    selector = Selector(executor, parts.rank_shapes, parts.page_tokens)
    ranker = Ranker(
        executor,
        selector,
        parts.rank_shapes,
        parts.scorer,
        page_tokens=parts.page_tokens,
        num_reads=parts.num_reads,
        clock=time.monotonic,
    )
    semantic = None
    if settings.semantic_arms:
        semantic = SemanticHistories(
            cache,
            planner,
            parts.model.tokenizer.decode,
            rope_of(parts.model.config),
            max_history_tokens=settings.limits.max_history_tokens,
            **settings.semantic.model_dump(),
        )
    generator = None
    if "generate" in parts.shapes:
        generator = Generator(cache, selector, semantic, parts.shapes["generate"], parts.model.tokenizer.eos_ids)
    is_offline = any(not measure.is_probe for _, measure in _measures(settings))
    return SliceWorker(
        cache,
        ranker,
        generator=generator,
        orders=OrderChooser(selector, cache, builder, planner) if is_offline else None,
        semantic=semantic,
        clock=time.monotonic,
    )


def compile_slice(settings: Settings, parts: SliceParts, worker: SliceWorker, progress: Progress) -> None:
    """Compiles every program of the settings, runs each once to learn what it takes, and computes the instruction."""
    programs, cache = parts.programs, worker.cache
    programs.compile_transfer(TRANSFER_PAGES)
    for shape in parts.shapes["build"]:
        progress(f"compiling build {shape}")
        batch = full_batch(shape, parts.page_tokens, 1)
        source, destination = cache.passes.no_writes(shape)
        programs.compile_build(Program("build", shape), batch, source)
        _time(parts.cost, cache.executor.build(batch, source, destination, shape))
    progress("computing the instruction")
    cache.build_instruction()
    for shape in parts.rank_shapes:
        progress(f"compiling rank {shape}")
        batch = full_batch(shape, parts.page_tokens, parts.num_reads)
        programs.compile_rank(Program("rank", shape), batch)
        _time(parts.cost, cache.executor.rank(batch, shape))
    for shape in parts.shapes.get("generate", ()):
        progress(f"compiling generate {shape}")
        batch = full_batch(shape, parts.page_tokens, 1)
        source, destination = Generator.no_writes(shape.fresh_tokens, parts.page_tokens)
        programs.compile_decode(Program("decode", shape), batch, source)
        _time(parts.cost, cache.executor.decode(batch, source, destination, shape))
    _compile_probes(settings, parts, cache.executor, progress)


def _compile_probes(settings: Settings, parts: SliceParts, executor: Executor, progress: Progress) -> None:
    selector = Selector(executor, parts.rank_shapes, parts.page_tokens)
    for name, measure in _measures(settings):
        probe = measure if measure.is_probe else DEVIATION
        try:
            for shape in selector.shapes(probe):
                _compile_probe(Program("probe", shape, probe), parts, selector, executor, progress)
        except ValueError as error:
            raise ValueError(f"arm {name!r}, selection {settings.arms[name].selection!r}: {error}") from error


def _compile_probe(
    program: Program, parts: SliceParts, selector: Selector, executor: Executor, progress: Progress
) -> None:
    measure = program.measure
    if measure is None or parts.programs.has(program):
        return
    progress(f"compiling the probe for {measure.quantity} in layer {measure.layer}, {program.shape}")
    _, known, asks = selector.probe_arrays([], [], program.shape)
    batch = full_batch(program.shape, parts.page_tokens, 1)
    parts.programs.compile_probe(program, batch, known, asks)
    _time(parts.cost, executor.probe(batch, known, asks, program.shape, measure))


def _measures(settings: Settings) -> list[tuple[str, Measure]]:
    """What the arms' policies want measured, with the arm's name."""
    return [(name, measure) for name, arm in settings.arms.items() for measure in parse_policy(arm.selection).measures]


def _time(cost: CostModel, pending: Pending[Any]) -> None:
    pending.result()
    program = pending.program
    cost.observe(program.purpose, program.shape, time.monotonic() - pending.start_s, program.measure)


def arm_of(settings: ArmSettings) -> Arm:
    return Arm(settings.layout, settings.scoring, settings.reuse, parse_policy(settings.selection), settings.history)


def shapes_of(purpose: Purpose, settings: ShapeSettings, cost: CostModel) -> ShapeSet:
    # Blocks are built where they belong, and tiles are for a layout in which nothing is moved.
    shapes = [
        Shape(**size.model_dump(), at_home=purpose == "build" or size.tiles > 0) for size in getattr(settings, purpose)
    ]
    return ShapeSet(purpose, shapes, lambda shape: cost.pass_s(_PASSES[purpose], shape))
