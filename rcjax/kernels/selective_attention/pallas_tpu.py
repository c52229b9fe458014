"""Selective attention on TPUs (v5e, v6e): a Pallas kernel for Mosaic.

Pages are read where they lie in the pool and their keys turned on the way: no copy of the context is made. One kernel
attends to the pages that all queries may see, to the fresh tokens (pages of another pool) and to the pages of each
tile (a prompt of its own); XLA merges the softmaxes. The lists of pages to read are made once a pass, and in scalar
memory before a block starts; nothing that they do not count is copied.

The kernel wants a pool row-major. XLA chooses that layout by itself where head_dim is a multiple of 128 and kv_heads a
power of two of at least 2 (compiled for v5e and v6e); elsewhere it lays pages out in another order, and then copies
the whole pool before the kernel runs, unless the pool's own program asked for a row-major result.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rcjax.kernels.arrays import AnyArray
from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.api import Attention
from rcjax.kernels.selective_attention.config import Tilings, TpuTiling
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TileLayout, TokenLayout
from rcjax.kernels.selective_attention.page_parts import PageParts, attend_parts, check_dtypes, page_parts
from rcjax.kernels.selective_attention.query_blocks import join_rows, pad_tokens, split_queries
from rcjax.kernels.selective_attention.rotation import Rotation, by_shift
from rcjax.kernels.selective_attention.softmax import Partial
from rcjax.kernels.selective_attention.tpu_kernel import Reads, attend_pages
from rcjax.kernels.selective_attention.tpu_mass import TpuMeasure
from rcjax.kernels.selective_attention.visibility import KeyLayout, cached_keys
from rcjax.kernels.selective_attention.visits import NO_KEY, Visits, visits

FRESH_PAGE = 16  # tokens; fresh keys are read as pages of them
MAX_HEAD_DIM = 256
LIST_BYTES = 1 << 19  # half of the scalar memory of a v5e or v6e; the rest is the compiler's


@dataclass(frozen=True, slots=True)
class MakeTpuView:
    """`Attention.view`."""

    tilings: Tilings[TpuTiling]

    def __call__(
        self, tokens: TokenLayout, pages: PageLayout, tiles: TileLayout | None, *, rope: Rope, window: int | None
    ) -> PageParts:
        padded = pad_tokens(tokens, FRESH_PAGE)
        table = jnp.arange(padded.pos.size // FRESH_PAGE, dtype=jnp.int32).reshape(tokens.pos.shape[0], -1)

        def read(tokens: TokenLayout, pages: PageLayout) -> Reads:
            turn = None if pages.shift is None else by_shift(pages.shift, rope)
            return self._reads(tokens, cached_keys(pages), pages.table, turn, window)

        keys = KeyLayout(padded.pos, padded.segment, padded.pos >= 0)
        return page_parts(self._reads(tokens, keys, table, None, window), read, tokens, pages, tiles)

    def _reads(
        self, tokens: TokenLayout, keys: KeyLayout, table: AnyArray, turn: Rotation | None, window: int | None
    ) -> Reads:
        tiling = self.tilings.of(tokens.pos.shape[1])
        query_block = min(tiling.queries, tokens.pos.shape[1])
        visited = visits(tokens, keys, table, turn, query_block=query_block, window=window)
        _check_lists(visited)
        in_steps = tiling.step_keys(visited.page_tokens)
        return Reads(
            count=visited.count.reshape(-1),
            page=visited.page.reshape(-1),
            entry=visited.entry.reshape(-1),
            queries=visited.queries,
            oldest=visited.oldest,
            key_pos=_listed(visited, visited.key_pos, in_steps, NO_KEY),
            key_segment=_listed(visited, visited.key_segment, in_steps, 0),
            turn=None if turn is None else Rotation(_both(turn.cos, turn.cos), _both(-turn.sin, turn.sin)),
        )


@dataclass(frozen=True, slots=True)
class TpuAttend:
    """`Attention.__call__`; products have operands of the type of `q` and accumulate in float32."""

    interpret: Any

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
        fresh = PagedKV(_as_pages(k_new), _as_pages(v_new))
        return attend_parts(view, self._attend, q, fresh, kv, first_page)

    def _attend(self, read: Reads, q: Float[Array, "U T N H"], kv: PagedKV, first_page: Any) -> Partial:
        """[U, T, N] of the queries of U prompts or tiles."""
        query_block = read.queries.pos.shape[2]
        rows = split_queries(q, kv.k.shape[2], query_block)
        num_rows = rows.shape[3]
        tile_rows = 8 * 4 // q.dtype.itemsize
        rows = jnp.pad(rows, [(0, 0)] * 3 + [(0, -num_rows % tile_rows), (0, 0)])
        columns, scales = _columns(read, rows.shape[3]), _scales(read, kv, first_page)
        found = attend_pages(read, columns, rows, kv, scales, first_page, self.interpret)
        return Partial(*(join_rows(x[:, :, :, :num_rows], query_block, q.shape[1]) for x in found))


def pallas_tpu(interpret: Any = False, tiling: TpuTiling | Tilings[TpuTiling] | None = None) -> Attention:
    """The implementation with these tile sizes; interpreted, it runs on a CPU, slowly.

    `interpret` is what `pallas_call` takes: true, or `InterpretParams` for an interpreter that models copies as the
    hardware makes them.
    """
    tilings = tiling if isinstance(tiling, Tilings) else Tilings.always(tiling or TpuTiling())
    view = MakeTpuView(tilings)
    return Attention("pallas_tpu", view, TpuAttend(interpret), TpuMeasure(view, FRESH_PAGE, interpret))


def _columns(reads: Reads, rows: int) -> tuple[Int[Array, "U I R 1"], ...]:
    """What `attend_pages` wants of each row's query; padding stands at -1 and sees nothing."""
    num_queries = reads.queries.pos.shape[2]
    of_queries = [(reads.queries.pos, -1), (reads.queries.segment, 0), (reads.queries.horizon, 0)]
    if reads.oldest is not None:
        of_queries.append((reads.oldest, 0))

    def column(x: AnyArray, padding: int) -> Array:
        x = jnp.tile(x, (1, 1, rows // num_queries))  # head by head, as `split_queries` has them
        x = jnp.pad(x, ((0, 0), (0, 0), (0, rows - x.shape[2])), constant_values=padding)
        return x[..., None]

    return tuple(column(*of) for of in of_queries)


def _scales(reads: Reads, kv: PagedKV, first_page: Any) -> tuple[Float[Array, "U I steps K keys"], ...]:
    """What `attend_pages` wants of quantised pages. Gathered by XLA: a page's are too small for a copy of their own."""
    if kv.k_scale is None or kv.v_scale is None:
        return ()
    units, blocks, steps, keys = reads.key_pos.shape
    _, page_tokens, kv_heads, _ = kv.k.shape
    page = reads.page.reshape(units, blocks, -1) + first_page
    page = jnp.pad(page, ((0, 0), (0, 0), (0, steps * keys // page_tokens - page.shape[2])))

    def listed(scale: AnyArray) -> Array:
        # A page's scales are one row, as whole lanes: 8 kv heads would fill 8 lanes of 128.
        rows = jnp.asarray(scale).reshape(len(scale), -1).at[page].get(mode="promise_in_bounds")
        rows = rows.reshape(units, blocks, steps, -1, page_tokens, kv_heads)
        rows = rows.transpose(0, 1, 2, 5, 3, 4).reshape(units, blocks, steps, kv_heads, keys)
        return jnp.where((reads.key_pos != NO_KEY)[:, :, :, None], rows, 0)

    return listed(kv.k_scale), listed(kv.v_scale)


def _listed(visited: Visits, of_keys: Int[Array, "U S"], step_keys: int, nothing: int) -> Int[Array, "U I steps keys"]:
    """What the keys have, in the order in which each block reads their pages; `nothing` where it reads none."""
    units, blocks, entries = visited.entry.shape
    of_pages = of_keys.reshape(units, 1, entries, visited.page_tokens)
    listed = jnp.take_along_axis(of_pages, visited.entry[..., None], axis=2)
    is_read = jnp.arange(entries) < visited.count[..., None]
    listed = jnp.where(is_read[..., None], listed, nothing).reshape(units, blocks, -1)
    padding = ((0, 0), (0, 0), (0, -listed.shape[2] % step_keys))
    return jnp.pad(listed, padding, constant_values=nothing).reshape(units, blocks, -1, step_keys)


def _both(first: Array, second: Array) -> Array:
    return jnp.concatenate([first, second], axis=-1)


def _as_pages(x: Float[Array, "B T K H"]) -> Float[Array, "P C K H"]:
    x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % FRESH_PAGE), (0, 0), (0, 0)))
    return x.reshape(-1, FRESH_PAGE, *x.shape[2:])


def _check_lists(visited: Visits) -> None:
    num_bytes = 4 * (visited.count.size + visited.page.size + visited.entry.size)
    if num_bytes > LIST_BYTES:
        units, blocks, entries = visited.entry.shape
        raise NotImplementedError(
            f"the lists of {units} prompts or tiles x {blocks} blocks of queries x {entries} pages take {num_bytes} "
            f"bytes of scalar memory, which has {LIST_BYTES} for them; take more queries a block or fewer prompts"
        )


def _check_operands(q: Array, k_new: Array, kv: PagedKV) -> None:
    if q.shape[3] > MAX_HEAD_DIM:
        raise NotImplementedError(
            f"head_dim={q.shape[3]} is more than {MAX_HEAD_DIM}, the most that was compiled; use attention: reference"
        )
    check_dtypes(kv, q=q, k_new=k_new)
