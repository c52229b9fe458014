"""Assembly against an oracle that places one token at a time, into dictionaries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.engine.assembly import Row, Source, assemble
from rcjax.engine.shape import Shape
from rcjax.prompt import Block, BlockKind

PAGE_TOKENS, NUM_READS = 3, 5


@st.composite
def block_specs(draw):
    """(token ids, start, segment, horizon), how many tokens are cached (0: no source), and the selected ones."""
    ids = draw(st.lists(st.integers(0, 99), min_size=1, max_size=8))
    num_cached = draw(st.integers(0, len(ids)))
    selected = draw(st.sets(st.integers(0, num_cached - 1))) if num_cached else set()
    return ids, *(draw(st.integers(0, 20)) for _ in range(3)), num_cached, sorted(selected)


row_specs = st.lists(block_specs(), min_size=1, max_size=5)


def row_of(specs):
    """A row, in which every block that can be read out is, and the pages of each of its sources."""
    blocks, sources, table, page = [], {}, [], 1
    for index, (ids, start, segment, horizon, num_cached, selected) in enumerate(specs):
        blocks.append(Block(BlockKind.ITEM, np.array(ids, np.int32), start, segment, horizon))
        if num_cached:
            table.append(tuple(range(page, page - (-num_cached // PAGE_TOKENS))))
            sources[index] = Source(num_cached, np.array(selected, np.int32))
            page += len(table[-1])
    readouts = [
        i
        for i, (ids, *_, num_cached, selected) in enumerate(specs)
        if num_cached < len(ids) or len(ids) - 1 in selected
    ]
    return Row(blocks, sources, readouts, PAGE_TOKENS), table


def expected_fresh(row):
    """(id, position, segment, horizon) of each token to compute, and where each (block, offset) went."""
    fresh, where = [], {}
    for index, block in enumerate(row.blocks):
        source = row.sources.get(index)
        for offset, token in enumerate(block.token_ids):
            if source and offset < source.num_cached and offset not in source.selected:
                continue
            where[index, offset] = len(fresh)
            fresh.append((token, block.start + offset, block.segment, block.horizon))
    return fresh, where


def expected_cached(row, table):
    """{(page, slot): (position, segment)} of each token that is read from pages."""
    cached = {}
    for (index, source), pages in zip(row.sources.items(), table, strict=True):
        block = row.blocks[index]
        for offset in range(source.num_cached):
            if offset not in source.selected:
                slot = (pages[offset // PAGE_TOKENS], offset % PAGE_TOKENS)
                cached[slot] = (block.start + offset, block.segment)
    return cached


@given(st.lists(row_specs, min_size=1, max_size=3), st.integers(0, 2), st.integers(0, 2), st.integers(0, 1))
def test_every_token_is_placed_once(specs, spare_tokens, spare_pages, spare_rows):
    given_rows, tables = map(list, zip(*(row_of(spec) for spec in specs), strict=True))
    shape = Shape(
        max(1, *(row.num_fresh for row in given_rows)) + spare_tokens,
        max(row.num_pages for row in given_rows) + spare_pages,
        len(given_rows) + spare_rows,
    )
    batch = assemble(given_rows, tables, shape, PAGE_TOKENS, NUM_READS)
    assert batch.token_ids.shape == (shape.batch, shape.fresh_tokens)
    assert batch.pages.drop.shape == (shape.batch, shape.num_pages, PAGE_TOKENS)
    for b in range(shape.batch):
        row, table = (given_rows[b], tables[b]) if b < len(given_rows) else (Row([], {}, (), PAGE_TOKENS), [])
        fresh, where = expected_fresh(row)
        columns = (batch.token_ids, batch.tokens.pos, batch.tokens.segment, batch.tokens.horizon)
        placed = list(zip(*(column[b].tolist() for column in columns), strict=True))
        assert placed[: len(fresh)] == [tuple(map(int, token)) for token in fresh]
        assert all(pos == -1 for _, pos, _, _ in placed[len(fresh) :])
        assert cached_tokens(batch.pages, b) == expected_cached(row, table)
        last = [where[index, len(row.blocks[index]) - 1] for index in row.readouts]
        assert batch.read[b].tolist() == last + [0] * (NUM_READS - len(last))
        assert row.num_fresh == len(fresh)
        assert row.num_cached == len(expected_cached(row, table))


def cached_tokens(pages, b):
    found = {}
    for page, pos, length, segment, drop in zip(
        pages.table[b], pages.pos[b], pages.len[b], pages.segment[b], pages.drop[b], strict=True
    ):
        for slot in range(length):
            if not drop[slot]:
                found[int(page), slot] = (int(pos) + slot, int(segment))
    return found


def test_counts_of_a_row_by_hand():
    blocks = [Block(BlockKind.ITEM, np.arange(n, dtype=np.int32), 0) for n in (5, 4, 2)]
    row = Row(blocks, {0: Source(5, np.array([0, 4])), 1: Source(3)}, (), PAGE_TOKENS)
    assert (row.num_pages, row.num_selected, row.num_cached, row.num_fresh) == (3, 2, 6, 5)


def test_a_block_that_is_computed_again_as_a_whole_reads_no_pages():
    blocks = [Block(BlockKind.ITEM, np.arange(5, dtype=np.int32), start) for start in (0, 5)]
    row = Row(blocks, {0: Source(5, np.arange(5)), 1: Source(5, np.array([4]))}, (), PAGE_TOKENS)
    assert (row.num_pages, row.num_selected, row.num_cached, row.num_fresh) == (2, 6, 4, 6)
    batch = assemble([row], [[(1, 2), (3, 4)]], Shape(6, 2), PAGE_TOKENS, 1)
    assert batch.pages.table.tolist() == [[3, 4]]
    assert batch.pages.pos.tolist() == [[5, 8]]


def test_a_row_that_does_not_fit_is_never_cut_silently():
    block = Block(BlockKind.ITEM, np.arange(5, dtype=np.int32), 0)
    with pytest.raises(ValueError, match="broadcast"):
        assemble([Row([block], {}, (), PAGE_TOKENS)], [[]], Shape(4, 0), PAGE_TOKENS, 1)
