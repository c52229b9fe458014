"""The Triton kernel: rows of queries over the pages that their block visits, by running softmax.

A thread block has one block of queries, one kv head and one part of the block's pages. Its rows are the G query heads
that share the kv head, of all its Q queries, padded to a power of two. Heads are in halves (i and i + H/2 are a pair
of the rotary embedding), each padded to a power of two of at least 16, as Triton's products want it.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as pltriton
from jaxtyping import Array, Float, Int

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.softmax import Partial
from rcjax.kernels.selective_attention.visibility import MASKED
from rcjax.kernels.selective_attention.visits import NO_KEY, Visits, query_columns

MIN_ROWS = MIN_HALF = 16  # what a tensor core multiplies at once


@dataclass(frozen=True, slots=True)
class Launch:
    """Constants of one compiled kernel: `keys` are read a step, and `splits` thread blocks share a block's pages."""

    group: int
    keys: int
    splits: int
    warps: int
    stages: int
    interpret: bool


@dataclass(frozen=True, slots=True)
class KernelSizes:
    """Of what the kernel sees, by the dims' names; `half` is H/2, and rows and halves are not yet padded."""

    group: int
    queries: int
    entries: int
    page_tokens: int
    half: int
    keys: int
    precision: Any


class KeySlots(NamedTuple):
    """Where the keys of a step are; a slot that is not listed is not read."""

    is_listed: Any  # [keys] bool
    entry: Any  # [keys] int32
    page: Any  # [keys] int32
    offset: Any  # [keys] int32: in the page


def attend_pages(
    visits: Visits,
    q: Float[Array, "U I K 2 R F"],
    kv: PagedKV,
    first_page: Int[AnyArray, ""] | int,
    launch: Launch,
) -> Partial:
    """Of each row, [U, S, I, K, R]: what each of the S splits found; q has padded rows and halves (`F`)."""
    units, blocks, kv_heads, _, rows, half = q.shape
    head_dim = kv.k.shape[3]
    entries, page_tokens = visits.entry.shape[2], visits.page_tokens
    num_queries = visits.queries.pos.shape[2]
    precision = product_precision(q.dtype, launch.interpret)
    sizes = KernelSizes(launch.group, num_queries, entries, page_tokens, head_dim // 2, launch.keys, precision)

    def per_block(*tail: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, *tail), lambda i, k, s, u: (u, i, *[0] * len(tail)))

    def per_unit(*tail: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, *tail), lambda i, k, s, u: (u, *[0] * len(tail)))

    def whole(x: AnyArray) -> pl.BlockSpec:
        return pl.BlockSpec(x.shape, lambda i, k, s, u: (0,) * x.ndim)

    def found(*tail: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, None, None, rows, *tail), lambda i, k, s, u: (u, s, i, k, 0, *[0] * len(tail)))

    first = jnp.asarray(first_page, jnp.int32).reshape(1)
    of_queries = query_columns(visits.queries, visits.oldest)
    turn = () if visits.turn is None else (visits.turn.cos, visits.turn.sin)
    scales = () if kv.k_scale is None or kv.v_scale is None else (kv.k_scale, kv.v_scale)
    lead = units, launch.splits, blocks, kv_heads, rows
    values = max(MIN_ROWS, pl.next_power_of_2(head_dim))
    kernel = pl.pallas_call(
        partial(_kernel, sizes=sizes),
        # The first axis runs fastest: blocks that read the same pages run side by side and share them in the cache.
        grid=(blocks, kv_heads, launch.splits, units),
        in_specs=[
            whole(first),
            per_block(1),
            *[per_block(entries)] * 2,
            tuple(per_block(num_queries) for _ in of_queries),
            *[per_unit(entries * page_tokens)] * 2,
            tuple(per_unit(entries, sizes.half) for _ in turn),
            pl.BlockSpec((None, None, None, 2, rows, half), lambda i, k, s, u: (u, i, k, 0, 0, 0)),
            whole(kv.k),
            whole(kv.v),
            tuple(whole(x) for x in scales),
        ],
        out_specs=[found(), found(), found(values)],
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (lead, lead, (*lead, values))],
        compiler_params=pltriton.CompilerParams(num_warps=launch.warps, num_stages=launch.stages),
        interpret=launch.interpret,
        name="selective_attention",
    )
    top, total, out = kernel(
        first, visits.count[..., None], visits.entry, visits.page, of_queries, visits.key_pos, visits.key_segment,
        turn, q, kv.k, kv.v, scales,
    )  # fmt: skip
    return Partial(top, total, out[..., :head_dim])


