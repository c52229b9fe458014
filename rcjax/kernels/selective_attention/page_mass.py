"""The Triton kernel of the attention that keys receive: keys of a few pages under all queries that see one of them.

A thread block has the keys of one kv head that a step of `page_kernel` reads, and sums over blocks of queries in order:
no two thread blocks add to one number, so that the same inputs give the same bits.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.api import MakeView
from rcjax.kernels.selective_attention.config import MAX_ROWS, GpuTiling, Tilings
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TokenLayout
from rcjax.kernels.selective_attention.page_kernel import (
    MIN_HALF,
    MIN_ROWS,
    KernelSizes,
    KeySlots,
    Launch,
    attend_pages,
    product_precision,
    read_keys,
)
from rcjax.kernels.selective_attention.part_mass import check_operands, measure_parts
from rcjax.kernels.selective_attention.visits import NO_KEY, Visits, query_columns


@dataclass(frozen=True, slots=True)
class GpuMeasure:
    """`Attention.mass`; products have operands of the type of `q` and accumulate in float32."""

    view: MakeView
    tilings: Tilings[GpuTiling]
    interpret: bool

    def __call__(
        self,
        q: Float[Array, "B T N H"],
        k_new: Float[Array, "B T K H"],
        tokens: TokenLayout,
        counts: Bool[AnyArray, "B T"],
        kv: PagedKV,
        pages: PageLayout,
        *,
        rope: Rope,
        window: int | None,
    ) -> tuple[Float[Array, "B M C"], Float[Array, "B T"]]:
        check_operands(q, k_new, kv)
        parts = self.view(tokens, pages, None, rope=rope, window=window)
        keys = k_new.reshape(-1, parts.fresh.page_tokens, *k_new.shape[2:])
        return measure_parts(self, parts, q, PagedKV(keys, keys), counts, kv, pages)

    def log_total(self, read: Visits, q: Float[Array, "U T N H"], kv: PagedKV) -> Float[Array, "U T N"]:
        """By the kernel of attention, whose output is left."""
        units, blocks, query_block = read.queries.pos.shape
        launch = self._launch(read, q, kv)
        found = attend_pages(read, _rows(q, read, kv.k.shape[2]), kv, 0, launch)
        of_splits = found.top + jnp.log(jnp.maximum(found.total, 1e-30))
        total = jax.nn.logsumexp(of_splits, axis=1)[..., : query_block * launch.group]  # [U, I, K, R]
        total = total.reshape(units, blocks, -1, query_block, launch.group).swapaxes(2, 3)
        return total.reshape(units, blocks * query_block, -1)[:, : q.shape[1]]

    def mass(
        self, read: Visits, q: Float[Array, "U T N H"], log_total: Float[Array, "U T N"], kv: PagedKV
    ) -> Float[Array, "U S"]:
        kv_heads = kv.k.shape[2]
        rows = _rows(q, read, kv_heads)
        totals = _grouped(log_total[..., None], read, kv_heads)[..., 0]
        totals = jnp.pad(totals, [(0, 0)] * 3 + [(0, rows.shape[4] - totals.shape[3])])
        return mass_of_pages(read, rows, totals, kv, self._launch(read, q, kv))

    def _launch(self, read: Visits, q: Array, kv: PagedKV) -> Launch:
        units, blocks, query_block = read.queries.pos.shape
        kv_heads = kv.k.shape[2]
        group = q.shape[2] // kv_heads
        if query_block * group > MAX_ROWS:
            raise NotImplementedError(
                f"{query_block} queries of {group} heads are {query_block * group} rows, above {MAX_ROWS}: "
                "set GpuTiling.queries"
            )
        tiling = self.tilings.of(q.shape[1])
        splits = tiling.num_splits(units * blocks * kv_heads, read.key_pos.shape[1])
        return Launch(group, tiling.keys, splits, tiling.warps, tiling.stages, self.interpret)


def mass_of_pages(
    visits: Visits,
    q: Float[Array, "U I K 2 R F"],
    log_total: Float[Array, "U I K R"],
    kv: PagedKV,
    launch: Launch,
) -> Float[Array, "U S"]:
    """What the keys of each prompt's pages receive, over all heads; `q` as `attend_pages` wants it."""
    units, blocks, kv_heads, _, rows, half = q.shape
    entries, page_tokens = visits.entry.shape[2], visits.page_tokens
    precision = product_precision(q.dtype, launch.interpret)
    half_dim = kv.k.shape[3] // 2
    sizes = KernelSizes(
        launch.group, visits.queries.pos.shape[2], entries, page_tokens, half_dim, launch.keys, precision
    )

    def per_step(*tail: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, *tail), lambda j, k, u: (u, j, *[0] * len(tail)))

    def per_unit(*tail: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, *tail), lambda j, k, u: (u, *[0] * len(tail)))

    def per_head(*tail: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, blocks, None, *tail), lambda j, k, u: (u, 0, k, *[0] * len(tail)))

    def whole(x: AnyArray) -> pl.BlockSpec:
        return pl.BlockSpec(x.shape, lambda j, k, u: (0,) * x.ndim)

    table, count, block = _asked(visits, launch.keys // page_tokens)
    steps = count.shape[1]
    columns = _columns(visits, launch.group, rows)
    turn = () if visits.turn is None else (visits.turn.cos, visits.turn.sin)
    scale = () if kv.k_scale is None else (kv.k_scale,)
    mass = pl.pallas_call(
        partial(_kernel, sizes=sizes),
        grid=(steps, kv_heads, units),
        in_specs=[
            per_unit(entries),
            per_step(1),
            per_step(blocks),
            tuple(per_unit(blocks, rows) for _ in columns),
            *[per_unit(entries * page_tokens)] * 2,
            tuple(per_unit(entries, half_dim) for _ in turn),
            per_head(2, rows, half),
            per_head(rows),
            whole(kv.k),
            tuple(whole(x) for x in scale),
        ],
        out_specs=pl.BlockSpec((None, None, launch.keys), lambda j, k, u: (u, k, j)),
        out_shape=jax.ShapeDtypeStruct((units, kv_heads, steps * launch.keys), jnp.float32),
        compiler_params=pltriton.CompilerParams(num_warps=launch.warps, num_stages=launch.stages),
        interpret=launch.interpret,
        name="attention_mass",
    )(
        table, count[..., None], block, columns, visits.key_pos, visits.key_segment, turn, q, log_total, kv.k, scale,
    )  # fmt: skip
    return mass.sum(1)[:, : entries * page_tokens]


def _kernel(
    table_ref: Any,  # [M] int32
    count_ref: Any,  # [1] int32
    block_ref: Any,  # [I] int32: blocks of queries of which the first `count` see a key of the step
    column_refs: tuple[Any, ...],  # pos, segment, horizon and, where there is a window, oldest: [I, R] int32
    key_pos_ref: Any,  # [M * C] int32
    key_segment_ref: Any,  # [M * C] int32
    turn_refs: tuple[Any, ...],  # where keys turn, cos and sin: [M, H/2] f32
    q_ref: Any,  # [I, 2, R, F]
    log_total_ref: Any,  # [I, R] f32
    k_ref: Any,  # [P, C, K, H]
    scale_refs: tuple[Any, ...],  # where pages are quantised: [P, C, K] f32
    # output
    mass_ref: Any,  # [keys] f32
    *,
    sizes: KernelSizes,
) -> None:
    step, head = pl.program_id(0), pl.program_id(1)
    count = count_ref[0]
    key = step * sizes.keys + lax.iota(jnp.int32, sizes.keys)
    entry = lax.div(key, sizes.page_tokens)
    is_listed = (entry < sizes.entries) & (count > 0)
    entry = jnp.minimum(entry, sizes.entries - 1)
    slots = KeySlots(is_listed, entry, table_ref[entry], lax.rem(key, sizes.page_tokens))
    key_pos = pltriton.load(key_pos_ref.at[key], mask=is_listed, other=NO_KEY)
    key_segment = pltriton.load(key_segment_ref.at[key], mask=is_listed, other=0)
    first, second = read_keys(k_ref, turn_refs, slots, head, q_ref.shape[3], q_ref.dtype, sizes)
    scales = [
        pltriton.load(ref.at[slots.page, slots.offset, head], mask=key_pos != NO_KEY, other=0.0) for ref in scale_refs
    ]
    product = partial(jnp.dot, precision=sizes.precision, preferred_element_type=jnp.float32)

    def add(i: Array, mass: Array) -> Array:
        block = block_ref[i]
        pos, segment, horizon, *oldest = (ref[block][:, None] for ref in column_refs)
        seen = (key_pos <= pos) & ((key_segment == segment) | (key_segment < horizon))
        if oldest:
            seen &= key_pos >= oldest[0]
        scores = product(q_ref[block, 0], first.T) + product(q_ref[block, 1], second.T)
        scores = scores * (2 * sizes.half) ** -0.5
        if scales:  # of a key, whose turn is linear: so it may as well follow the product
            scores = scores * scales[0][None, :]
        return mass + jnp.where(seen, jnp.exp(scores - log_total_ref[block][:, None]), 0.0).sum(0)

    mass_ref[...] = lax.fori_loop(0, count, add, jnp.zeros(sizes.keys))


def _rows(q: Float[Array, "U T N H"], read: Visits, kv_heads: int) -> Float[Array, "U I K 2 R F"]:
    """The query heads of each kv head as rows, in halves that are padded as the kernels want them."""
    rows = _grouped(q, read, kv_heads)
    rows = rows.reshape(*rows.shape[:4], 2, -1).swapaxes(3, 4)
    padding = [
        (0, max(least, pl.next_power_of_2(size)) - size)
        for size, least in zip(rows.shape[4:], (MIN_ROWS, MIN_HALF), strict=True)
    ]
    return jnp.pad(rows, [(0, 0)] * 4 + padding)


def _grouped(x: Float[Array, "U T N any"], read: Visits, kv_heads: int) -> Float[Array, "U I K R any"]:
    """The heads that share a kv head as rows, query by query, block by block."""
    units, blocks, query_block = read.queries.pos.shape
    x = jnp.pad(x, ((0, 0), (0, blocks * query_block - x.shape[1]), (0, 0), (0, 0)))
    x = x.reshape(units, blocks, query_block, kv_heads, -1, x.shape[3]).swapaxes(2, 3)
    return x.reshape(units, blocks, kv_heads, -1, x.shape[5])


def _asked(visits: Visits, step_pages: int) -> tuple[Int[Array, "U M"], Int[Array, "U steps"], Int[Array, "U steps I"]]:
    """The prompts' page tables; of each step's pages, how many blocks of queries visit one of them, and these first."""
    units, blocks, entries = visits.entry.shape
    place = jnp.argsort(visits.entry, axis=2)  # of each entry among those that a block visits
    table = jnp.take_along_axis(visits.page[:, 0], place[:, 0], axis=1)
    is_visited = jnp.pad(place < visits.count[..., None], ((0, 0), (0, 0), (0, -entries % step_pages)))
    asks = is_visited.reshape(units, blocks, -1, step_pages).any(3).swapaxes(1, 2)
    block = jnp.argsort(~asks, axis=2, stable=True).astype(jnp.int32)
    return table, asks.sum(2, dtype=jnp.int32), block


def _columns(visits: Visits, group: int, rows: int) -> tuple[Int[Array, "U I R"], ...]:
    """What each row's query is like; rows of padding stand at -1 and see nothing."""
    repeated = (jnp.repeat(x, group, axis=2) for x in query_columns(visits.queries, visits.oldest))
    return tuple(jnp.pad(x, ((0, 0), (0, 0), (0, rows - x.shape[2])), constant_values=-1) for x in repeated)
