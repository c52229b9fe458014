"""`rcjax plan`'s findings, put together."""

from rcjax.config import Settings
from rcjax.model.config import ModelConfig
from rcjax.serving.sizing.chips import Chip
from rcjax.serving.sizing.deployment import Deployment
from rcjax.serving.sizing.pools import PoolCapacity, blocks_in, copies_of, mean_pages
from rcjax.serving.sizing.refusals import refusals, unsplittable
from rcjax.serving.sizing.report import ArmReport, CatalogueSeconds, PoolReport, Sizing, TierReport
from rcjax.serving.sizing.seconds import BuildRate, modelled_rate, restore_s
from rcjax.serving.sizing.traffic import Traffic
from rcjax.serving.slices import measures_of


def size_deployment(
    settings: Settings,
    config: ModelConfig,
    chip: Chip,
    traffic: Traffic,
    *,
    timed: BuildRate | None = None,
    disk_bytes_per_s: float,
) -> Sizing:
    """What the deployment takes on each device and holds, and why it cannot work, if it cannot.

    `timed` is what a slice was seen to build. ValueError, which names the setting, where nothing can be worked out:
    heads that cannot be split, or a pool of less than two pages.
    """
    if reason := unsplittable(settings, config):
        raise ValueError(reason)
    found = Deployment(settings, config, chip, traffic)
    pool = _pool(found)
    return Sizing(
        model=settings.model,
        device=chip.name,
        num_slices=settings.mesh.slices,
        tensor=settings.mesh.tensor,
        dtype=found.dtype,
        kv_dtype=found.format.dtype,
        attention=found.attention,
        num_programs=_num_programs(found),
        memory=found.memory,
        pool=pool,
        tiers=_tiers(found),
        arms=tuple(_arm(found, name) for name in settings.arms),
        seconds=_seconds(found, pool, timed, disk_bytes_per_s),
        notes=tuple(_notes(found)),
        refusals=tuple(refusals(found)),
    )


def _capacity(found: Deployment) -> PoolCapacity:
    mesh, page_tokens = found.settings.mesh, found.settings.cache.page_tokens
    instruction = -(-found.instruction_tokens // page_tokens)
    replicas = mesh.replica_share * found.num_pages if mesh.slices > 1 else 0
    return PoolCapacity(
        num_pages=max(0.0, found.num_pages - 1 - instruction - replicas),
        num_slices=mesh.slices,
        copies=copies_of(mesh),
        item_pages=mean_pages(found.traffic.item_tokens, page_tokens),
        history_pages=mean_pages(found.traffic.history_tokens, page_tokens),
    )


def _pool(found: Deployment) -> PoolReport:
    capacity, traffic, page_bytes = _capacity(found), found.traffic, found.format.page_bytes
    users = traffic.num_users or 0
    items = capacity.items_beside(users) if traffic.num_items is None else traffic.num_items
    if traffic.num_users is None and traffic.num_items is not None:
        users = capacity.users_beside(items)
    return PoolReport(
        num_pages=found.num_pages,
        page_bytes=page_bytes,
        token_bytes=page_bytes / found.settings.cache.page_tokens,
        item_bytes=round(capacity.item_pages * page_bytes),
        history_bytes=round(capacity.history_pages * page_bytes),
        item_copies=capacity.copies,
        items_alone=capacity.items_beside(0),
        users_alone=capacity.users_beside(0),
        items=items,
        users=users,
        share_held=capacity.share_held(items, users),
    )


def _tiers(found: Deployment) -> tuple[TierReport, ...]:
    cache = found.settings.cache
    sizes = {"host": int(cache.host_bytes), "disk": 0 if cache.disk is None else int(cache.disk.bytes)}
    return tuple(
        TierReport(name, num_bytes, *blocks_in(num_bytes, found.format.page_bytes, found.traffic, cache.page_tokens))
        for name, num_bytes in sizes.items()
        if num_bytes
    )


def _arm(found: Deployment, name: str) -> ArmReport:
    limits, traffic, reach = found.settings.limits, found.traffic, found.reaches[name]
    mean = round(traffic.item_tokens), round(traffic.history_tokens)
    candidates = reach.max_candidates(limits.max_candidates, *mean)
    longest = reach.max_candidates(limits.max_candidates, limits.max_item_tokens, limits.max_history_tokens)
    size = reach.size(candidates, *mean)
    return ArmReport(name, candidates, longest, size.row.fresh_tokens, size.block_pages)


def _seconds(found: Deployment, pool: PoolReport, timed: BuildRate | None, disk_bytes_per_s: float) -> CatalogueSeconds:
    traffic, mesh = found.traffic, found.settings.mesh
    largest = max(found.shapes["build"], key=lambda shape: shape.fresh_tokens * shape.batch)
    rate = timed or modelled_rate(
        found.config,
        found.chip,
        tensor=mesh.tensor,
        tokens=largest.fresh_tokens * largest.batch,
        context=found.instruction_tokens + traffic.item_tokens / 2,
        weight_bytes=found.weights.num_bytes,
    )
    num_tokens = pool.items * traffic.item_tokens + pool.users * traffic.history_tokens
    num_bytes = pool.items * pool.item_bytes + pool.users * pool.history_bytes
    copied = pool.items * pool.item_bytes * pool.item_copies + pool.users * pool.history_bytes * mesh.slices
    return CatalogueSeconds(
        num_items=pool.items,
        num_users=pool.users,
        num_tokens=round(num_tokens),
        num_bytes=num_bytes,
        build_s=num_tokens / rate.tokens_per_s / mesh.slices,
        restore_s=restore_s(
            num_bytes, copied / num_bytes if num_bytes else 1, found.chip, mesh.num_devices, disk_bytes_per_s
        ),
        basis=rate.basis,
    )


def _num_programs(found: Deployment) -> int:
    """Passes and, for each build or generate shape, the writing of what it made; two more move pages to the host."""
    shapes = {purpose: len(of) for purpose, of in found.shapes.items()}
    probes = len({measure for _, measure in measures_of(found.settings)}) * shapes["rank"]
    return shapes["rank"] + probes + 2 * (shapes["build"] + shapes.get("generate", 0)) + 2


def _notes(found: Deployment) -> list[str]:
    settings, chip = found.settings, found.chip
    notes = []
    if settings.attention == "auto" and chip.platform != "cpu" and found.attention == "reference":
        notes.append(f"attention: auto takes reference on {chip.name}: no tuned table has these heads; name the kernel")
    if settings.dtype == "auto" and chip.platform == "cpu":
        notes.append("dtype: auto is measured at start on a CPU; float32, which takes more, is assumed")
    if chip.platform == "cpu" and "bfloat16" in (found.dtype, found.format.dtype):
        notes.append("with JAX before 0.12 a pass on a CPU in bfloat16 takes twice the pool's bytes more; use float32")
    short = [name for name in settings.arms if _arm(found, name).candidates < settings.limits.max_candidates]
    if short:
        most = ", ".join(f"{name} {_arm(found, name).candidates}" for name in short)
        notes.append(f"of limits.max_candidates={settings.limits.max_candidates}, arms hold at mean lengths: {most}")
    if settings.semantic_arms:
        num_bytes = settings.semantic.max_prototypes * found.config.kv_values_per_token * 4
        notes.append(f"the semantic pool may take {num_bytes:,} bytes of host memory")
    if _capacity(found).share_held(found.traffic.num_items or 0, found.traffic.num_users or 0) < 1:
        notes.append("items and users are more than the pools hold: what is used least is evicted")
    return notes
