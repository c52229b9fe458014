"""What is compiled ahead of time: the attention kernel in named shapes, and a whole pass of an 8B model."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from chips import Chip
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rcjax.cache import num_pages_for_budget
from rcjax.config import Settings, ShapeSize, load_settings
from rcjax.kernels.kv import KVFormat, KVPages
from rcjax.kernels.selective_attention import Attention, PageLayout, Rope, TileLayout, TokenLayout
from rcjax.kernels.selective_attention.config import GpuTiling, TpuTiling
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Batch, abstract_params, extend, unembed
from rcjax.model.kv import kv_format
from rcjax.model.sharding import page_shardings, param_shardings

QWEN3_8B = ModelConfig(36, 4096, 32, 8, 128, 12288, 151936, 1e6, 1e-6, 40960, qk_norm=True)
PAGE_TOKENS = 16
CONFIGS = Path(__file__).parents[2] / "configs"
DEPLOYED = {"h100": "h100-1", "v5e": "v5e-8"}  # by chip, the file in configs/; h100-8's slices are h100-1's
Lowerable = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of a pass: `tiles` are so many, with so many tokens and pages each."""

    batch: int
    fresh: int
    pages: int
    tiles: tuple[int, int, int] | None = None
    moved: bool = True

    def tokens(self, mesh: Mesh) -> TokenLayout:
        return TokenLayout(*[struct(mesh, (self.batch, self.fresh), jnp.int32)] * 3)

    def shared_pages(self, mesh: Mesh) -> PageLayout:
        return self._pages(mesh, self.batch, self.pages)

    def tile_layout(self, mesh: Mesh) -> TileLayout | None:
        if self.tiles is None:
            return None
        num_tiles, tokens, pages = self.tiles
        own = self._pages(mesh, self.batch, num_tiles, pages)
        return TileLayout(struct(mesh, (self.batch, num_tiles, tokens), jnp.int32), own)

    def _pages(self, mesh: Mesh, *lead: int) -> PageLayout:
        number = struct(mesh, lead, jnp.int32)
        drop = struct(mesh, (*lead, PAGE_TOKENS), jnp.bool_)
        return PageLayout(number, number, number, number, drop, number if self.moved else None)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A call of the operator, or of its mass, on a pool of `num_pages`, which is many times what a call reads."""

    sizes: Sizes
    heads: tuple[int, int] = (32, 8)
    head_dim: int = 128
    dtype: str = "bfloat16"
    kv_dtype: str = "bfloat16"
    window: int | None = None
    is_mass: bool = False
    devices: int = 1
    tiling: GpuTiling | TpuTiling | None = None
    row_major: bool = True
    num_pages: int = 65_536

    @property
    def kv_format(self) -> KVFormat:
        return KVFormat(self.kv_dtype, 1, self.heads[1], self.head_dim, PAGE_TOKENS)


@dataclass(frozen=True, slots=True)
class Step:
    """A pass of Qwen3-8B, with logits of a ranking's labels at its last tokens and the fresh tokens' KV as results."""

    sizes: Sizes
    devices: int
    num_pages: int
    num_read: int = 20
    num_labels: int = 102
    kv_dtype: str = "bfloat16"


SERVED = Sizes(batch=8, fresh=128, pages=256)
TILED = Sizes(batch=8, fresh=100, pages=48, tiles=(20, 4, 8), moved=False)
FEW = Sizes(batch=4, fresh=32, pages=64)

KERNELS = {
    "served": Kernel(SERVED),
    "tiles": Kernel(TILED),
    "full recompute": Kernel(Sizes(batch=1, fresh=2048, pages=0)),
    "one token": Kernel(Sizes(batch=8, fresh=1, pages=256)),
    "window": Kernel(FEW, window=4096),
    "float32": Kernel(FEW, dtype="float32", kv_dtype="float32"),
    "int8 pages": Kernel(SERVED, kv_dtype="int8"),
    "fp8 pages": Kernel(SERVED, kv_dtype="float8_e4m3fn"),
    "int8 pages of 2 kv heads": Kernel(FEW, heads=(8, 2), kv_dtype="int8"),
    "group of 1": Kernel(FEW, heads=(8, 8)),
    "group of 3": Kernel(FEW, heads=(24, 8)),
    "group of 8": Kernel(FEW, heads=(64, 8)),
    "heads of 64": Kernel(FEW, heads=(32, 8), head_dim=64),
    "SmolLM2": Kernel(FEW, heads=(9, 3), head_dim=64),
    "heads of 80": Kernel(FEW, heads=(8, 8), head_dim=80),
    "heads of 96": Kernel(FEW, heads=(32, 8), head_dim=96),
    "heads of 256": Kernel(FEW, heads=(16, 8), head_dim=256),
    "on 4 devices": Kernel(SERVED, devices=4),
    "mass": Kernel(SERVED, is_mass=True),
}
# Of a chip whose compiler has all of them for another chip, those that ask most of it: compiling takes CI long enough.
ON_V6E = ("served", "tiles", "float32", "int8 pages", "fp8 pages", "heads of 256", "mass")
STEPS = {
    "h100": {
        "Qwen3-8B": Step(SERVED, devices=1, num_pages=24_000),
        "Qwen3-8B, int8 pages": Step(SERVED, devices=1, num_pages=44_000, kv_dtype="int8"),
    },
    "v5e": {"Qwen3-8B": Step(SERVED, devices=4, num_pages=16_000)},
}


def deployment(chip_name: str) -> Settings:
    return load_settings(CONFIGS / f"{DEPLOYED[chip_name]}.yaml")


def deployed_steps(chip_name: str) -> dict[str, Step]:
    """The passes of a deployment that compute most: one that builds, and one of its default arm that ranks."""
    settings = deployment(chip_name)
    assert settings.cache.page_tokens == PAGE_TOKENS
    kv_dtype = settings.kv_dtype(settings.dtype)
    page_bytes = kv_format(QWEN3_8B, kv_dtype, PAGE_TOKENS).page_bytes
    num_pages = num_pages_for_budget(int(settings.cache.pool_bytes), page_bytes)
    num_candidates = settings.limits.max_candidates

    def step(shape: ShapeSize, num_read: int, num_labels: int) -> Step:
        tiles = (shape.tiles, shape.tile_tokens, shape.tile_pages) if shape.tiles else None
        sizes = Sizes(shape.batch, shape.fresh_tokens, shape.num_pages, tiles, moved=False)
        return Step(sizes, settings.mesh.tensor, num_pages, num_read, num_labels, kv_dtype)

    def tokens(shape: ShapeSize) -> int:
        return shape.batch * shape.fresh_tokens

    tiled = [shape for shape in settings.shapes.rank if shape.tiles]
    return {
        f"{DEPLOYED[chip_name]} builds": step(max(settings.shapes.build, key=tokens), 1, 1),
        f"{DEPLOYED[chip_name]} ranks": step(max(tiled, key=tokens), num_candidates, num_candidates + 2),
    }


STEPS = {name: STEPS.get(name, {}) | (deployed_steps(name) if name in DEPLOYED else {}) for name in STEPS}
# An A100 has no instructions for fp8.
REFUSED = {"a100": {"fp8 pages"}}
# 64 rows of float32 are more than registers hold, by 24 to 260 bytes a thread; 16 are not. In products of three parts
# on tensor cores they are slow in any case: what is served on a GPU is bfloat16.
SPILLING = {"float32"}
# What must show in a report, or else the other reports would prove nothing.
SPILLS, COPIES, OVERFLOWS = "spills", "copies the pool", "overflows"
CONTROLS = {
    "cuda": {SPILLS: Kernel(SERVED, tiling=GpuTiling(keys=128))},
    "tpu": {
        COPIES: Kernel(FEW, head_dim=64, row_major=False),
        OVERFLOWS: Kernel(Sizes(batch=1, fresh=512, pages=16), tiling=TpuTiling(queries=512)),
    },
}


def kernels_of(chip: Chip) -> dict[str, Kernel]:
    return {name: KERNELS[name] for name in ON_V6E} if chip.name == "v6e" else KERNELS


def programs_of(chip: Chip) -> dict[str, Kernel | Step]:
    return kernels_of(chip) | STEPS.get(chip.name, {}) | CONTROLS[chip.platform]


def struct(mesh: Mesh, shape: tuple[int, ...], dtype: Any, *spec: str | None) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))


def pool(kv_format: KVFormat, num_pages: int, mesh: Mesh, row_major: bool) -> KVPages:
    """K and V row-major, as the TPU kernel wants them, or all as the compiler likes it."""

    def placed(array: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        is_ordered = row_major and len(array.shape) == 5
        order = Format(Layout((0, 1, 2, 3, 4)), sharding) if is_ordered else sharding
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=order)

    return jax.tree.map(placed, kv_format.abstract(num_pages), page_shardings(kv_format, num_pages, mesh))


def kernel_program(kernel: Kernel, attention: Attention, mesh: Mesh) -> Lowerable:
    """The function and the shapes of its arguments, the pool first."""
    rope = Rope(np.ones(kernel.head_dim // 2, np.float32))

    def attend(pages, tokens, shared, tiles, q, k_new, v_new):  # type: ignore[no-untyped-def]
        view = attention.view(tokens, shared, tiles, rope=rope, window=kernel.window)
        return attention(view, q, k_new, v_new, pages.joined(), 0)

    def measure(pages, tokens, shared, counts, q, k_new):  # type: ignore[no-untyped-def]
        return attention.mass(q, k_new, tokens, counts, pages.joined(), shared, rope=rope, window=kernel.window)

    def fresh(heads: int) -> jax.ShapeDtypeStruct:
        shape = kernel.sizes.batch, kernel.sizes.fresh, heads, kernel.head_dim
        return struct(mesh, shape, kernel.dtype, None, None, "tensor")

    sizes, (num_heads, num_kv_heads) = kernel.sizes, kernel.heads
    pages = pool(kernel.kv_format, kernel.num_pages, mesh, kernel.row_major)
    layouts = sizes.tokens(mesh), sizes.shared_pages(mesh)
    if kernel.is_mass:
        counts = struct(mesh, (sizes.batch, sizes.fresh), jnp.bool_)
        return measure, (pages, *layouts, counts, fresh(num_heads), fresh(num_kv_heads))
    fresh_arrays = fresh(num_heads), fresh(num_kv_heads), fresh(num_kv_heads)
    return attend, (pages, *layouts, sizes.tile_layout(mesh), *fresh_arrays)


def step_program(step: Step, attention: Attention, mesh: Mesh) -> Lowerable:
    """The function and the shapes of its arguments: pool, weights, batch."""
    config, sizes = QWEN3_8B, step.sizes
    labels = np.arange(step.num_labels)

    def run(pages, params, batch):  # type: ignore[no-untyped-def]
        hidden, fresh = extend(params, config, batch, pages, attention)
        return unembed(params, hidden, jnp.asarray(labels)), fresh

    def placed(array: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)

    params = jax.tree.map(placed, abstract_params(config, jnp.bfloat16), param_shardings(config, mesh))
    batch = Batch(
        struct(mesh, (sizes.batch, sizes.fresh), jnp.int32),
        sizes.tokens(mesh),
        sizes.shared_pages(mesh),
        struct(mesh, (sizes.batch, step.num_read), jnp.int32),
        sizes.tile_layout(mesh),
    )
    pages = pool(kv_format(config, step.kv_dtype, PAGE_TOKENS), step.num_pages, mesh, row_major=True)
    return run, (pages, params, batch)
