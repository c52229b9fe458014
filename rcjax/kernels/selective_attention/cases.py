"""Named cases of selective attention, shared by tests, tuning and benchmarks.

A case says which runs of tokens a prompt has. Its inputs are random, and whatever the operator must not read (the
null page, pages of other prompts, what lies beyond a page's end, dropped tokens, padding) is NaN: a stray read shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import ml_dtypes
import numpy as np

from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TileLayout, TokenLayout

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens at `start, start + 1, ...`, cached in pages of their own or fresh.

    `selected` holds offsets of cached tokens that are fresh too: dropped in the pages, computed again. Where the case
    has a tile of that number, its fresh tokens are the tile's, and so are its pages as far as they fit.
    """

    start: int
    length: int
    cached: bool = False
    segment: int = 0
    horizon: int = 0
    selected: tuple[int, ...] = ()
    tile: int = -1


Row = tuple[Run, ...]  # one prompt of the batch


class _Page(NamedTuple):
    start: int
    num_tokens: int
    segment: int
    dropped: list[int]
    tile: int


class Inputs(NamedTuple):
    """The operator's arguments, on the host."""

    q: np.ndarray
    k_new: np.ndarray
    v_new: np.ndarray
    tokens: TokenLayout
    k_pages: np.ndarray
    v_pages: np.ndarray
    pages: PageLayout
    tiles: TileLayout | None


@dataclass(frozen=True, slots=True)
class Case:
    """Prompts and a model's shape; `pad_tokens` and `pad_pages` widen every row by unused entries.

    Fresh tokens are of `dtype`, and so are pages unless `kv_dtype` says otherwise. The pages are `moved`, each by a
    shift of its own, or all at home. `tiles` says how many there are, and how many tokens and pages each takes.
    """

    name: str
    rows: tuple[Row, ...]
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 8
    page_tokens: int = 4
    window: int | None = None
    pad_tokens: int = 0
    pad_pages: int = 0
    dtype: str = "float32"
    kv_dtype: str | None = None
    moved: bool = True
    tiles: tuple[int, int, int] | None = None
    rope_theta: float = 10_000.0
    rope_factor: float = 1.0

    @property
    def rope(self) -> Rope:
        exponent = np.arange(0, self.head_dim, 2) / self.head_dim
        return Rope((self.rope_theta**-exponent).astype(np.float32), self.rope_factor)

    def inputs(self, seed: int) -> Inputs:
        rng = np.random.default_rng(seed)
        tokens = self._tokens()
        (pages, own), num_pages = self._pages(rng)
        heads, kv_heads = (self.num_heads, self.head_dim), (self.num_kv_heads, self.head_dim)

        def draw(dtype: str, *shape: int) -> np.ndarray:
            return rng.standard_normal(shape, np.float32).astype(DTYPES[dtype])

        q, k_new, v_new = (draw(self.dtype, *tokens.pos.shape, *tail) for tail in (heads, kv_heads, kv_heads))
        for fresh in (q, k_new, v_new):
            fresh[tokens.pos < 0] = np.nan
        k_pages, v_pages = (draw(self.kv_dtype or self.dtype, num_pages, self.page_tokens, *kv_heads) for _ in range(2))
        held = np.zeros((num_pages, self.page_tokens), bool)
        for some in (pages, own):
            held[some.table] |= (np.arange(self.page_tokens) < some.len[..., None]) & ~some.drop
        for cached in (k_pages, v_pages):
            cached[~held] = np.nan
        tiles = None if self.tiles is None else TileLayout(self._tile_tokens(*self.tiles[:2]), own)
        return Inputs(q, k_new, v_new, tokens, k_pages, v_pages, pages, tiles)

    def _tokens(self) -> TokenLayout:
        rows = [[token for run in row for token in _fresh_tokens(run)] for row in self.rows]
        width = max(len(row) for row in rows) + self.pad_tokens
        padded = [row + [(-1, 0, 0)] * (width - len(row)) for row in rows]
        pos, segment, horizon = np.array(padded, np.int32).reshape(len(rows), width, 3).transpose(2, 0, 1)
        return TokenLayout(pos, segment, horizon)

    def _tile_tokens(self, num_tiles: int, tile_tokens: int) -> np.ndarray:
        tokens = np.full((len(self.rows), num_tiles, tile_tokens), -1, np.int32)
        for b, row in enumerate(self.rows):
            tile = np.array([run.tile for run in row for _ in _fresh_tokens(run)], np.int32)
            for i in range(num_tiles):
                (own,) = np.nonzero(tile == i)
                tokens[b, i, : len(own)] = own
        return tokens

    def _pages(self, rng: np.random.Generator) -> tuple[tuple[PageLayout, PageLayout], int]:
        """Pages in no order, some of the pool's in no row: those of all queries and those of tiles; the pool's size."""
        num_tiles, _, tile_pages = self.tiles or (0, 0, 0)
        rows = [
            _place([page for run in row for page in self._pages_of(run)], num_tiles, tile_pages) for row in self.rows
        ]
        first = max(len(shared) for shared, _ in rows) + self.pad_pages
        width = first + num_tiles * tile_pages
        num_pages = len(rows) * width + 4
        free = iter(1 + rng.permutation(num_pages - 1))
        table, pos, length, segment = np.zeros((4, len(rows), width), np.int32)
        drop = np.zeros((len(rows), width, self.page_tokens), bool)
        for b, (shared, own) in enumerate(rows):
            for m, page in chain(enumerate(shared), ((first + at, page) for at, page in own)):
                table[b, m], pos[b, m], length[b, m], segment[b, m] = next(free), *page[:3]
                drop[b, m, page.dropped] = True
        shift = (rng.integers(1, 60, table.shape) * rng.choice((-1, 1), table.shape)).astype(np.int32)
        layout = (table, pos, length, segment, drop, *((shift,) if self.moved else ()))
        grid = (len(rows), num_tiles, tile_pages)
        of_tiles = [x[:, first:].reshape(*grid, *x.shape[2:]) for x in layout]
        return (PageLayout(*(x[:, :first] for x in layout)), PageLayout(*of_tiles)), num_pages

    def _pages_of(self, run: Run) -> list[_Page]:
        pages = []
        for first in range(0, run.length if run.cached else 0, self.page_tokens):
            dropped = [offset - first for offset in run.selected if 0 <= offset - first < self.page_tokens]
            num_tokens = min(self.page_tokens, run.length - first)
            pages.append(_Page(run.start + first, num_tokens, run.segment, dropped, run.tile))
        return pages


