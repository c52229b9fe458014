"""The parts of slices: from settings and a model to workers, whose programs `warm_up` compiles."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jax.sharding import Mesh

from rcjax.cache import BlockDirectory, BlockKeys, GreedyDual, PagePool, PoolIdentity, num_pages_for_budget
from rcjax.config import ArmSettings, Settings, ShapeSettings
from rcjax.engine.arm import Arm
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.cost import CostModel
from rcjax.engine.executor import Executor
from rcjax.engine.generation import Generator
from rcjax.engine.offline import OrderChooser
from rcjax.engine.planner import Planner
from rcjax.engine.programs import Programs
from rcjax.engine.ranker import Ranker
from rcjax.engine.selector import Selector
from rcjax.engine.semantic_history import SemanticHistories
from rcjax.engine.shape import Shape, ShapeSet
from rcjax.engine.worker import SliceWorker
from rcjax.kernels.selective_attention import Heads, choose_attention
from rcjax.model.decoder import Params
from rcjax.model.kv import kv_format
from rcjax.model.rope import rope_of
from rcjax.model.scoring import Scorer
from rcjax.model.selection import Measure, parse_policy
from rcjax.model.sharding import slice_meshes
from rcjax.model.spec import Model
from rcjax.prompt import PromptBuilder
from rcjax.serving.mesh import on_slices
from rcjax.serving.security.salt import read_salt

Progress = Callable[[str], None]
Purpose = Literal["rank", "build", "generate"]
_PASSES = {"rank": "rank", "build": "build", "generate": "decode"}  # what a shape's passes are called in the cost model


@dataclass(frozen=True, slots=True, eq=False)
class SliceParts:
    """What slices are made of and share: with the planner, and in tests with other slices of the same sizes.

    `params` are the weights on the devices of each slice; the model's own are the first slice's.
    """

    model: Model
    params: tuple[Params, ...]
    scorer: Scorer
    instruction_ids: np.ndarray
    programs: Programs
    keys: BlockKeys
    cost: CostModel
    shapes: dict[Purpose, ShapeSet]
    num_reads: int

    @property
    def num_slices(self) -> int:
        return len(self.params)

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


def slice_parts(
    settings: Settings, model: Model, builder: PromptBuilder, progress: Progress, mesh: Mesh | None = None
) -> SliceParts:
    """Works out sizes and keys, and puts the weights on `mesh` (`engine_mesh`); no pages yet, and nothing is compiled.

    ValueError where the mesh cannot split the model, or the salt of keys cannot be read.
    """
    config, page_tokens = model.config, settings.cache.page_tokens
    kv_dtype = settings.kv_dtype(model.dtype)
    format = kv_format(config, kv_dtype, page_tokens)
    heads = Heads(config.head_dim, config.num_heads // config.num_kv_heads, model.dtype, kv_dtype)
    num_pages = num_pages_for_budget(int(settings.cache.pool_bytes), format.page_bytes)
    where = "" if mesh is None else f" on each of {settings.mesh.slices} slices"
    progress(f"allocating {num_pages} pages of {format.page_bytes / 2**20:.2f} MiB{where}")
    scorer = Scorer.of(builder)
    cost = CostModel(config, page_tokens, format.page_bytes)
    identity = PoolIdentity(
        model_fingerprint=model.fingerprint,
        tokenizer_fingerprint=model.tokenizer.fingerprint,
        template_version=builder.template.identity,
        kv_dtype=kv_dtype,
        page_tokens=page_tokens,
    )
    params = on_slices(model, mesh)
    programs = Programs(
        model.params,
        config,
        format,
        num_pages=num_pages,
        vocab_ids=scorer.vocab_ids,
        attention=choose_attention(settings.attention, heads),
        meshes=() if mesh is None else slice_meshes(mesh),
    )
    purposes: list[Purpose] = ["rank", "build"]
    if settings.shapes.generate:
        purposes.append("generate")
    return SliceParts(
        model=replace(model, params=params[0]),
        params=params,
        scorer=scorer,
        instruction_ids=builder.instruction_ids,
        programs=programs,
        keys=BlockKeys(identity, builder.instruction_ids, read_salt(settings.server.key_salt_file)),
        cost=cost,
        shapes={purpose: shapes_of(purpose, settings.shapes, cost) for purpose in purposes},
        num_reads=settings.limits.max_candidates,
    )


def new_worker(
    settings: Settings,
    parts: SliceParts,
    planner: Planner,
    builder: PromptBuilder,
    *,
    index: int = 0,
    num_pages: int | None = None,
    on_commit: Callable[[bytes], None] = lambda key: None,
    on_evict: Callable[[bytes], None] = lambda key: None,
) -> SliceWorker:
    """The worker of slice `index`. It knows no block yet, not even the instruction; its programs may be compiled later.

    `num_pages` makes its pool smaller than its arrays, the null page counted. `on_commit` gets each key that has become
    findable there, `on_evict` each that no longer is.
    """
    executor = Executor(parts.programs, parts.params[index], parts.cost, index)
    pool = PagePool(num_pages or parts.programs.num_pages, parts.page_tokens)
    directory = BlockDirectory(pool, GreedyDual(), on_commit=on_commit, on_evict=on_evict)
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
    is_offline = any(not measure.is_probe for _, measure in measures_of(settings))
    return SliceWorker(
        cache,
        ranker,
        generator=generator,
        orders=OrderChooser(selector, cache, builder, planner) if is_offline else None,
        semantic=semantic,
        name=f"slice-{index}",
        clock=time.monotonic,
    )


def measures_of(settings: Settings) -> list[tuple[str, Measure]]:
    """What the arms' policies want measured, with the arm's name."""
    return [(name, measure) for name, arm in settings.arms.items() for measure in parse_policy(arm.selection).measures]


def arm_of(settings: ArmSettings) -> Arm:
    return Arm(settings.layout, settings.scoring, settings.reuse, parse_policy(settings.selection), settings.history)


def shapes_of(purpose: Purpose, settings: ShapeSettings, cost: CostModel) -> ShapeSet:
    # Blocks are built where they belong, and tiles are for a layout in which nothing is moved.
    shapes = [
        Shape(**size.model_dump(), at_home=purpose == "build" or size.tiles > 0) for size in getattr(settings, purpose)
    ]
    return ShapeSet(purpose, shapes, lambda shape: cost.pass_s(_PASSES[purpose], shape))