def _kernel(
    first_ref: Any,  # [1] int32: the pool's page that pages are counted from
    count_ref: Any,  # [1] int32
    entry_ref: Any,  # [M] int32
    page_ref: Any,  # [M] int32
    query_refs: tuple[Any, ...],  # pos, segment, horizon and, where there is a window, oldest: [Q] int32
    key_pos_ref: Any,  # [M * C] int32
    key_segment_ref: Any,  # [M * C] int32
    turn_refs: tuple[Any, ...],  # where keys turn, cos and sin: [M, H/2] f32
    q_ref: Any,  # [2, R, F]
    k_ref: Any,  # [P, C, K, H]
    v_ref: Any,  # [P, C, K, H]
    scale_refs: tuple[Any, ...],  # where pages are quantised, of k and of v: [P, C, K] f32
    # outputs
    top_ref: Any,  # [R] f32
    total_ref: Any,  # [R] f32
    out_ref: Any,  # [R, H padded] f32
    *,
    sizes: KernelSizes,
) -> None:
    head, split = pl.program_id(1), pl.program_id(2)
    count = count_ref[0]
    num_steps = pl.cdiv(count * sizes.page_tokens, sizes.keys)
    steps = pl.cdiv(num_steps, pl.num_programs(2))
    rows, values = out_ref.shape
    query = jnp.minimum(lax.div(lax.iota(jnp.int32, rows), sizes.group), sizes.queries - 1)
    pos, segment, horizon, *oldest = (ref[query][:, None] for ref in query_refs)
    q = q_ref[0], q_ref[1]
    product = partial(jnp.dot, precision=sizes.precision, preferred_element_type=jnp.float32)

    def step(i: Array, so_far: Partial) -> Partial:
        slots = _slots(i, count, first_ref[0], entry_ref, page_ref, sizes)
        of_entry = slots.entry * sizes.page_tokens + slots.offset
        key_pos = pltriton.load(key_pos_ref.at[of_entry], mask=slots.is_listed, other=NO_KEY)
        key_segment = key_segment_ref[of_entry]
        is_key = key_pos != NO_KEY
        k = read_keys(k_ref, turn_refs, slots, head, q_ref.shape[2], q_ref.dtype, sizes)
        v = _values(v_ref, slots, is_key, head, values, q_ref.dtype, sizes)
        scales = [pltriton.load(ref.at[slots.page, slots.offset, head], mask=is_key, other=0.0) for ref in scale_refs]
        seen = key_pos <= pos
        seen &= (key_segment == segment) | (key_segment < horizon)
        if oldest:
            seen &= key_pos >= oldest[0]
        scores = (product(q[0], k[0].T) + product(q[1], k[1].T)) * (2 * sizes.half) ** -0.5
        if scales:  # of a key, whose turn is linear: so it may as well follow the product
            scores = scores * scales[0][None, :]
        scores = jnp.where(seen, scores, MASKED)
        top = jnp.maximum(so_far.top, scores.max(1))
        weights = jnp.exp(scores - top[:, None])
        decay = jnp.exp(so_far.top - top)
        of_values = weights * scales[1][None, :] if scales else weights
        out = so_far.out * decay[:, None] + product(of_values.astype(v.dtype), v)
        return Partial(top, so_far.total * decay + weights.sum(1), out)

    start = Partial(jnp.full(rows, MASKED), jnp.zeros(rows), jnp.zeros((rows, values)))
    found = lax.fori_loop(split * steps, jnp.minimum((split + 1) * steps, num_steps), step, start)
    # The maximum of a GPU passes over NaN: the top of a row that saw nothing else would say that it saw nothing.
    top_ref[...] = jnp.where(found.total == found.total, found.top, found.total)
    total_ref[...] = found.total
    out_ref[...] = found.out


def _slots(step: Array, count: Array, first: Array, entry_ref: Any, page_ref: Any, sizes: KernelSizes) -> KeySlots:
    key = step * sizes.keys + lax.iota(jnp.int32, sizes.keys)
    listed = lax.div(key, sizes.page_tokens)
    is_listed = listed < count
    listed = jnp.minimum(listed, sizes.entries - 1)
    return KeySlots(is_listed, entry_ref[listed], page_ref[listed] + first, lax.rem(key, sizes.page_tokens))


def read_keys(
    k_ref: Any, turn_refs: tuple[Any, ...], slots: KeySlots, head: Array, padded: int, dtype: Any, sizes: KernelSizes
) -> tuple[Array, Array]:
    """Both halves of the keys, [keys, F] each, where their tokens stand."""
    column = lax.iota(jnp.int32, padded)
    mask = _mask(slots.is_listed, column, sizes.half)
    first, second = (_read(k_ref, slots, head, column + start, mask).astype(dtype) for start in (0, sizes.half))
    if not turn_refs:
        return first, second
    cos, sin = (pltriton.load(ref.at[slots.entry[:, None], column[None, :]], mask=mask, other=0.0) for ref in turn_refs)
    x, y = first.astype(jnp.float32), second.astype(jnp.float32)
    return (x * cos - y * sin).astype(dtype), (y * cos + x * sin).astype(dtype)


def _values(
    v_ref: Any, slots: KeySlots, is_key: Array, head: Array, padded: int, dtype: Any, sizes: KernelSizes
) -> Array:
    """[keys, H padded]; 0 where a slot holds no key: its weight is 0, but 0 * NaN is NaN."""
    column = lax.iota(jnp.int32, padded)
    return _read(v_ref, slots, head, column, _mask(is_key, column, 2 * sizes.half)).astype(dtype)


def _mask(is_read: Array, column: Array, num_columns: int) -> Array:
    mask = jnp.broadcast_to(is_read[:, None], (*is_read.shape, *column.shape))
    return mask if column.size == num_columns else mask & (column < num_columns)[None, :]


def _read(pool_ref: Any, slots: KeySlots, head: Array, column: Array, mask: Array) -> Array:
    at = pool_ref.at[slots.page[:, None], slots.offset[:, None], head, column[None, :]]
    return pltriton.load(at, mask=mask, other=0.0)


def product_precision(dtype: Any, interpret: bool) -> Any:
    """Of products. By default Triton would round float32 operands to 10 bits.

    Three such products make up for that, on tensor cores; exact ones, without these, take minutes to compile. The
    interpreter has no name for three.
    """
    if dtype == jnp.float32 and not interpret:
        return lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    return lax.Precision.HIGHEST
