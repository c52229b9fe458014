"""A batch that gives a pass all that its shape can hold, to learn what the pass takes."""

from dataclasses import replace

import numpy as np

from rcjax.engine.assembly import assemble
from rcjax.engine.shape import Shape
from rcjax.kernels.selective_attention import PageLayout
from rcjax.model.decoder import Batch


def full_batch(shape: Shape, page_tokens: int, num_reads: int) -> Batch:
    """Every query sees every page that it may, and every fresh token before it.

    A batch without rows would not do: a pass skips what no query sees. All pages are the null page, of zeros.
    """
    empty = assemble([], [], shape, page_tokens, num_reads)
    first = (shape.num_pages + shape.tile_pages) * page_tokens
    pos = np.broadcast_to(first + np.arange(shape.fresh_tokens, dtype=np.int32), empty.tokens.pos.shape).copy()
    tiles = empty.tiles
    if tiles is not None:
        index = np.arange(shape.tiles * shape.tile_tokens, dtype=np.int32)
        index[index >= shape.fresh_tokens] = -1
        queries = np.broadcast_to(index.reshape(tiles.tokens.shape[1:]), tiles.tokens.shape).copy()
        tiles = replace(tiles, tokens=queries, pages=_filled(tiles.pages, page_tokens))
    tokens = replace(empty.tokens, pos=pos)
    return replace(empty, tokens=tokens, pages=_filled(empty.pages, page_tokens), tiles=tiles)


def _filled(pages: PageLayout, page_tokens: int) -> PageLayout:
    pos = page_tokens * np.arange(pages.pos.shape[-1], dtype=np.int32)
    return replace(pages, pos=np.broadcast_to(pos, pages.pos.shape).copy(), len=np.full_like(pages.len, page_tokens))
