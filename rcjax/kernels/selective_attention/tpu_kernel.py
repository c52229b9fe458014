"""The Mosaic TPU kernel: rows of queries over the pages that their block visits, by running softmax.

A step of the grid has one block of queries with all kv heads. The G query heads that share a kv head, of all its Q
queries, are the rows of one product. Pages come from the pool in HBM by asynchronous copies, a page with all its heads
in one, into one of two slots while the kernel computes on the other; a block's last step starts the next one's first
copies. A TensorCore runs its grid in order, so there is nothing to gain from splitting a context.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float, Int

from rcjax.kernels.arrays import AnyArray, register_arrays
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.layout import TokenLayout
from rcjax.kernels.selective_attention.rotation import Rotation
from rcjax.kernels.selective_attention.softmax import Partial
from rcjax.kernels.selective_attention.tpu_memory import LANES, SLOTS, Scratch, check_vmem, scratch_of
from rcjax.kernels.selective_attention.visibility import MASKED
from rcjax.kernels.selective_attention.visits import NO_KEY


@register_arrays
@dataclass(frozen=True, slots=True)
class Reads:
    """What the I query blocks of U prompts (or tiles) read, step by step; lists as in `Visits`, but flat for SMEM.

    Keys of a step lie side by side: positions and segments are in the order of the lists, `NO_KEY` behind `count`.
    `turn` is per entry, over the whole head: a key turns to `k * cos + swapped(k) * sin`, its halves swapped.
    """

    count: Int[Array, "blocks"]
    page: Int[Array, "listed"]
    entry: Int[Array, "listed"]
    queries: TokenLayout  # [U, I, Q]
    oldest: Int[Array, "U I Q"] | None
    key_pos: Int[Array, "U I steps keys"]
    key_segment: Int[Array, "U I steps keys"]
    turn: Rotation | None  # [U, M, H]


class _Prefetched(NamedTuple):
    """Refs in SMEM, int32."""

    first: Any  # [1]: the pool's page that pages are counted from
    count: Any  # [U * I]
    page: Any  # [U * I * M]
    entry: Any  # [U * I * M]


@dataclass(frozen=True, slots=True)
class _Pages:
    """The copies of the pages that a step of a block lists, into one of the slots."""

    prefetched: _Prefetched
    k_ref: Any  # [P, C, K, H] in HBM
    v_ref: Any  # [P, C, K, H] in HBM
    scratch: Scratch
    entries: int

    @property
    def page_tokens(self) -> int:
        return int(self.k_ref.shape[1])

    @property
    def a_step(self) -> int:
        return int(self.scratch.k.shape[1]) // self.page_tokens

    def start(self, block: Array, step: Array, slot: Array) -> None:
        self._each(block, step, slot, lambda copy: copy.start())

    def wait(self, block: Array, step: Array, slot: Array) -> None:
        self._each(block, step, slot, lambda copy: copy.wait())

    def _each(self, block: Array, step: Array, slot: Array, act: Callable[[Any], None]) -> None:
        first = step * self.a_step
        listed = block * self.entries + first

        def page(at: Array, _: None) -> None:
            number = self.prefetched.first[0] + self.prefetched.page[listed + at]
            keys = pl.ds(at * self.page_tokens, self.page_tokens)
            for i, (pool, buffer) in enumerate(((self.k_ref, self.scratch.k), (self.v_ref, self.scratch.v))):
                act(pltpu.make_async_copy(pool.at[number], buffer.at[slot, keys], self.scratch.copies.at[i, slot]))

        # A loop: interpreted, a condition for each page that a step could have takes minutes to compile.
        lax.fori_loop(0, jnp.minimum(self.prefetched.count[block] - first, self.a_step), page, None)


def attend_pages(
    reads: Reads,
    columns: tuple[Int[Array, "U I R 1"], ...],
    q: Float[Array, "I U K R H"],
    kv: PagedKV,
    scales: tuple[Float[Array, "U I steps K keys"], ...],
    first_page: Int[AnyArray, ""] | int,
    interpret: Any,
) -> Partial:
    """Of each row, [I, U, K, R]; rows are whole tiles of the type of `q`.

    `columns` are position, segment, horizon and, where there is a window, oldest position of each row's query. `scales`
    are those of K and of V where these are quantised, of each key in the order of the lists; 0 where a slot has none.
    """
    blocks, units, kv_heads, rows, head_dim = q.shape
    steps, keys = reads.key_pos.shape[2:]

    def per_block(*tail: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, *tail), lambda u, i, *_: (u, i, *[0] * len(tail)))

    def of_rows(*tail: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, None, kv_heads, rows, *tail), lambda u, i, *_: (i, u, 0, 0, *[0] * len(tail)))

    def per_unit(x: Array) -> pl.BlockSpec:
        return pl.BlockSpec((None, *x.shape[1:]), lambda u, i, *_: (u, 0, 0))

    pools: tuple[Array, ...] = (jnp.asarray(kv.k), jnp.asarray(kv.v))
    if not interpret:
        # Otherwise the compiler may copy a pool that fits into VMEM as a whole, before the kernel reads a few pages.
        pools = tuple(pltpu.with_memory_space_constraint(x, pltpu.HBM) for x in pools)
    turn = () if reads.turn is None else (reads.turn.cos, reads.turn.sin)
    scratch = scratch_of(kv, keys, rows)
    out_shape = [jax.ShapeDtypeStruct((*q.shape[:4], width), jnp.float32) for width in (head_dim, LANES)]
    check_vmem(scratch, per_block=(*columns, reads.key_pos, reads.key_segment, *scales, q, *out_shape), per_unit=turn)
    found, stats = pl.pallas_call(
        partial(_kernel, entries=len(reads.page) // len(reads.count)),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(_Prefetched._fields),
            grid=(units, blocks),
            in_specs=[
                tuple(per_block(rows, 1) for _ in columns),
                *[per_block(steps, keys)] * 2,
                tuple(per_block(*x.shape[2:]) for x in scales),
                tuple(per_unit(x) for x in turn),
                of_rows(head_dim),
                *[pl.BlockSpec(memory_space=pltpu.HBM)] * 2,
            ],
            out_specs=[of_rows(head_dim), of_rows(LANES)],
            scratch_shapes=[scratch],
        ),
        out_shape=out_shape,
        # In order: a block finds the copies that the one before has started.
        compiler_params=pltpu.CompilerParams(dimension_semantics=("arbitrary", "arbitrary")),
        interpret=interpret,
        name="selective_attention",
    )(
        jnp.asarray(first_page, jnp.int32).reshape(1), reads.count, reads.page, reads.entry,
        columns, reads.key_pos, reads.key_segment, scales, turn, q, *pools,
    )  # fmt: skip
    return Partial(stats[..., 0], stats[..., 1], found)


def _kernel(
    first_ref: Any,  # [1] int32
    count_ref: Any,  # [U * I] int32
    page_ref: Any,  # [U * I * M] int32
    entry_ref: Any,  # [U * I * M] int32
    # inputs
    query_refs: tuple[Any, ...],  # pos, segment, horizon and, where there is a window, oldest: [R, 1] int32
    key_pos_ref: Any,  # [steps, keys] int32
    key_segment_ref: Any,  # [steps, keys] int32
    scale_refs: tuple[Any, ...],  # where pages are quantised, of k and of v: [steps, K, keys] f32
    turn_refs: tuple[Any, ...],  # where keys turn, cos and sin: [M, H] f32
    q_ref: Any,  # [K, R, H]
    k_ref: Any,  # [P, C, K, H] in HBM
    v_ref: Any,  # [P, C, K, H] in HBM
    # outputs
    out_ref: Any,  # [K, R, H] f32
    stats_ref: Any,  # [K, R, LANES] f32: the top score in the first lane, the total weight in the others
    scratch: Scratch,
    *,
    entries: int,
) -> None:
    pages = _Pages(_Prefetched(first_ref, count_ref, page_ref, entry_ref), k_ref, v_ref, scratch, entries)
    num_blocks = pl.num_programs(0) * pl.num_programs(1)
    block = pl.program_id(0) * pl.num_programs(1) + pl.program_id(1)
    num_steps = pl.cdiv(count_ref[block], pages.a_step)
    scratch.top[...] = jnp.full_like(scratch.top, MASKED)
    scratch.total[...] = jnp.zeros_like(scratch.total)
    out_ref[...] = jnp.zeros_like(out_ref)

    @pl.when(block == 0)
    def first() -> None:
        scratch.slot[0] = 0

    first_slot = scratch.slot[0]
    is_started = (block > 0) & (count_ref[jnp.maximum(block - 1, 0)] > 0)

    @pl.when(~is_started)
    def start() -> None:
        pages.start(block, jnp.int32(0), first_slot)

    def step(i: Array, _: None) -> None:
        slot = lax.rem(first_slot + i, SLOTS)
        is_last = i + 1 == num_steps
        following = jnp.minimum(block + is_last, num_blocks - 1)

        @pl.when(block + is_last < num_blocks)
        def prefetch() -> None:
            pages.start(following, jnp.where(is_last, 0, i + 1), 1 - slot)

        pages.wait(block, i, slot)
        key_pos = key_pos_ref[pl.ds(i, 1), :]
        seen = seen_keys(key_pos, key_segment_ref[pl.ds(i, 1), :], query_refs)
        if turn_refs:
            _spread(turn_refs, scratch.turn, pages, block, i)
        scales = tuple(ref[i] for ref in scale_refs)
        _attend(q_ref, seen, key_pos, scales, scratch, slot, bool(turn_refs), out_ref)

    lax.fori_loop(0, num_steps, step, None)
    scratch.slot[0] = lax.rem(first_slot + num_steps, SLOTS)
    _write_stats(scratch, stats_ref)


def _write_stats(scratch: Scratch, stats_ref: Any) -> None:
    top, total = scratch.top[...], scratch.total[...]
    # A maximum may pass over NaN: the top of a row that saw nothing else would say that it saw nothing.
    top = jnp.where(total == total, top, total)
    lane = lax.broadcasted_iota(jnp.int32, stats_ref.shape, 2)
    stats_ref[...] = jnp.where(lane == 0, top, total)


def seen_keys(key_pos: Array, key_segment: Array, query_refs: tuple[Any, ...]) -> Array:
    """[R, keys]: the visibility rule; `NO_KEY` is behind every query."""
    pos, segment, horizon, *oldest = (ref[...] for ref in query_refs)
    seen = (key_pos <= pos) & ((key_segment == segment) | (key_segment < horizon))
    return seen & (key_pos >= oldest[0]) if oldest else seen


def _spread(turn_refs: tuple[Any, ...], turn: Any, pages: _Pages, block: Array, step: Array) -> None:
    """Writes the cos and sin of the step's pages to each of their keys, once for all heads."""
    for at in range(pages.a_step):
        listed = jnp.minimum(step * pages.a_step + at, pages.entries - 1)
        entry = pages.prefetched.entry[block * pages.entries + listed]
        for i, ref in enumerate(turn_refs):
            row = jnp.broadcast_to(ref[pl.ds(entry, 1), :], (pages.page_tokens, ref.shape[1]))
            turn[i, pl.ds(at * pages.page_tokens, pages.page_tokens), :] = row


