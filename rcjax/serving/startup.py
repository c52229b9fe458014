"""Start-up: from settings to an engine whose programs are compiled."""

import importlib.metadata
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp

from rcjax.cache.placement import RequestLog
from rcjax.config import Settings
from rcjax.engine.compilation import CompilationCounter, use_compilation_cache
from rcjax.engine.library import Library
from rcjax.engine.planner import Planner
from rcjax.engine.worker import SliceWorker
from rcjax.model.context import check_context
from rcjax.model.dtype import AutoDtype
from rcjax.model.spec import Model, load_model
from rcjax.prompt import Layout, PromptBuilder, Scoring
from rcjax.prompt.template import load_template
from rcjax.request import EngineInfo
from rcjax.serving.local import LocalEngine
from rcjax.serving.mesh import engine_mesh, first_slice
from rcjax.serving.peers import connect_slices
from rcjax.serving.residency import Residency
from rcjax.serving.router import Router
from rcjax.serving.routing import limits_of, owners_of, policy_of
from rcjax.serving.self_test import SelfTest
from rcjax.serving.slices import SliceParts, arm_of, new_worker, slice_parts
from rcjax.serving.snapshots import Snapshots
from rcjax.serving.warm_up import warm_up

logger = logging.getLogger(__name__)

Progress = Callable[[str], None]
TEXT_CACHE_BYTES = 2**28  # of the tokens of items and users that were used last; those of a million items take 1 GB


@cache
def compilation_counter() -> CompilationCounter:
    """Of the whole process, as JAX tells of compilations without saying whose they are."""
    return CompilationCounter()


def start_engine(
    settings: Settings,
    *,
    model: Model | None = None,
    progress: Progress = lambda step: None,
    self_test: bool = False,
) -> LocalEngine:
    """Loads the model (unless given), computes the instruction's KV and compiles every shape; takes seconds to minutes.

    `progress` is told what is about to happen. Items and users are yet to be put. With `self_test` an engine whose
    cached path does not rank as full recompute does raises a `SelfTestError` instead of being returned.

    Example:

        >>> with start_engine(settings) as engine:
        ...     engine.stats().num_items
        0
    """
    counter = compilation_counter()
    owners = owners_of(settings.mesh)
    own = new_slices(settings, model, progress)
    tiers = connect_slices(settings, own.workers, own.residency)
    test = own.self_test(settings) if self_test else None
    counter.start()
    router = Router(
        own.planner,
        own.workers,
        own.planner.library,
        own.info,
        limits=limits_of(settings.admission),
        planner_threads=settings.server.planner_threads,
        residency=own.residency,
        policy=policy_of(settings.mesh.scheduler),
        max_imbalance=settings.mesh.scheduler.max_imbalance,
        owners=owners,
        costs=own.parts.cost,
        request_log=RequestLog(settings.mesh.request_log) if settings.mesh.request_log else None,
        count_compilations=counter,
        tiers=tiers,
    )
    router.start()
    if test is not None:
        _run(test, router, own.workers, progress)
    taken = settings.snapshot
    if taken.where is not None:
        router.snapshots = Snapshots(router, taken.where, keep=taken.keep, every_s=taken.every_s, on_stop=taken.on_stop)
        router.snapshots.start()
    return LocalEngine(router, own.builder.text_block)


@dataclass(frozen=True, slots=True, eq=False)
class OwnSlices:
    """The slices of this process: compiled, knowing the instruction's block only, not connected and not started."""

    parts: SliceParts
    builder: PromptBuilder
    planner: Planner
    workers: list[SliceWorker]
    residency: Residency
    info: EngineInfo

    def self_test(self, settings: Settings) -> SelfTest:
        """What compares their cached path with full recompute, once they have started."""
        return SelfTest(settings, self.parts, self.planner, self.info, self.builder)


def new_slices(
    settings: Settings,
    model: Model | None,
    progress: Progress,
    new_residency: Callable[[int], Residency] = Residency,
) -> OwnSlices:
    """Loads the model (unless given) and compiles every shape; `new_residency` makes what the workers report to."""
    mesh = engine_mesh(settings.mesh)
    use_compilation_cache(settings.compilation_cache_dir())
    if model is None:
        progress(f"loading {settings.weights}")
        model = model_of(settings)
    builder = PromptBuilder(load_template(settings.template), model.tokenizer, settings.limits.max_candidates)
    if note := closing_note(settings, builder):
        logger.warning(note)
    for note in adapter_notes(settings, model, builder):
        logger.warning(note)
    _check_limits(settings, model, builder)
    parts = slice_parts(settings, model, builder, progress, mesh)
    planner = new_planner(settings, parts, builder)
    residency = new_residency(parts.num_slices)
    workers = _new_workers(settings, parts, planner, builder, residency)
    warm_up(settings, parts, workers, progress)
    return OwnSlices(parts, builder, planner, workers, residency, engine_info(settings, model, builder))


