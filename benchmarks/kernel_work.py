"""What benchmarks/kernels.py attends to, and what each arm has to read and compute for it at least: the model."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import pallas as pl
from roofline import Peaks, Work

from rcjax.kernels.kv import KVFormat
from rcjax.kernels.selective_attention import Heads, PageLayout, TileLayout, TokenLayout
from rcjax.kernels.selective_attention.case import Case, Row, Run
from rcjax.kernels.selective_attention.cases import pointwise
from rcjax.kernels.selective_attention.config import GpuTiling
from rcjax.kernels.selective_attention.layout import joined_pages
from rcjax.kernels.selective_attention.page_kernel import MIN_HALF, MIN_ROWS
from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu
from rcjax.kernels.selective_attention.visibility import all_keys, visible

KERNEL, GATHER_XLA, GATHER_CUDNN, FULL = "kernel", "gather/xla", "gather/cudnn", "full"
ITEMSIZE = {"float32": 4, "bfloat16": 2}
# By the start of a device's name: bytes/s, float32 and dense bfloat16 FLOP/s, from NVIDIA's data sheets.
NOMINAL = {
    "NVIDIA H100 80GB HBM3": Peaks(3.35e12, 67e12, 989e12),
    "NVIDIA H200": Peaks(4.8e12, 67e12, 989e12),
    "NVIDIA A100-SXM4-80GB": Peaks(2.039e12, 19.5e12, 312e12),
}
QWEN3_8B = Case(
    "", (), num_heads=32, num_kv_heads=8, head_dim=128, page_tokens=16, rope_theta=1e6, moved=False, dtype="bfloat16"
)
TINY = Case("", (), num_heads=4, num_kv_heads=2, head_dim=16, page_tokens=4, moved=False)


def shapes_of(model: Case, cached: int, fresh: int, batch: int, tiles: tuple[int, int, int], row: Row) -> list[Case]:
    """`bar` has a query head for each kv head, `bar/group` as many as the model; in `moved` keys have to turn."""
    prompt = (Run(0, cached, cached=True), Run(cached, fresh))
    bar = replace(model, name="bar", rows=(prompt,) * batch, num_heads=model.num_kv_heads)
    group = replace(bar, name="bar/group", num_heads=model.num_heads)
    parallel = [
        replace(model, name=f"parallel/{b}", rows=(row,) * max(1, b * batch // 8), tiles=tiles) for b in (1, 8, 32)
    ]
    return [bar, replace(bar, name="bar/moved", moved=True), group, *parallel]


# `bar` is the one that a claim names. `parallel`: 20 candidates of 100 tokens, each closed by one.
SHAPES = {
    case.name: case for case in shapes_of(QWEN3_8B, 4096, 128, 8, (20, 1, 7), pointwise(200, 300, (100,) * 20, glue=1))
}
TINY_SHAPES = {case.name: case for case in shapes_of(TINY, 40, 8, 2, (3, 1, 2), pointwise(9, 6, (5, 7, 4), glue=1))}


def heads_of(case: Case) -> Heads:
    return Heads(case.head_dim, case.num_heads // case.num_kv_heads, case.dtype, case.kv_dtype or case.dtype)


class Layouts(NamedTuple):
    """Where a case's tokens stand, without what they hold."""

    tokens: TokenLayout
    pages: PageLayout
    tiles: TileLayout | None
    num_pages: int  # of a layer's pool

    @classmethod
    def of(cls, case: Case) -> "Layouts":
        # The case's own arrays, at their full size, would take longer to draw than to attend to.
        small = replace(case, num_heads=1, num_kv_heads=1, head_dim=2, dtype="float32", kv_dtype=None)
        inputs = small.inputs(0)
        return cls(inputs.tokens, inputs.pages, inputs.tiles, len(inputs.k_pages))


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one layer, all prompts together. A slot is a token's place in a page, whether it holds one or not."""

    fresh: int
    prompt: int  # tokens of each prompt
    pairs: int  # of a query and a key that it sees
    seen: int  # cached tokens that any query sees
    pages_seen: int  # pages that hold one of these
    pages_listed: int  # pages in the GPU kernel's lists: once for each block of queries that reads them
    slots: int  # in all tables

    @classmethod
    def of(cls, case: Case, at: Layouts) -> "Counts":
        pages = joined_pages(at.pages, at.tiles)
        keys = all_keys(at.tokens, pages)
        seen = np.asarray(visible(at.tokens, keys, case.window))
        cached = seen[..., : pages.drop[0].size].any(1)
        return cls(
            fresh=int((at.tokens.pos >= 0).sum()),
            prompt=int(np.asarray(keys.valid)[0].sum()),
            pairs=int(seen.sum()),
            seen=int(cached.sum()),
            pages_seen=int(cached.reshape(*pages.table.shape, -1).any(2).sum()),
            pages_listed=sum(int(some.count.sum()) for some in visits_of(case, at)[1:]),
            slots=pages.drop.size,
        )


