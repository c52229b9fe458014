"""Start-up: from settings to an engine whose programs are compiled."""

import importlib.metadata
from collections.abc import Callable
from functools import cache
from typing import Literal

import jax
import jax.numpy as jnp

from rcjax.cache import BlockDirectory, GreedyDual, PagePool, PoolIdentity, num_pages_for_budget
from rcjax.config import ArmSettings, Settings, ShapeSettings
from rcjax.engine.arm import Arm
from rcjax.engine.assembly import assemble
from rcjax.engine.block_cache import BlockCache
from rcjax.engine.compilation import CompilationCounter, use_compilation_cache
from rcjax.engine.engine import RecommendEngine
from rcjax.engine.executor import Slice
from rcjax.engine.generation import Generator
from rcjax.engine.library import Library
from rcjax.engine.offline import DEVIATION
from rcjax.engine.semantic_history import SemanticHistories
from rcjax.engine.shape import Shape, ShapeSet
from rcjax.model.scoring import Scorer
from rcjax.model.selection import parse_policy
from rcjax.model.spec import Model, load_model
from rcjax.prompt import PromptBuilder
from rcjax.prompt.template import load_template
from rcjax.request import EngineInfo

Progress = Callable[[str], None]


@cache
def _compilation_counter() -> CompilationCounter:
    return CompilationCounter()


def start_engine(
    settings: Settings, *, model: Model | None = None, progress: Progress = lambda step: None
) -> RecommendEngine:
    """Loads the model (unless given), computes the instruction's KV and compiles every shape; takes seconds to minutes.

    `progress` is told what is about to happen. Items and users are yet to be put.
    """
    use_compilation_cache(settings.compilation_cache_dir())
    counter = _compilation_counter()
    if model is None:
        progress(f"loading {settings.model}")
        model = load_model(settings.model, dtype=jnp.dtype(settings.dtype))
    builder = PromptBuilder(load_template(settings.template), model.tokenizer, settings.limits.max_candidates)
    engine = _engine(settings, model, builder, counter, progress)
    for shape in engine.rank_shapes:
        progress(f"compiling rank {shape}")
        engine.slice.rank(assemble([], shape, settings.cache.page_tokens, settings.limits.max_candidates))
    _compile_probes(engine, settings, progress)
    counter.start()
    return engine


def _compile_probes(engine: RecommendEngine, settings: Settings, progress: Progress) -> None:
    for name, arm in settings.arms.items():
        measures = arm_of(arm).selection.measures
        try:
            engine.selector.compile([measure if measure.is_probe else DEVIATION for measure in measures], progress)
        except ValueError as error:
            raise ValueError(f"arm {name!r}, selection {arm.selection!r}: {error}") from error


def _engine(
    settings: Settings, model: Model, builder: PromptBuilder, counter: CompilationCounter, progress: Progress
) -> RecommendEngine:
    limits, page_tokens, dtype = settings.limits, settings.cache.page_tokens, jnp.dtype(settings.dtype)
    page_bytes = model.config.kv_values_per_token * page_tokens * dtype.itemsize
    num_pages = num_pages_for_budget(int(settings.cache.pool_bytes), page_bytes)
    progress(f"allocating {num_pages} pages of {page_bytes / 2**20:.2f} MiB")
    slice_ = Slice(
        model.params,
        model.config,
        num_pages=num_pages,
        page_tokens=page_tokens,
        dtype=dtype,
        vocab_ids=Scorer.of(builder).vocab_ids,
    )
    identity = PoolIdentity(
        model_fingerprint=model.fingerprint,
        tokenizer_fingerprint=model.tokenizer.fingerprint,
        template_version=builder.template.identity,
        kv_dtype=settings.dtype,
        page_tokens=page_tokens,
    )
    directory = BlockDirectory(PagePool(num_pages, page_tokens), GreedyDual())
    build_shapes = shapes_of("build", settings.shapes)
    progress("computing the instruction")
    cache = BlockCache(slice_, directory, identity, build_shapes, builder.instruction_block())
    for shape in build_shapes:
        progress(f"compiling build {shape}")
        slice_.build(assemble([], shape, page_tokens, 1), *cache.no_writes(shape))
    generator = None
    if settings.shapes.generate:
        shapes = shapes_of("generate", settings.shapes)
        generator = Generator(slice_, directory, shapes, model.tokenizer.eos_ids)
        for shape in shapes:
            progress(f"compiling generate {shape}")
            slice_.decode(assemble([], shape, page_tokens, 1), *generator.no_writes(shape.fresh_tokens))
    library = Library(builder, limits.max_candidates, limits.max_item_tokens, limits.max_history_tokens)
    return RecommendEngine(
        slice_,
        cache,
        builder,
        library,
        shapes_of("rank", settings.shapes),
        generator,
        {name: arm_of(arm) for name, arm in settings.arms.items()},
        EngineInfo(
            model=model.name,
            fingerprint=model.fingerprint,
            template=f"{builder.template.name} v{builder.template.version}",
            dtype=settings.dtype,
            device=_device(),
            version=importlib.metadata.version("rcjax"),
            page_tokens=page_tokens,
            max_candidates=limits.max_candidates,
            max_item_tokens=limits.max_item_tokens,
            max_history_tokens=limits.max_history_tokens,
            arms=tuple(settings.arms),
            default_arm=settings.default_arm,
        ),
        counter,
        semantic_histories(settings, cache, library, model.tokenizer.decode),
    )


def semantic_histories(
    settings: Settings, cache: BlockCache, library: Library, decode: Callable[[list[int]], str]
) -> SemanticHistories | None:
    """What lends histories to the arms that borrow them; None where there are none such."""
    if not settings.semantic_arms:
        return None
    return SemanticHistories(
        cache,
        library,
        decode,
        max_history_tokens=settings.limits.max_history_tokens,
        **settings.semantic.model_dump(),
    )


def arm_of(settings: ArmSettings) -> Arm:
    return Arm(settings.layout, settings.scoring, settings.reuse, parse_policy(settings.selection), settings.history)


def shapes_of(purpose: Literal["rank", "build", "generate"], settings: ShapeSettings) -> ShapeSet:
    return ShapeSet(purpose, [Shape(*sizes) for sizes in getattr(settings, purpose)])


def _device() -> str:
    device = jax.devices()[0]
    return f"{device.platform}:{device.device_kind}"
