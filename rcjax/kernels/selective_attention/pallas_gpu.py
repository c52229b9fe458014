"""Selective attention on NVIDIA GPUs from Ampere on: a Pallas kernel for the Triton backend.

Pages are read where they lie in the pool and their keys turned on the way: no copy of the context is made. One kernel
attends to the pages that all queries may see, to the fresh tokens (pages of another pool) and to the pages of each
tile (a prompt of its own); XLA merges the softmaxes. Few query rows and a long context are the normal case, so a
context is split among thread blocks, as in Dao et al., "Flash-Decoding for long-context inference" (2023).
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.api import Attention
from rcjax.kernels.selective_attention.config import MAX_ROWS, GpuTiling, Tilings
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TileLayout, TokenLayout
from rcjax.kernels.selective_attention.page_kernel import MIN_HALF, MIN_ROWS, Launch, attend_pages
from rcjax.kernels.selective_attention.page_mass import GpuMeasure
from rcjax.kernels.selective_attention.page_parts import PageParts, attend_parts, check_dtypes, page_parts
from rcjax.kernels.selective_attention.rotation import Rotation, by_shift
from rcjax.kernels.selective_attention.softmax import Partial
from rcjax.kernels.selective_attention.visibility import KeyLayout, cached_keys
from rcjax.kernels.selective_attention.visits import Visits, visits

FIRST_CAPABILITY_WITH_FP8 = (8, 9)
MAX_HEAD_DIM = 256  # more would not fit a multiprocessor's registers


@dataclass(frozen=True, slots=True)
class MakeGpuView:
    """`Attention.view`."""

    tilings: Tilings[GpuTiling]

    def __call__(
        self, tokens: TokenLayout, pages: PageLayout, tiles: TileLayout | None, *, rope: Rope, window: int | None
    ) -> PageParts:
        batch, num_fresh = tokens.pos.shape
        page_tokens = math.gcd(num_fresh, 16)  # whole pages, so that fresh keys stay where they are
        table = jnp.arange(tokens.pos.size // page_tokens, dtype=jnp.int32).reshape(batch, -1)

        def visited(tokens: TokenLayout, keys: KeyLayout, table: AnyArray, turn: Rotation | None) -> Visits:
            block = min(self.tilings.of(tokens.pos.shape[1]).queries, tokens.pos.shape[1])
            return visits(tokens, keys, table, turn, query_block=block, window=window)

        def read(tokens: TokenLayout, pages: PageLayout) -> Visits:
            _check_pages(pages.drop.shape[2], self.tilings.of(tokens.pos.shape[1]))
            turn = None if pages.shift is None else by_shift(pages.shift, rope)
            return visited(tokens, cached_keys(pages), pages.table, turn)

        fresh = visited(tokens, KeyLayout(tokens.pos, tokens.segment, tokens.pos >= 0), table, None)
        return page_parts(fresh, read, tokens, pages, tiles)


@dataclass(frozen=True, slots=True)
class GpuAttend:
    """`Attention.__call__`; products have operands of the type of `q` and accumulate in float32."""

    tilings: Tilings[GpuTiling]
    interpret: bool

    def __call__(
        self,
        view: PageParts,
        q: Float[Array, "B T N H"],
        k_new: Float[Array, "B T K H"],
        v_new: Float[Array, "B T K H"],
        kv: PagedKV,
        first_page: Int[AnyArray, ""] | int,
    ) -> Float[Array, "B T N H"]:
        _check_operands(q, k_new, kv)
        as_pages = (-1, view.fresh.page_tokens, *k_new.shape[2:])
        fresh = PagedKV(k_new.reshape(as_pages), v_new.reshape(as_pages))
        return attend_parts(view, self._attend, q, fresh, kv, first_page)

    def _attend(self, read: Visits, q: Float[Array, "U T N H"], kv: PagedKV, first_page: Any) -> Partial:
        """[U, T, N] of the queries of U prompts or tiles."""
        _, blocks, query_block = read.queries.pos.shape
        kv_heads = kv.k.shape[2]
        group = q.shape[2] // kv_heads
        tiling = self.tilings.of(q.shape[1])
        num_splits = tiling.num_splits(len(q) * blocks * kv_heads, read.key_pos.shape[1])
        _check_rows(query_block, group)
        launch = Launch(group, tiling.keys, num_splits, tiling.warps, tiling.stages, self.interpret)
        rows = _rows(q, kv_heads, blocks, query_block)
        found = _joined_splits(attend_pages(read, rows, kv, first_page, launch))

        def of_queries(x: Array) -> Array:
            x = x[:, :, :, : query_block * group]
            x = x.reshape(*x.shape[:3], query_block, group, *x.shape[4:])
            x = jnp.moveaxis(x, 3, 2)  # [U, I, Q, K, G, ...]
            return x.reshape(len(q), blocks * query_block, q.shape[2], *x.shape[5:])[:, : q.shape[1]]

        return Partial(*(of_queries(x) for x in found))


def pallas_gpu(interpret: bool = False, tiling: GpuTiling | Tilings[GpuTiling] | None = None) -> Attention:
    """The implementation with these tile sizes; interpreted, it runs on a CPU, slowly."""
    tilings = tiling if isinstance(tiling, Tilings) else Tilings.always(tiling or GpuTiling())
    view = MakeGpuView(tilings)
    return Attention("pallas_gpu", view, GpuAttend(tilings, interpret), GpuMeasure(view, tilings, interpret))


def _rows(q: Float[Array, "U T N H"], kv_heads: int, blocks: int, query_block: int) -> Float[Array, "U I K 2 R F"]:
    """The query heads of each kv head as rows, query by query, in halves that are padded as the kernel wants them."""
    units, num_queries, num_heads, head_dim = q.shape
    rows = query_block * num_heads // kv_heads
    q = jnp.pad(q, ((0, 0), (0, blocks * query_block - num_queries), (0, 0), (0, 0)))
    q = q.reshape(units, blocks, query_block, kv_heads, -1, 2, head_dim // 2)
    q = q.transpose(0, 1, 3, 5, 2, 4, 6).reshape(units, blocks, kv_heads, 2, rows, head_dim // 2)
    padding = [
        (0, max(least, pl.next_power_of_2(size)) - size)
        for size, least in ((rows, MIN_ROWS), (head_dim // 2, MIN_HALF))
    ]
    return jnp.pad(q, [(0, 0)] * 4 + padding)


def _joined_splits(found: Partial) -> Partial:
    """[U, I, K, R] from what each split found."""
    top = found.top.max(1)
    weight = jnp.exp(found.top - top[:, None])
    return Partial(top, (found.total * weight).sum(1), (found.out * weight[..., None]).sum(1))


def _check_pages(page_tokens: int, tiling: GpuTiling) -> None:
    if page_tokens & (page_tokens - 1):
        raise NotImplementedError(
            f"{page_tokens=} is not a power of two, which Triton's blocks have to be; set cache.page_tokens to one"
        )
    if page_tokens > tiling.keys:
        raise NotImplementedError(
            f"{page_tokens=} is more than the {tiling.keys} keys that the kernel reads a step; "
            "set cache.page_tokens or GpuTiling.keys"
        )


def _check_rows(queries: int, group: int) -> None:
    if queries * group > MAX_ROWS:
        raise NotImplementedError(
            f"{queries} queries of {group} heads are {queries * group} rows, above {MAX_ROWS}: set GpuTiling.queries"
        )


def _check_operands(q: Array, k_new: Array, kv: PagedKV) -> None:
    if q.shape[3] > MAX_HEAD_DIM:
        raise NotImplementedError(f"head_dim={q.shape[3]} is more than {MAX_HEAD_DIM}; use attention: reference")
    check_dtypes(kv, q=q, k_new=k_new)
    if kv.k.dtype == jnp.float8_e4m3fn:
        _check_converts_fp8()


def _check_converts_fp8() -> None:
    device = jax.devices()[0]
    if device.platform != "gpu":
        return  # interpreted, or compiled for another device than this
    if tuple(map(int, device.compute_capability.split("."))) < FIRST_CAPABILITY_WITH_FP8:
        raise NotImplementedError(
            f"cached KV of float8_e4m3fn needs compute capability {'.'.join(map(str, FIRST_CAPABILITY_WITH_FP8))}, "
            f"below which Triton cannot convert it; this {device.device_kind} has {device.compute_capability}: set "
            "cache.kv_dtype to int8"
        )
