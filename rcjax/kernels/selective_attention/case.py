"""A case of selective attention: prompts and a model's shape, and random inputs of them.

A case says which runs of tokens a prompt has. Whatever the operator must not read (the
null page, pages of other prompts, what lies beyond a page's end, dropped tokens, padding) is NaN: a stray read shows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import ml_dtypes
import numpy as np

from rcjax.kernels.kv import PagedKV
from rcjax.kernels.selective_attention.layout import PageLayout, Rope, TileLayout, TokenLayout

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
}
QUANTISED_SPREAD = {"int8": 64, "float8_e4m3fn": 128}  # of values that scales of about 1 / spread make standard normal


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
    k_scale: np.ndarray | None = None
    v_scale: np.ndarray | None = None

    @property
    def kv(self) -> PagedKV:
        return PagedKV(self.k_pages, self.v_pages, self.k_scale, self.v_scale)


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
        held = np.zeros((num_pages, self.page_tokens), bool)
        for some in (pages, own):
            held[some.table] |= (np.arange(self.page_tokens) < some.len[..., None]) & ~some.drop
        (k_pages, k_scale), (v_pages, v_scale) = (self._pool(rng, held, draw) for _ in range(2))
        tiles = None if self.tiles is None else TileLayout(self._tile_tokens(*self.tiles[:2]), own)
        return Inputs(q, k_new, v_new, tokens, k_pages, v_pages, pages, tiles, k_scale, v_scale)

    def _pool(
        self, rng: np.random.Generator, held: np.ndarray, draw: Callable[..., np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Values of all pages and, where these are quantised, scales; poison in slots that hold nothing."""
        dtype = self.kv_dtype or self.dtype
        shape = (*held.shape, self.num_kv_heads, self.head_dim)
        if dtype not in QUANTISED_SPREAD:
            values = draw(dtype, *shape)
            values[~held] = np.nan
            return values, None
        spread = QUANTISED_SPREAD[dtype]
        values = np.clip(draw("float32", *shape) * spread, -127, 127).astype(DTYPES[dtype])
        scale = rng.uniform(0.5, 1.5, shape[:-1]).astype(np.float32) / spread
        values[~held] = np.nan if dtype != "int8" else 127  # int8 has no NaN; the scale has
        scale[~held] = np.nan
        return values, scale

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