def _place(pages: Sequence[_Page], num_tiles: int, tile_pages: int) -> tuple[list[_Page], list[tuple[int, _Page]]]:
    """The pages that all queries may see, and where among all that tiles have room for the others go."""
    shared, own = [], []
    used = [0] * num_tiles
    for page in pages:
        if 0 <= page.tile < num_tiles and used[page.tile] < tile_pages:
            own.append((page.tile * tile_pages + used[page.tile], page))
            used[page.tile] += 1
        else:
            shared.append(page)
    return shared, own


def _fresh_tokens(run: Run) -> list[tuple[int, int, int]]:
    offsets: Sequence[int] = run.selected if run.cached else range(run.length)
    return [(run.start + offset, run.segment, run.horizon) for offset in offsets]


def sequential(instruction: int, history: int, items: Sequence[int], glue: int, task: int, selected: int = 0) -> Row:
    """Cached instruction and history, then for each item fresh glue and the cached item; task; causal attention.

    The first `selected` tokens of each item are selected.
    """
    runs = [Run(0, instruction, cached=True), Run(instruction, history, cached=True)]
    end = instruction + history
    for length in items:
        runs.append(Run(end, glue))
        runs.append(Run(end + glue, length, cached=True, selected=tuple(range(min(selected, length)))))
        end += glue + length
    return (*runs, Run(end, task))


def parallel(instruction: int, history: int, items: Sequence[int], glue: int, task: int, selected: int = 0) -> Row:
    """The same prompt with history and items side by side, each item closed by its own glue."""
    last = 2 + len(items)
    end = instruction + max(history, *items) + glue
    return (*_side_by_side(instruction, history, items, glue, selected), Run(end, task, segment=last, horizon=last))


def pointwise(instruction: int, history: int, items: Sequence[int], glue: int, task: int = 0, selected: int = 0) -> Row:
    """As `parallel`, but the task sees no item, so that the i-th item and its glue can be the i-th tile's."""
    end = instruction + max(history, *items) + glue
    return (*_side_by_side(instruction, history, items, glue, selected), Run(end, task, segment=1, horizon=2))


