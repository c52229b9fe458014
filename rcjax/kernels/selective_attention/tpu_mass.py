"""The Mosaic TPU kernel of the attention that keys receive: each block of queries adds to the pages that it visits.

As in `tpu_kernel`, a step of the grid has one block of queries with all kv heads; pages' keys (no values) are copied
into one of two slots while the kernel computes on the other. A TensorCore runs its grid in order, so that all blocks of
a prompt can add to one array, and the same inputs give the same bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.api import MakeView
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TokenLayout
from rcjax.kernels.selective_attention.part_mass import check_operands, measure_parts
from rcjax.kernels.selective_attention.query_blocks import join_rows, split_queries
from rcjax.kernels.selective_attention.tpu_kernel import Reads, attend_pages, product, seen_keys, swapped
from rcjax.kernels.selective_attention.tpu_memory import SLOTS, check_vmem, scratch_of
from rcjax.kernels.selective_attention.visits import NO_KEY, query_columns


@dataclass(frozen=True, slots=True)
class TpuMeasure:
    """`Attention.mass`; products have operands of the type of `q` and accumulate in float32."""

    view: MakeView
    fresh_page: int  # tokens of the pages that the view has fresh keys in
    interpret: Any

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
        keys = jnp.pad(k_new, ((0, 0), (0, -k_new.shape[1] % self.fresh_page), (0, 0), (0, 0)))
        keys = keys.reshape(-1, self.fresh_page, *k_new.shape[2:])
        return measure_parts(self, parts, q, PagedKV(keys, keys), counts, kv, pages)

    def log_total(self, read: Reads, q: Float[Array, "U T N H"], kv: PagedKV) -> Float[Array, "U T N"]:
        """By the kernel of attention, whose output is left."""
        query_block, group = read.queries.pos.shape[2], q.shape[2] // kv.k.shape[2]
        rows = _rows(q, read, kv)
        scales = _scales(read, kv)
        found = attend_pages(read, _columns(read, group, rows.shape[3]), rows, kv, scales * 2, 0, self.interpret)
        total = found.top + jnp.log(jnp.maximum(found.total, 1e-30))
        return join_rows(total[..., : query_block * group], query_block, q.shape[1])

    def mass(
        self, read: Reads, q: Float[Array, "U T N H"], log_total: Float[Array, "U T N"], kv: PagedKV
    ) -> Float[Array, "U S"]:
        rows = _rows(q, read, kv)
        totals = split_queries(log_total[..., None], kv.k.shape[2], read.queries.pos.shape[2])
        totals = jnp.pad(totals, [(0, 0)] * 3 + [(0, rows.shape[3] - totals.shape[3]), (0, 0)])
        return mass_of_pages(read, rows, totals, kv, q.shape[2], self.interpret).reshape(len(q), -1)


class _Refs(NamedTuple):
    """What the kernel sees of a block."""

    count: Any  # [U * I] int32 in SMEM
    page: Any  # [U * I * M] int32 in SMEM
    entry: Any  # [U * I * M] int32 in SMEM
    columns: tuple[Any, ...]  # pos, segment, horizon and, where there is a window, oldest: [R, 1] int32
    key_pos: Any  # [steps, keys] int32
    key_segment: Any  # [steps, keys] int32
    scale: tuple[Any, ...]  # where pages are quantised: [steps, K, keys] f32
    turn: tuple[Any, ...]  # where keys turn, cos and sin: [M, H] f32
    q: Any  # [K, R, H]
    log_total: Any  # [K, R, 1] f32
    pool: Any  # [P, C, K, H] in HBM
    mass: Any  # [M, C] f32: the output
    k: Any  # [SLOTS, keys, K, H], as the pool
    spread: Any  # [2, keys, H] f32: cos and sin of each key of the step
    slot: Any  # [1] int32 in SMEM: where the next step finds its pages
    copies: Any  # [SLOTS] DMA semaphores


def mass_of_pages(
    reads: Reads,
    q: Float[Array, "I U K R H"],
    log_total: Float[Array, "I U K R 1"],
    kv: PagedKV,
    num_heads: int,
    interpret: Any,
) -> Float[Array, "U M C"]:
    """What the keys of each prompt's pages receive, over all heads; `q` as `attend_pages` wants it."""
    blocks, units, kv_heads, rows, head_dim = q.shape
    keys = reads.key_pos.shape[3]

    def per_block(x: Array) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, *x.shape[2:]), lambda u, i, *_: (u, i, *[0] * (x.ndim - 2)))

    def of_rows(x: Array) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, *x.shape[2:]), lambda u, i, *_: (i, u, 0, 0, 0))

    def per_unit(x: Any) -> pl.BlockSpec:
        return pl.BlockSpec((None, *x.shape[1:]), lambda u, i, *_: (u, 0, 0))

    columns, scale = _columns(reads, num_heads // kv_heads, rows), _scales(reads, kv)
    turn = () if reads.turn is None else (reads.turn.cos, reads.turn.sin)
    out = jax.ShapeDtypeStruct((units, len(reads.page) // len(reads.count), kv.k.shape[1]), jnp.float32)
    of_blocks = (*columns, reads.key_pos, reads.key_segment, *scale)
    # Attention's scratch, of which this kernel needs less.
    check_vmem(scratch_of(kv, keys, rows), per_block=(*of_blocks, q, log_total), per_unit=(*turn, out))
    pool = jnp.asarray(kv.k)
    if not interpret:  # as in attention
        pool = pltpu.with_memory_space_constraint(pool, pltpu.HBM)
    mass = pl.pallas_call(
        lambda *refs: _kernel(_Refs(*refs)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=3,
            grid=(units, blocks),
            in_specs=[
                *jax.tree.map(per_block, (columns, reads.key_pos, reads.key_segment, scale)),
                jax.tree.map(per_unit, turn),
                of_rows(q),
                of_rows(log_total),
                pl.BlockSpec(memory_space=pltpu.HBM),
            ],
            out_specs=per_unit(out),
            scratch_shapes=[
                pltpu.VMEM((SLOTS, keys, kv_heads, head_dim), kv.k.dtype),
                pltpu.VMEM((2, keys, head_dim), jnp.float32),
                pltpu.SMEM((1,), jnp.int32),
                pltpu.SemaphoreType.DMA((SLOTS,)),
            ],
        ),
        out_shape=out,
        # In order: a block finds the copies that the one before has started, and adds to what it has written.
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary", "arbitrary")),
        interpret=interpret,
        name="attention_mass",
    )(
        reads.count, reads.page, reads.entry, columns, reads.key_pos, reads.key_segment, scale, turn, q, log_total,
        pool,
    )  # fmt: skip
    return jnp.asarray(mass)


def _kernel(refs: _Refs) -> None:
    num_blocks = pl.num_programs(0) * pl.num_programs(1)
    block = pl.program_id(0) * pl.num_programs(1) + pl.program_id(1)
    step_pages = refs.k.shape[1] // refs.pool.shape[1]
    num_steps = pl.cdiv(refs.count[block], step_pages)

    @pl.when(pl.program_id(1) == 0)
    def clear() -> None:
        refs.mass[...] = jnp.zeros_like(refs.mass)

    @pl.when(block == 0)
    def first() -> None:
        refs.slot[0] = 0

    first_slot = refs.slot[0]
    is_started = (block > 0) & (refs.count[jnp.maximum(block - 1, 0)] > 0)

    @pl.when(~is_started)
    def start() -> None:
        _each_copy(refs, block, jnp.int32(0), first_slot, lambda copy: copy.start())

    def step(i: Array, _: None) -> None:
        slot = lax.rem(first_slot + i, SLOTS)
        is_last = i + 1 == num_steps
        following = jnp.minimum(block + is_last, num_blocks - 1)

        @pl.when(block + is_last < num_blocks)
        def prefetch() -> None:
            _each_copy(refs, following, jnp.where(is_last, 0, i + 1), 1 - slot, lambda copy: copy.start())

        _each_copy(refs, block, i, slot, lambda copy: copy.wait())
        _add(refs, block, i, slot)

    lax.fori_loop(0, num_steps, step, None)
    refs.slot[0] = lax.rem(first_slot + num_steps, SLOTS)


def _each_copy(refs: _Refs, block: Array, step: Array, slot: Array, act: Callable[[Any], None]) -> None:
    """The copies of the pages that a step of a block lists."""
    page_tokens, entries = refs.pool.shape[1], refs.page.shape[0] // refs.count.shape[0]
    step_pages = refs.k.shape[1] // page_tokens
    first = step * step_pages

    def page(at: Array, _: None) -> None:
        number = refs.page[block * entries + first + at]
        keys = pl.ds(at * page_tokens, page_tokens)
        act(pltpu.make_async_copy(refs.pool.at[number], refs.k.at[slot, keys], refs.copies.at[slot]))

    lax.fori_loop(0, jnp.minimum(refs.count[block] - first, step_pages), page, None)


def _add(refs: _Refs, block: Array, step: Array, slot: Array) -> None:
    """Adds what a step's keys receive to their pages."""
    page_tokens, entries = refs.pool.shape[1], refs.page.shape[0] // refs.count.shape[0]
    step_pages = refs.k.shape[1] // page_tokens
    kv_heads, _, head_dim = refs.q.shape
    # Where a step has fewer pages its last slots hold no keys, which receive nothing: any entry will do.
    listed = [block * entries + jnp.minimum(step * step_pages + at, entries - 1) for at in range(step_pages)]
    slices = [slice(at * page_tokens, (at + 1) * page_tokens) for at in range(step_pages)]
    for at, keys in zip(listed, slices, strict=True):
        for i, ref in enumerate(refs.turn):
            row = ref[pl.ds(refs.entry[at], 1), :]
            refs.spread[i, keys, :] = jnp.broadcast_to(row, (page_tokens, head_dim))
    seen = seen_keys(refs.key_pos[pl.ds(step, 1), :], refs.key_segment[pl.ds(step, 1), :], refs.columns)
    received = jnp.zeros((1, seen.shape[1]), jnp.float32)
    for head in range(kv_heads):
        k = refs.k[slot, :, head, :].astype(jnp.float32)
        if refs.turn:
            k = k * refs.spread[0] + swapped(k) * refs.spread[1]
        scores = product(refs.q[head], k.astype(refs.q.dtype), 1) * head_dim**-0.5
        for ref in refs.scale:  # of a key, whose turn is linear: so it may as well follow the product
            scores = scores * ref[step][head : head + 1]
        weights = jnp.where(seen, jnp.exp(scores - refs.log_total[head]), 0)
        received += weights.sum(0, keepdims=True)
    for at, keys in zip(listed, slices, strict=True):
        refs.mass[pl.ds(refs.entry[at], 1), :] += received[:, keys]


def _rows(q: Float[Array, "U T N H"], reads: Reads, kv: PagedKV) -> Float[Array, "I U K R H"]:
    """The query heads of each kv head as rows, whole tiles of their type."""
    rows = split_queries(q, kv.k.shape[2], reads.queries.pos.shape[2])
    return jnp.pad(rows, [(0, 0)] * 3 + [(0, -rows.shape[3] % (8 * 4 // q.dtype.itemsize)), (0, 0)])


def _columns(reads: Reads, group: int, rows: int) -> tuple[Int[Array, "U I R 1"], ...]:
    """What each row's query is like; rows of padding stand at -1 and see nothing."""
    columns = query_columns(reads.queries, reads.oldest)
    tiled = (jnp.tile(x, (1, 1, group)) for x in columns)  # head by head, as the rows are
    return tuple(jnp.pad(x, ((0, 0), (0, 0), (0, rows - x.shape[2])), constant_values=-1)[..., None] for x in tiled)


def _scales(reads: Reads, kv: PagedKV) -> tuple[Float[Array, "U I steps K keys"], ...]:
    """Those of keys where pages are quantised, in the order of the lists; 0 where a slot holds none."""
    if kv.k_scale is None:
        return ()
    units, blocks, steps, keys = reads.key_pos.shape
    _, page_tokens, kv_heads, _ = kv.k.shape
    page = reads.page.reshape(units, blocks, -1)
    page = jnp.pad(page, ((0, 0), (0, 0), (0, steps * keys // page_tokens - page.shape[2])))
    scale = jnp.asarray(kv.k_scale).at[page].get(mode="promise_in_bounds")
    scale = scale.reshape(units, blocks, steps, keys, kv_heads)
    return (jnp.where((reads.key_pos != NO_KEY)[..., None], scale, 0).swapaxes(3, 4),)