def _attend(
    q_ref: Any,
    seen: Array,
    key_pos: Array,
    scales: tuple[Array, ...],
    scratch: Scratch,
    slot: Array,
    turns: bool,
    out_ref: Any,
) -> None:
    """Adds a step's keys to the running softmax of every kv head."""
    kv_heads, _, head_dim = q_ref.shape
    # Positions lie along lanes; values want them along sublanes.
    is_key = jnp.broadcast_to(key_pos, (LANES, key_pos.shape[1])).T[:, :1] != NO_KEY
    for head in range(kv_heads):
        k = scratch.k[slot, :, head, :].astype(jnp.float32)
        if turns:
            k = k * scratch.turn[0] + swapped(k) * scratch.turn[1]
        # A slot without a key may hold anything: its weight is 0, but 0 * NaN is NaN.
        v = jnp.where(is_key, scratch.v[slot, :, head, :].astype(jnp.float32), 0).astype(q_ref.dtype)
        scores = product(q_ref[head], k.astype(q_ref.dtype), 1) * head_dim**-0.5
        if scales:  # of a key, whose turn is linear: so it may as well follow the product
            scores = scores * scales[0][head : head + 1]
        scores = jnp.where(seen, scores, MASKED)
        before = scratch.top[head]
        top = jnp.maximum(before, scores.max(1, keepdims=True))
        weights, decay = jnp.exp(scores - top), jnp.exp(before - top)
        scratch.top[head] = top
        scratch.total[head] = scratch.total[head] * decay + weights.sum(1, keepdims=True)
        of_values = weights * scales[1][head : head + 1] if scales else weights
        out_ref[head] = out_ref[head] * decay + product(of_values.astype(v.dtype), v, 0)


def swapped(k: Array) -> Array:
    """The halves of each key [keys, H] swapped."""
    half = k.shape[1] // 2
    if k.shape[1] == LANES:
        return pltpu.roll(k, half, 1)
    return jnp.concatenate([k[:, half:], k[:, :half]], axis=1)


def product(a: Array, b: Array, contracted: int) -> Array:
    """`a` [R, X] times `b`, of which that axis is X."""
    # Otherwise float32 operands would be rounded to bfloat16.
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else lax.Precision.DEFAULT
    dims = ((1,), (contracted,)), ((), ())
    return lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)
