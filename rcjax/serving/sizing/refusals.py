"""Why a deployment cannot work: a line for each reason, with the setting, the limit and what to do."""

from collections.abc import Iterator

from rcjax.config import Settings
from rcjax.engine.shape import Shape
from rcjax.model.config import ModelConfig
from rcjax.prompt import Layout, Reuse, Scoring
from rcjax.serving.sizing.deployment import Deployment


def unsplittable(settings: Settings, config: ModelConfig) -> str | None:
    """Why heads cannot be split over the devices of a slice, if they cannot: then nothing else can be worked out."""
    tensor, kv_heads = settings.mesh.tensor, config.num_kv_heads
    if kv_heads % tensor == 0:
        return None
    fit = [n for n in range(1, kv_heads + 1) if kv_heads % n == 0]
    return f"mesh.tensor={tensor} does not divide the model's {kv_heads} kv heads; set it to one of {fit}"


def refusals(found: Deployment) -> list[str]:
    """One reason a line; none where the deployment can work."""
    return [*_attention(found), *_memory(found), *_context(found), *_pool(found), *_reach(found), *_shapes(found)]


def _attention(found: Deployment) -> Iterator[str]:
    settings, chip = found.settings, found.chip
    if not found.has_attention:
        yield f"attention={settings.attention!r} does not run on {chip.name} ({chip.platform}); use auto"
    if found.attention == "pallas_gpu" and chip.name.startswith("a100") and found.format.dtype == "float8_e4m3fn":
        yield f"cache.kv_dtype=fp8 in pallas_gpu needs compute capability 8.9, and {chip.name} has 8.0; use int8"


def _memory(found: Deployment) -> Iterator[str]:
    memory, cache = found.memory, found.settings.cache
    if memory.free >= 0:
        return
    room = memory.usable - memory.weights - memory.workspace
    pages = max(0, room // found.page_bytes_on_device)
    largest, _ = found.largest_request
    if pages <= largest:
        yield (
            f"weights ({memory.weights:,} bytes on each device) and passes (some {memory.workspace:,}) leave room for "
            f"{pages:,} pages in the {memory.usable:,} that JAX may use of {found.chip.name}, and the largest request "
            f"has {largest:,}; raise mesh.tensor"
        )
        return
    yield (
        f"cache.pool_bytes={int(cache.pool_bytes):,} puts {memory.needed:,} bytes on each device, and JAX may use "
        f"{memory.usable:,} of {found.chip.name}; lower it to {pages * found.format.page_bytes:,}, or raise mesh.tensor"
    )


def _context(found: Deployment) -> Iterator[str]:
    limits, max_len = found.settings.limits, found.config.max_len
    for name in ("max_item_tokens", "max_history_tokens"):
        needed = found.instruction_tokens + getattr(limits, name)
        if needed > max_len:
            yield f"limits.{name} allows {needed} tokens after the instruction, the model's context has {max_len}"


def _pool(found: Deployment) -> Iterator[str]:
    """Of the requests that shapes hold, the pool must hold the blocks of the largest."""
    largest, name = found.largest_request
    if largest > found.num_pages - 1:
        yield (
            f"cache.pool_bytes={int(found.settings.cache.pool_bytes):,} is {found.num_pages - 1} pages, and the "
            f"largest request that limits and shapes allow (arm {name}) has {largest}; raise it to "
            f"{(largest + 1) * found.format.page_bytes:,} or more"
        )


def _reach(found: Deployment) -> Iterator[str]:
    """Limits beyond every shape: in the default arm, and in others where not even one candidate fits."""
    traffic = found.traffic
    mean = round(traffic.item_tokens), round(traffic.history_tokens)
    for name, reach in found.reaches.items():
        most = reach.max_candidates(found.settings.limits.max_candidates, *mean)
        if most == 0:
            yield f"no shape of shapes.rank holds one candidate of mean length in arm {name}; add a larger one"
        elif name == found.settings.default_arm:
            yield from _default_reach(found, name, most, mean)


def _default_reach(found: Deployment, arm: str, most: int, mean: tuple[int, int]) -> Iterator[str]:
    """`most` candidates of mean length are what a request may have."""
    limits, reach, max_len = found.settings.limits, found.reaches[arm], found.config.max_len
    if most < limits.max_candidates:
        yield (
            f"limits.max_candidates={limits.max_candidates} is more than any shape of shapes.rank holds in the "
            f"default arm {arm}: {most} candidates of {mean[0]} tokens; lower it or add a larger shape"
        )
    if not reach.max_candidates(1, limits.max_item_tokens, limits.max_history_tokens):
        yield (
            f"limits.max_item_tokens={limits.max_item_tokens} beside limits.max_history_tokens="
            f"{limits.max_history_tokens} is more than any shape of shapes.rank holds of one candidate in the default "
            f"arm {arm}; lower them or add a larger shape"
        )
    if (positions := reach.size(most, *mean).num_positions) > max_len:
        yield f"{most} candidates make a prompt of {positions} positions, the model's context has {max_len}"


def _shapes(found: Deployment) -> Iterator[str]:
    """Shapes that no request can use, and the build shape that there must be."""
    settings = found.settings
    own = [Shape(**size.model_dump(), at_home=size.tiles > 0) for size in settings.shapes.rank]  # as they are numbered
    has_tiled = any(
        (arm.layout, arm.scoring, arm.reuse) == (Layout.PARALLEL, Scoring.ANCHOR, Reuse.BLOCKS)
        for arm in settings.arms.values()
    )
    for number, shape in enumerate(own):
        if shape in own[:number]:
            yield f"shapes.rank[{number}] is there twice; leave one out"
        elif shape.tiles and not has_tiled:
            why = "it has tiles, and no arm is of layout parallel with scoring anchor and reuse blocks"
            yield f"shapes.rank[{number}] can be used by no request: {why}"
        elif (other := _better(found, shape, own)) is not None:
            yield (
                f"shapes.rank[{number}] ({shape}) can be used by no request: all within limits that it holds fit "
                f"{other}, which takes less time; leave it out or raise limits"
            )
    needed = max(settings.limits.max_item_tokens, settings.limits.max_history_tokens)
    pages = -(-found.instruction_tokens // settings.cache.page_tokens)
    if not any(shape.fresh_tokens >= needed and shape.num_pages >= pages for shape in settings.shapes.build):
        yield f"no shape of shapes.build has {needed} fresh tokens and the instruction's {pages} pages; add one"


def _better(found: Deployment, shape: Shape, others: list[Shape]) -> Shape | None:
    """A faster shape that holds all that `shape` does of the requests within limits, if there is one."""
    limits = found.settings.limits
    longest = limits.max_candidates, limits.max_item_tokens, limits.max_history_tokens
    largest = [reach.size(*longest) for reach in found.reaches.values()]
    tokens = min(shape.fresh_tokens, max(size.prompt_tokens for size in largest))
    pages = min(shape.num_pages, max(size.block_pages for size in largest))
    tiles = min(shape.tiles, limits.max_candidates)
    for other in others:
        holds = other.fresh_tokens >= tokens and other.num_pages >= pages and other.batch >= shape.batch
        has_tiles = other.tiles >= tiles and other.at_home == shape.at_home
        fits_tile = not tiles or other.takes(shape.tile_tokens, shape.tile_pages)
        if holds and has_tiles and fits_tile and found.cost.pass_s("rank", other) < found.cost.pass_s("rank", shape):
            return other
    return None