def _check_limits(settings: Settings, model: Model, builder: PromptBuilder) -> None:
    """`ModelLoadError` where the model has too few positions for the blocks that the limits allow."""
    own_len, limits = len(builder.instruction_ids), settings.limits
    check_context(
        model.config,
        {
            "limits.max_item_tokens, after the instruction,": own_len + limits.max_item_tokens,
            "limits.max_history_tokens, after the instruction,": own_len + limits.max_history_tokens,
        },
    )


def _run(test: SelfTest, router: Router, workers: Sequence[SliceWorker], progress: Progress) -> None:
    """Runs the self-test; an engine that fails is stopped."""
    progress(f"self-test: cached blocks against full recompute in {', '.join(test.arms) or 'no arm'}")
    for arm, why in test.untested.items():
        logger.warning("the self-test leaves out arm %r: %s", arm, why)
    try:
        test.run(workers)
    except BaseException:
        router.stop(0.0)
        raise
    finally:
        test.close()


def _new_workers(
    settings: Settings, parts: SliceParts, planner: Planner, builder: PromptBuilder, residency: Residency
) -> list[SliceWorker]:
    """A worker for each slice, which tells `residency` what it holds; ValueError where its pool is too large."""
    try:
        return [
            new_worker(
                settings,
                parts,
                planner,
                builder,
                index=index,
                on_commit=partial(residency.commit, index),
                on_evict=partial(residency.evict, index),
            )
            for index in range(parts.num_slices)
        ]
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        num_bytes = int(settings.cache.pool_bytes)
        raise ValueError(f"cache.pool_bytes={num_bytes:,} cannot be allocated beside the weights; lower it") from error


def model_of(settings: Settings) -> Model:
    """Loads the settings' model onto the first slice's devices, and logs the dtype of its weights."""
    shardings = first_slice(settings.mesh)
    dtype = AutoDtype() if settings.dtype == "auto" else jnp.dtype(settings.dtype)
    model = load_model(settings.model, dtype=dtype, shardings=shardings, adapter=settings.adapter)
    logger.info("%s: weights in %s (%s)", model.name, model.dtype, model.dtype_reason)
    return model


def closing_note(settings: Settings, builder: PromptBuilder) -> str | None:
    """What to tell where candidates of the `parallel` layout with anchors cost more than a token each, else None."""
    arms = [n for n, arm in settings.arms.items() if (arm.layout, arm.scoring) == (Layout.PARALLEL, Scoring.ANCHOR)]
    num_tokens = builder.closing_len(Layout.PARALLEL, Scoring.ANCHOR)
    if not arms or num_tokens <= 1:
        return None
    note = (
        f"template {builder.template.name!r}: anchor.parallel.after_item is {num_tokens} tokens for this model, and "
        f"each candidate costs as many in {', '.join(arms)}; a text of one token is the fastest"
    )
    tile_tokens = max((shape.tile_tokens for shape in settings.shapes.rank if shape.tiles), default=num_tokens)
    if tile_tokens < num_tokens:
        note += f"; no tile of shapes.rank takes more than {tile_tokens}, so tiles are not used"
    return note


def adapter_notes(settings: Settings, model: Model, builder: PromptBuilder) -> list[str]:
    """What to tell where the model's adapter is used otherwise than it was trained; nothing where it does not say."""
    if model.adapter is None:
        return []
    arms = {(arm.layout, arm.scoring) for arm in settings.arms.values()}
    notes = model.adapter.mismatches(builder.template, arms, model.base_fingerprint)
    return [*notes, note] if (note := settings.other_shop_note) else notes


def new_planner(settings: Settings, parts: SliceParts, builder: PromptBuilder) -> Planner:
    """A planner over a library that knows no items and no users."""
    return Planner(
        builder,
        Library(TEXT_CACHE_BYTES),
        parts.keys,
        {name: arm_of(arm) for name, arm in settings.arms.items()},
        engine_info(settings, parts.model, builder),
        parts.rank_shapes,
        max_len=parts.model.config.max_len,
        max_block_pages=parts.max_block_pages,
        generate_shapes=parts.shapes.get("generate"),
    )


def engine_info(settings: Settings, model: Model, builder: PromptBuilder) -> EngineInfo:
    limits = settings.limits
    device = jax.devices()[0]
    return EngineInfo(
        model=model.name,
        fingerprint=model.fingerprint,
        template=f"{builder.template.name} v{builder.template.version}",
        dtype=model.dtype,
        device=f"{device.platform}:{device.device_kind}",
        version=importlib.metadata.version("rcjax"),
        page_tokens=settings.cache.page_tokens,
        max_candidates=limits.max_candidates,
        max_item_tokens=limits.max_item_tokens,
        max_history_tokens=limits.max_history_tokens,
        arms=tuple(settings.arms),
        default_arm=settings.default_arm,
        dtype_reason=model.dtype_reason,
        num_slices=settings.mesh.slices,
        tensor=settings.mesh.tensor,
        limits=limits.of_service(),
    )