def _side_by_side(instruction: int, history: int, items: Sequence[int], glue: int, selected: int) -> Row:
    runs = [Run(0, instruction, cached=True), Run(instruction, history, cached=True, segment=1, horizon=1)]
    for i, length in enumerate(items):
        segment, offsets = 2 + i, tuple(range(min(selected, length)))
        runs.append(Run(instruction, length, cached=True, segment=segment, horizon=1, selected=offsets, tile=i))
        runs.append(Run(instruction + max(history, length), glue, segment=segment, horizon=2, tile=i))
    return tuple(runs)


_SEQUENTIAL = sequential(instruction=9, history=6, items=(5, 7, 4), glue=2, task=4)
_PARALLEL = parallel(instruction=9, history=6, items=(5, 7, 4), glue=2, task=4)
_POINTWISE = pointwise(instruction=9, history=6, items=(5, 7, 4), glue=2)
_UNEVEN = pointwise(instruction=5, history=3, items=(9, 0, 2, 13), glue=1, task=3, selected=2)
_LONG = sequential(instruction=40, history=110, items=(61, 67, 64, 5, 70, 66), glue=3, task=17, selected=4)
_LONG_PARALLEL = parallel(instruction=40, history=110, items=(61, 67, 64, 5, 170, 66), glue=3, task=17, selected=4)
_LONG_POINTWISE = pointwise(instruction=40, history=1100, items=(61, 67, 64, 5, 170, 66), glue=3, selected=4, task=160)
_GAP = (Run(0, 5, cached=True, segment=0), Run(5, 3, cached=True, segment=3), Run(8, 2, segment=1, horizon=0))