def visits_of(case: Case, at: Layouts) -> list[Any]:
    """The GPU kernel's lists, in its default tiling: of fresh keys, then of pages that all see, and of those of tiles.

    The lists are of whole pages, whatever these hold.
    """
    attention = pallas_gpu(tiling=GpuTiling.default(heads_of(case)))
    view = jax.jit(lambda *layouts: attention.view(*layouts, rope=case.rope, window=case.window))
    parts = view(at.tokens, at.pages, at.tiles).made
    tiles = None if parts.tiles is None else parts.tiles.read
    return [parts.fresh, *(some for some in (parts.shared, tiles) if some is not None)]


def needed(case: Case, counts: Counts) -> Work:
    """Whatever the way: every cached token that is seen is read once, and so are the fresh ones."""
    flops = 4.0 * case.num_heads * case.head_dim * counts.pairs
    return Work(flops, counts.seen * cached_bytes(case) + _fresh_bytes(case, counts))


def modelled(case: Case, at: Layouts, counts: Counts) -> dict[str, Work]:
    """What each arm reads, writes and computes if it does nothing twice that its way does not ask for.

    The kernel's bytes are those of its lists: a page that several blocks of queries list may come from the cache. A
    gathered copy, of the type of the queries, is written and read; XLA also writes scores and weights, and cuDNN reads
    the mask as a bias.
    """
    batch, num_fresh = at.tokens.pos.shape
    itemsize = ITEMSIZE[case.dtype]
    scores = batch * num_fresh * (counts.slots // batch + num_fresh)
    copy = 2 * case.num_kv_heads * case.head_dim * itemsize
    fixed = _fresh_bytes(case, counts) + counts.slots * (cached_bytes(case) + 2 * copy)
    products = 4.0 * case.num_heads * case.head_dim
    heads = 2 * (case.num_heads + case.num_kv_heads)
    return {
        KERNEL: _kernel_work(case, at, counts),
        GATHER_XLA: Work(products * scores, fixed + case.num_heads * scores * 2 * (4 + itemsize)),
        GATHER_CUDNN: Work(products * scores, fixed + scores * itemsize),
        FULL: Work(
            products * batch * counts.prompt * (counts.prompt + 1) / 2,
            batch * counts.prompt * heads * case.head_dim * itemsize,
        ),
    }


def bandwidth_left(work: Work, peaks: Peaks, dtype: str) -> float:
    """The largest fraction of the bandwidth that can be reached where arithmetic runs at its peak."""
    return work.num_bytes / peaks.bytes_per_s * 1e3 / work.limit_ms(peaks, dtype)


def cached_bytes(case: Case) -> float:
    """Of a cached token: K, V and, where they are quantised, scales."""
    dtype = case.kv_dtype or case.dtype
    return KVFormat(dtype, 1, case.num_kv_heads, case.head_dim, case.page_tokens).page_bytes / case.page_tokens


def _kernel_work(case: Case, at: Layouts, counts: Counts) -> Work:
    """Rows and halves are padded as the kernel pads them, and what splits find is written and read in float32."""
    group, width = case.num_heads // case.num_kv_heads, 2 * max(MIN_HALF, pl.next_power_of_2(case.head_dim // 2))
    tiling = GpuTiling.default(heads_of(case))
    flops = 0.0
    num_bytes = counts.pages_listed * case.page_tokens * cached_bytes(case) + _fresh_bytes(case, counts)
    for some in visits_of(case, at):
        units, blocks, query_block = some.queries.pos.shape
        rows = max(MIN_ROWS, pl.next_power_of_2(query_block * group))
        splits = tiling.num_splits(units * blocks * case.num_kv_heads, some.key_pos.shape[1])
        flops += 4.0 * rows * case.num_kv_heads * width * int(some.count.sum()) * some.page_tokens
        num_bytes += 2 * 4 * units * blocks * splits * case.num_kv_heads * rows * (width + 2)
    return Work(flops, num_bytes)


def _fresh_bytes(case: Case, counts: Counts) -> int:
    """Of q, the fresh K and V, and the output."""
    return counts.fresh * 2 * (case.num_heads + case.num_kv_heads) * case.head_dim * ITEMSIZE[case.dtype]


def nominal_peaks() -> Peaks | None:
    """Those of the present device, where they are known."""
    kind = jax.devices()[0].device_kind
    return next((peaks for name, peaks in NOMINAL.items() if kind.startswith(name)), None)
