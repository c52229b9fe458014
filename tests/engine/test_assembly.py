"""Assembly against an oracle that places one token at a time, into dictionaries."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.engine.assembly import Row, Source, assemble
from rcjax.engine.shape import RowSize, Shape
from rcjax.prompt import Block, BlockKind

PAGE_TOKENS, NUM_READS = 3, 5
KINDS = (BlockKind.ITEM, BlockKind.HISTORY, BlockKind.GLUE)


@st.composite
def block_specs(draw):
    """Kind, (token ids, start, segment, horizon), tokens cached (0: no source), selected ones, whether in place."""
    ids = draw(st.lists(st.integers(0, 99), min_size=1, max_size=8))
    num_cached = draw(st.integers(0, len(ids)))
    selected = draw(st.sets(st.integers(0, num_cached - 1))) if num_cached else set()
    where = draw(st.integers(0, 20)), draw(st.integers(0, 5)), draw(st.integers(0, 4))
    return draw(st.sampled_from(KINDS)), (ids, *where), num_cached, sorted(selected), draw(st.booleans())


# Of a row: the tokens of its instruction, none or a few, and its other blocks.
row_specs = st.tuples(st.integers(0, 7), st.lists(block_specs(), min_size=1, max_size=5))
tilings = st.one_of(
    st.just((0, 1, 0)), st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 4))
)  # tiles, tokens and pages of one


def row_of(spec):
    """A row, in which every block that can be read out is, and the pages of each of its sources."""
    home, specs = spec
    blocks, sources, table, page, readouts = [], {}, [], 1, []
    if home:
        blocks.append(Block(BlockKind.INSTRUCTION, np.arange(home, dtype=np.int32), 0))
    for index, (kind, (ids, *where), num_cached, selected, in_place) in enumerate(specs, start=len(blocks)):
        blocks.append(Block(kind, np.array(ids, np.int32), *where))
        if num_cached:
            table.append(tuple(range(page, page - (-num_cached // PAGE_TOKENS))))
            sources[index] = Source(num_cached, np.array(selected, np.int32), in_place=in_place)
            page += len(table[-1])
        if num_cached < len(ids) or len(ids) - 1 in selected:
            readouts.append(index)
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
            fresh.append((int(token), block.start + offset, block.segment, block.horizon))
    return fresh, where


def expected_cached(row, table):
    """{(page, slot): (position, segment, shift)} of each token that is read from pages."""
    cached = {}
    is_after_instruction = row.blocks and row.blocks[0].kind is BlockKind.INSTRUCTION
    home = len(row.blocks[0]) if is_after_instruction else 0
    for (index, source), pages in zip(row.sources.items(), table, strict=True):
        block = row.blocks[index]
        is_built = block.kind in (BlockKind.ITEM, BlockKind.HISTORY) and not source.in_place
        shift = block.start - home if is_built else 0
        for offset in range(source.num_cached):
            if offset not in source.selected:
                slot = (pages[offset // PAGE_TOKENS], offset % PAGE_TOKENS)
                cached[slot] = (block.start + offset, block.segment, shift)
    return cached


def cached_tokens(pages, b):
    """As `expected_cached`, of what a batch has for one row, or one tile of it; shift 0 where pages have none."""
    shifts = np.zeros_like(pages.table) if pages.shift is None else pages.shift
    columns = (pages.table[b], pages.pos[b], pages.len[b], pages.segment[b], shifts[b], pages.drop[b])
    found = {}
    for page, pos, length, segment, shift, drop in zip(*columns, strict=True):
        for slot in range(length):
            if not drop[slot]:
                assert (int(page), slot) not in found, "placed twice"
                found[int(page), slot] = (int(pos) + slot, int(segment), int(shift))
    return found


def shape_for(rows, spare, tiling, at_home):
    """The smallest shape with these tiles that holds all rows, and some to spare."""
    fresh = max(1, *(row.num_fresh for row in rows))
    num_pages = 0
    while True:
        shape = Shape(fresh + spare[0], num_pages, len(rows) + spare[2], *tiling, at_home=at_home)
        if all(shape.holds(row.size) for row in rows):
            return Shape(shape.fresh_tokens, num_pages + spare[1], shape.batch, *tiling, at_home=at_home)
        num_pages += 1


spares = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 1))


@given(st.lists(row_specs, min_size=1, max_size=3), spares, tilings, st.booleans())
def test_every_token_is_placed_once(specs, spare, tiling, may_be_at_home):
    given_rows, tables = map(list, zip(*map(row_of, specs), strict=True))
    is_moved = any(shift for row, table in zip(given_rows, tables, strict=True) for shift in shifts_of(row, table))
    assert is_moved == any(row.size.is_moved for row in given_rows)
    shape = shape_for(given_rows, spare, tiling, at_home=may_be_at_home and not is_moved)
    batch = assemble(given_rows, tables, shape, PAGE_TOKENS, NUM_READS)
    assert batch.token_ids.shape == (shape.batch, shape.fresh_tokens)
    assert batch.pages.drop.shape == (shape.batch, shape.num_pages, PAGE_TOKENS)
    assert (batch.pages.shift is None) == shape.at_home
    for b in range(shape.batch):
        row, table = (given_rows[b], tables[b]) if b < len(given_rows) else (Row([], {}, (), PAGE_TOKENS), [])
        fresh, where = expected_fresh(row)
        assert placed_fresh(batch, b) == fresh + [(0, -1, 0, 0)] * (shape.fresh_tokens - len(fresh))
        in_tiles = cached_in_tiles(batch, shape, b, fresh)
        shared = cached_tokens(batch.pages, b)
        assert not set(shared) & set(in_tiles)
        assert shared | in_tiles == expected_cached(row, table)
        last = [where[index, len(row.blocks[index]) - 1] for index in row.readouts]
        assert batch.read[b].tolist() == last + [0] * (NUM_READS - len(last))
        assert row.num_fresh == len(fresh)
        assert row.num_cached == len(expected_cached(row, table))


def shifts_of(row, table):
    return {shift for _, _, shift in expected_cached(row, table).values()}


def placed_fresh(batch, b):
    columns = (batch.token_ids, batch.tokens.pos, batch.tokens.segment, batch.tokens.horizon)
    return list(zip(*(column[b].tolist() for column in columns), strict=True))


def cached_in_tiles(batch, shape, b, fresh):
    """The tokens in pages of tiles; each is seen by all tokens of its tile, and by no others."""
    if not shape.tiles:
        assert batch.tiles is None
        return {}
    pages, found, queries = batch.tiles.pages, {}, batch.tiles.tokens[b].tolist()
    assert batch.tiles.tokens.shape == (shape.batch, shape.tiles, shape.tile_tokens)
    assert pages.drop.shape == (shape.batch, shape.tiles, shape.tile_pages, PAGE_TOKENS)
    assert (pages.shift is None) == shape.at_home
    for tile, members in enumerate(queries):
        own = cached_tokens(pages, (b, tile))
        for _, segment, _ in own.values():
            seeing = [
                i for i, (_, _, of_token, horizon) in enumerate(fresh) if segment < horizon or segment == of_token
            ]
            assert sorted(i for i in members if i >= 0) == seeing
        assert not set(found) & set(own)
        found |= own
    everyone = [i for members in queries for i in members if i >= 0]
    assert len(set(everyone)) == len(everyone), "no token is in two tiles"
    return found


def parallel_row(item_lengths, closing=1, history=4):
    """A user's row of the `parallel` layout, anchor scoring, and the pages of its sources: from 10, 20, ... an item."""
    blocks = [Block(BlockKind.INSTRUCTION, np.arange(3, dtype=np.int32), 0)]
    blocks.append(Block(BlockKind.HISTORY, np.arange(history, dtype=np.int32), 3, 1, 1))
    table = [(1,), tuple(range(2, 2 - (-history // PAGE_TOKENS)))]
    for i, length in enumerate(item_lengths, start=1):
        blocks.append(Block(BlockKind.ITEM, np.arange(length, dtype=np.int32), 3, 1 + i, 1))
        end = 3 + max(history, length)
        blocks.append(Block(BlockKind.GLUE, np.full(closing, 50 + i, np.int32), end, 1 + i, 2))
        table.append(tuple(range(10 * i, 10 * i - (-length // PAGE_TOKENS))))
    sources = {i: Source(len(b)) for i, b in enumerate(blocks) if b.kind is not BlockKind.GLUE}
    readouts = [i for i, b in enumerate(blocks) if b.kind is BlockKind.GLUE]
    return Row(blocks, sources, readouts, PAGE_TOKENS), table


class TestTiles:
    def test_each_items_pages_are_its_own_closing_tokens(self):
        row, table = parallel_row([5, 2])
        assert row.size == RowSize(2, 6, ((1, 2), (1, 1)), is_moved=False)
        batch = assemble([row], [table], Shape(3, 3, tiles=3, tile_pages=2, at_home=True), PAGE_TOKENS, 2)
        assert batch.tiles.tokens.tolist() == [[[0], [1], [-1]]]
        assert batch.tiles.pages.table.tolist() == [[[10, 11], [20, 0], [0, 0]]]
        assert batch.tiles.pages.pos.tolist() == [[[3, 6], [3, 0], [0, 0]]]
        assert batch.tiles.pages.len.tolist() == [[[3, 2], [2, 0], [0, 0]]]
        assert batch.tiles.pages.segment.tolist() == [[[2, 2], [3, 0], [0, 0]]]
        assert batch.pages.table.tolist() == [[1, 2, 3]]
        assert batch.read.tolist() == [[0, 1]]

    def test_the_pages_of_a_long_item_go_to_those_that_all_may_see(self):
        row, table = parallel_row([5, 7, 3])
        batch = assemble([row], [table], Shape(3, 6, tiles=2, tile_pages=2, at_home=True), PAGE_TOKENS, 3)
        assert batch.pages.table.tolist() == [[1, 2, 3, 20, 21, 22]]
        assert batch.pages.segment.tolist() == [[0, 1, 1, 3, 3, 3]]
        assert batch.tiles.tokens.tolist() == [[[0], [2]]]
        assert batch.tiles.pages.table.tolist() == [[[10, 11], [30, 0]]]

    def test_several_fresh_tokens_share_a_tile(self):
        row, table = parallel_row([5, 3], closing=2)
        batch = assemble([row], [table], Shape(4, 3, tiles=2, tile_tokens=3, tile_pages=2, at_home=True), 3, 2)
        assert batch.tiles.tokens.tolist() == [[[0, 1, -1], [2, 3, -1]]]
        assert batch.read.tolist() == [[1, 3]]

    def test_an_item_without_pages_needs_no_tile(self):
        row, table = parallel_row([5, 4, 3])
        sources = {i: source for i, source in row.sources.items() if i != 4}
        row, table = Row(row.blocks, sources, row.readouts, PAGE_TOKENS), [*table[:3], table[4]]
        batch = assemble([row], [table], Shape(7, 3, tiles=2, tile_pages=2, at_home=True), PAGE_TOKENS, 3)
        assert batch.tiles.tokens.tolist() == [[[0], [6]]]
        assert batch.tiles.pages.table.tolist() == [[[10, 11], [30, 0]]]

    def test_selected_tokens_are_masked_in_the_tile_that_computes_them(self):
        row, table = parallel_row([5, 4])
        sources = {**row.sources, 2: Source(5, np.array([1, 4]))}
        row = Row(row.blocks, sources, row.readouts, PAGE_TOKENS)
        batch = assemble([row], [table], Shape(4, 3, tiles=2, tile_tokens=3, tile_pages=2, at_home=True), 3, 2)
        assert batch.tiles.tokens.tolist() == [[[0, 1, 2], [3, -1, -1]]]
        expected = [[[[False, True, False], [False, True, False]], [[False] * 3] * 2]]
        assert batch.tiles.pages.drop.tolist() == expected
        assert not batch.pages.drop.any()

    def test_rows_of_a_batch_have_tiles_of_their_own(self):
        shape = Shape(3, 4, 3, tiles=3, tile_pages=2, at_home=True)
        rows, tables = zip(parallel_row([5]), parallel_row([2, 6, 1], history=9), strict=True)
        batch = assemble(rows, tables, shape, PAGE_TOKENS, 3)
        assert batch.tiles.tokens.tolist() == [[[0], [-1], [-1]], [[0], [1], [2]], [[-1], [-1], [-1]]]
        assert batch.tiles.pages.table[:, :, 0].tolist() == [[10, 0, 0], [10, 20, 30], [0, 0, 0]]
        assert batch.pages.table.tolist() == [[1, 2, 3, 0], [1, 2, 3, 4], [0, 0, 0, 0]]

    def test_where_a_task_reads_all_items_no_page_is_anyones_own(self):
        row, table = parallel_row([5, 2])
        task = Block(BlockKind.TASK, np.arange(2, dtype=np.int32), 9, 4, 4)
        row = Row([*row.blocks, task], row.sources, (len(row.blocks),), PAGE_TOKENS)
        assert row.size == RowSize(4, 6, (), is_moved=False)
        batch = assemble([row], [table], Shape(4, 6, tiles=2, tile_pages=2, at_home=True), PAGE_TOKENS, 1)
        assert batch.pages.table.tolist() == [[1, 2, 3, 10, 11, 20]]
        assert (batch.tiles.tokens == -1).all()
        assert not batch.tiles.pages.len.any()

    def test_a_row_that_does_not_fit_is_never_cut_silently(self):
        row, table = parallel_row([5, 2])
        with pytest.raises(ValueError, match="3 pages are not in tiles"):
            assemble([row], [table], Shape(2, 2, tiles=2, tile_pages=2, at_home=True), PAGE_TOKENS, 2)


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