CASES = {
    case.name: case
    for case in (
        Case("all_fresh", ((Run(0, 11),),)),
        Case("one_token", ((Run(0, 1),),)),
        Case("decode", ((Run(0, 13, cached=True), Run(13, 1)),)),
        Case("full_pages", ((Run(0, 12, cached=True), Run(12, 5)),)),
        Case("one_past_a_page", ((Run(0, 13, cached=True), Run(13, 5)),)),
        Case("one_short_of_a_page", ((Run(0, 11, cached=True), Run(11, 5)),)),
        Case("pages_of_one_token", ((Run(0, 5, cached=True), Run(5, 3)),), page_tokens=1),
        Case("padded", (_SEQUENTIAL,), pad_tokens=5, pad_pages=3),
        Case("unused_pages_only", ((Run(0, 6),),), pad_pages=3),
        Case("ragged_batch", (_SEQUENTIAL, (Run(0, 3),), (Run(0, 10, cached=True), Run(10, 1)), ())),
        Case("middle_missing", ((Run(0, 6, cached=True), Run(6, 4), Run(10, 7, cached=True), Run(17, 3)),)),
        Case("fresh_before_cached", ((Run(0, 6), Run(6, 9, cached=True)), _SEQUENTIAL)),
        Case("selected_scattered", ((Run(0, 14, cached=True, selected=(0, 3, 4, 9, 13)), Run(14, 2)),)),
        Case("selected_all", ((Run(0, 9, cached=True, selected=tuple(range(9))), Run(9, 2)),)),
        Case("hidden_pages", (_GAP, (Run(4, 6, cached=True), Run(0, 3, segment=1, horizon=1)))),
        Case("sequential", (_SEQUENTIAL,)),
        Case("parallel", (_PARALLEL,)),
        Case("parallel_batch", (_PARALLEL, parallel(3, 12, (2, 20), 1, 5, selected=2)), pad_tokens=2),
        Case("multi_head", (_SEQUENTIAL,), num_heads=3, num_kv_heads=3),
        Case("multi_query", (_PARALLEL,), num_heads=3, num_kv_heads=1),
        Case("grouped_query", (_SEQUENTIAL, _PARALLEL), num_heads=6, num_kv_heads=2, head_dim=4),
        Case("window", (_SEQUENTIAL, (Run(0, 21),)), window=7),
        Case("window_of_one", (_SEQUENTIAL,), window=1),
        Case("window_parallel", (_PARALLEL,), window=9),
        Case("rope_factor", (_SEQUENTIAL,), rope_factor=1.3, rope_theta=500.0),
        Case("several_query_blocks", (_LONG, (Run(0, 70),)), page_tokens=16),
        Case("several_query_blocks_parallel", (_LONG_PARALLEL,), page_tokens=16),
        Case("long_window", (_LONG,), page_tokens=16, window=100),
        Case("over_512_fresh", ((Run(0, 5, cached=True), Run(5, 530)),), num_heads=2, num_kv_heads=1),
        Case("many_cached", ((Run(0, 1300, cached=True, selected=(511, 512, 1056)), Run(1300, 3)),), page_tokens=16),
        Case("many_cached_and_fresh", ((Run(0, 1100, cached=True), Run(1100, 210)), _LONG), page_tokens=16),
        Case("exactly_512_keys", ((Run(0, 508, cached=True), Run(508, 4)),)),
        Case("exactly_64_fresh", ((Run(0, 64),),)),
        Case("bfloat16", (_SEQUENTIAL, _PARALLEL), dtype="bfloat16", pad_tokens=1, pad_pages=1),
        Case("at_home", (_SEQUENTIAL,), moved=False, pad_pages=1),
        Case("tiles", (_POINTWISE,), tiles=(3, 2, 2)),
        Case("tiles_at_home", (_POINTWISE, _UNEVEN), tiles=(4, 3, 4), moved=False, pad_tokens=2, pad_pages=1),
        Case("tiles_with_room", (_POINTWISE, _UNEVEN, (), (Run(0, 4),)), tiles=(6, 5, 5), pad_tokens=2),
        Case("tiles_overflow", (_UNEVEN, _POINTWISE), tiles=(2, 3, 1), num_heads=6),
        Case(
            "tiles_of_one_token",
            (pointwise(9, 6, (5, 7, 4), glue=1),) * 2,
            tiles=(3, 1, 2),
            num_heads=3,
            num_kv_heads=1,
        ),
        Case("tiles_only", ((Run(0, 6, cached=True, tile=0), Run(6, 3, tile=0)),), tiles=(1, 3, 2)),
        Case("tiles_window", (_POINTWISE, _UNEVEN), tiles=(4, 3, 4), window=9, pad_tokens=1),
        Case("tiles_multi_head", (_UNEVEN,), tiles=(4, 3, 4), num_heads=3, num_kv_heads=3, rope_factor=1.3),
        Case("tiles_long", (_LONG_POINTWISE, _POINTWISE), tiles=(6, 7, 11), page_tokens=16, num_heads=2),
        Case("tiles_bfloat16", (_POINTWISE, _UNEVEN), tiles=(4, 3, 4), dtype="bfloat16", pad_tokens=1, pad_pages=1),
        Case("tiles_bfloat16_pages", (_UNEVEN,), tiles=(4, 3, 3), kv_dtype="bfloat16"),
        Case("bfloat16_long", (_LONG,), dtype="bfloat16", page_tokens=16),
        Case("bfloat16_pages", (_SEQUENTIAL, _PARALLEL), kv_dtype="bfloat16", pad_tokens=1, pad_pages=1),
        Case("float32_pages", (_SEQUENTIAL, _PARALLEL), dtype="bfloat16", kv_dtype="float32", pad_pages=1),
    )
}

_SERVED = Case("", (), num_heads=9, num_kv_heads=3, head_dim=64, page_tokens=16)  # SmolLM2-135M
_TILED = replace(_SERVED, tiles=(20, 1, 6), moved=False)
_ITEMS = (73, 81, 66, 90, 58) * 4

# What a server runs: a prompt of about 2,000 tokens with 20 candidates.
SERVING_CASES = {
    case.name: case
    for case in (
        replace(_SERVED, name="full_recompute", rows=((Run(0, 2048),),)),
        replace(_SERVED, name="prefix_cached", rows=((Run(0, 400, cached=True), Run(400, 1648)),), moved=False),
        replace(_SERVED, name="blocks_cached", rows=(sequential(200, 200, _ITEMS, 4, 24, selected=4),)),
        replace(_SERVED, name="blocks_cached_parallel", rows=(parallel(200, 200, _ITEMS, 4, 24),), moved=False),
        replace(_SERVED, name="batch_of_four", rows=(parallel(200, 200, _ITEMS, 4, 24),) * 4, moved=False),
        replace(_TILED, name="blocks_cached_tiles", rows=(pointwise(200, 240, _ITEMS, 1),)),
        replace(_TILED, name="batch_of_four_tiles", rows=(pointwise(200, 240, _ITEMS, 1),) * 4),
    )
}
