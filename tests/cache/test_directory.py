"""Single cases; test_directory_model.py has the directory in any order of calls."""

import numpy as np
import pytest

from rcjax.cache import (
    SCRATCH,
    BlockBusyError,
    BlockDirectory,
    BlockState,
    CachedBlock,
    GreedyDual,
    IntegrityError,
    PagePool,
)
from rcjax.errors import ResourceExhaustedError

PAGE_TOKENS = 4


def new_directory(capacity_pages=4):
    return BlockDirectory(PagePool(capacity_pages + 1, PAGE_TOKENS), GreedyDual())


def reserve(directory, owner, num_tokens=4, *, key=None, kind="item", cost=1.0):
    return directory.reserve(key or owner.encode(), kind, owner, list(range(num_tokens)), cost)


def build(directory, owner, num_tokens=4, **kwargs):
    """A ready block that nobody has pinned."""
    block = reserve(directory, owner, num_tokens, **kwargs)
    directory.commit(block)
    directory.unpin(block)
    return block


@pytest.fixture
def directory():
    directory = new_directory()
    yield directory
    directory.check_integrity()


# ---- orders of correction


def test_a_block_keeps_its_order(directory):
    block = build(directory, "a", 3)
    assert block.order is None
    directory.set_order(block, [2, 0, 1])
    found = directory.lookup(b"a", range(3))
    assert found.order.tolist() == [2, 0, 1]
    assert not found.order.flags.writeable


@pytest.mark.parametrize("order", [[], [0, 1], [0, 1, 1], [0, 1, 3], [0, 1, 2, 3]])
def test_an_order_names_each_token_once(directory, order):
    block = build(directory, "a", 3)
    with pytest.raises(ValueError, match="a block of 3 tokens must name each offset once"):
        directory.set_order(block, order)
    assert block.order is None


# ---- finding


def test_a_block_is_found_from_commit_on(directory):
    block = reserve(directory, "a", 5)
    assert (block.state, block.pins, block.num_tokens, len(block.pages)) == (BlockState.PENDING, 1, 5, 2)
    assert directory.lookup(b"a", range(5)) is None
    assert directory.current("item", "a") is None
    directory.commit(block)
    assert directory.lookup(b"a", range(5)) is block
    assert directory.current("item", "a") is block
    assert block.pins == 1
    stats = directory.stats()
    assert (stats.num_hits, stats.num_misses) == (1, 1)


@pytest.mark.parametrize("other", [[0, 1, 2, 9], [0, 1, 2], [0, 1, 2, 3, 4]])
def test_a_key_with_other_tokens_is_a_counted_collision_and_never_a_hit(directory, other):
    block = build(directory, "a")
    assert directory.lookup(b"a", np.array(other, np.int32)) is None
    stats = directory.stats()
    assert (stats.num_collisions, stats.num_misses, stats.num_hits) == (1, 1, 0)
    assert directory.lookup(b"a", range(4)) is block
    with pytest.raises(ValueError, match="is ready already"):
        directory.reserve(b"a", "item", "b", other, 1.0)


def test_the_callers_tokens_are_copied(directory):
    ids = np.arange(4, dtype=np.int32)
    block = directory.reserve(b"a", "item", "a", ids, 1.0)
    directory.commit(block)
    ids[0] = 7
    assert directory.lookup(b"a", ids) is None
    assert directory.lookup(b"a", range(4)) is block


def test_ready_blocks_are_those_that_can_be_found(directory):
    a, b = build(directory, "a"), build(directory, "b", kind="history")
    reserve(directory, "c")
    directory.reserve_scratch(1)
    assert list(directory.ready_blocks()) == [a, b]


# ---- building


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((b"b", "item", "b", [], 1.0), "without tokens"),
        ((b"b", SCRATCH, "b", [1], 1.0), "reserved"),
        ((b"b", "item", "b", [1], float("nan")), "cost"),
        ((b"b", "item", "b", [1], -1.0), "cost"),
        ((b"b", "item", "b", [2**31], 1.0), "int32"),
        ((b"pending", "item", "b", [1], 1.0), "is pending already"),
        ((b"ready", "item", "b", [1], 1.0), "is ready already"),
    ],
)
def test_bad_reservations_change_nothing(directory, arguments, message):
    build(directory, "ready")
    reserve(directory, "pending")
    before = directory.stats()
    with pytest.raises(ValueError, match=message):
        directory.reserve(*arguments)
    assert directory.stats() == before


def test_the_least_recently_used_are_evicted_and_no_more_than_needed(directory):
    a, b, c = (build(directory, owner) for owner in "abc")
    assert directory.lookup(b"a", range(4)) is a
    reserve(directory, "d", 8)
    assert [directory.current("item", owner) for owner in "abc"] == [a, None, c]
    assert (b.state, b.pages) == (BlockState.RETIRED, ())
    assert directory.stats().num_evictions == 1


def test_a_costly_block_outlives_one_used_later(directory):
    build(directory, "costly", 8, cost=8.0)
    build(directory, "cheap", 8, cost=1.0)
    reserve(directory, "new")
    assert directory.current("item", "costly")
    assert not directory.current("item", "cheap")


def test_what_cannot_fit_evicts_nothing(directory):
    build(directory, "a")
    pinned = build(directory, "b")
    directory.pin(pinned)
    reserve(directory, "c")
    before = directory.stats()
    assert directory.num_available_pages == 2
    with pytest.raises(ResourceExhaustedError, match="3 pages wanted; 1 free and 1 evictable of 4"):
        reserve(directory, "d", 12)
    assert directory.stats() == before
    assert directory.current("item", "a")
    reserve(directory, "d", 8)
    assert directory.num_available_pages == 0


def test_abort_frees_at_once_and_the_key_can_be_reserved_again(directory):
    block = reserve(directory, "a", 16)
    directory.abort(block)
    assert (block.pages, block.pins, directory.pool.num_free) == ((), 0, 4)
    for call in (directory.abort, directory.commit):
        with pytest.raises(ValueError, match="not pending but retired"):
            call(block)
    build(directory, "a")


def test_an_aborted_block_keeps_its_pages_while_others_have_it_pinned(directory):
    block = reserve(directory, "a")
    directory.pin(block)
    directory.abort(block)
    assert directory.pool.num_used == 1
    directory.unpin(block)
    assert directory.pool.num_used == 0


def test_a_block_is_committed_once(directory):
    block = build(directory, "a")
    with pytest.raises(ValueError, match="not pending but ready"):
        directory.commit(block)


# ---- one current block per name


def test_a_new_text_retires_the_former_under_its_reader(directory):
    former = build(directory, "a", key=b"v1")
    directory.pin(former)
    new = reserve(directory, "a", key=b"v2")
    assert directory.lookup(b"v1", range(4)) is former, "the old text is served until the new one is there"
    directory.commit(new)
    assert directory.lookup(b"v1", range(4)) is None
    assert directory.current("item", "a") is new
    assert (former.state, len(former.pages)) == (BlockState.RETIRED, 1)
    directory.pin(former)
    directory.unpin(former)
    directory.unpin(former)
    assert former.pages == ()
    with pytest.raises(ValueError, match="has been freed"):
        directory.pin(former)
    with pytest.raises(ValueError, match="not pinned"):
        directory.unpin(former)


def test_the_same_owner_of_another_kind_is_another_block(directory):
    item, history = build(directory, "a", key=b"1"), build(directory, "a", key=b"2", kind="history")
    assert directory.current("item", "a") is item
    assert directory.current("history", "a") is history
    assert directory.drop("item", "a")
    assert directory.current("history", "a") is history


def test_the_newest_reservation_wins_whatever_the_order_of_commits(directory):
    older, newer = reserve(directory, "a", key=b"v1"), reserve(directory, "a", key=b"v2")
    directory.commit(newer)
    directory.commit(older)
    assert directory.current("item", "a") is newer
    assert directory.lookup(b"v1", range(4)) is None
    assert (older.state, len(older.pages)) == (BlockState.RETIRED, 1), "its reserver may still read it"
    directory.unpin(older)
    assert directory.pool.num_used == 1


def test_an_older_reservation_counts_where_the_newer_one_fails(directory):
    older, newer = reserve(directory, "a", key=b"v1"), reserve(directory, "a", key=b"v2")
    directory.abort(newer)
    directory.commit(older)
    assert directory.lookup(b"v1", range(4)) is older


def test_a_dropped_pending_block_never_becomes_ready(directory):
    block = reserve(directory, "a")
    assert directory.drop("item", "a")
    assert not directory.drop("item", "a")
    again = reserve(directory, "a")  # the same text is put once more while the first is still being computed
    directory.commit(block)
    assert block.state is BlockState.RETIRED
    assert directory.current("item", "a") is None
    directory.commit(again)
    directory.unpin(block)
    assert directory.lookup(b"a", range(4)) is again
    assert block.pages == ()


def test_dropping_what_is_not_there_says_so(directory):
    assert not directory.drop("item", "a")
    build(directory, "a")
    assert directory.drop("item", "a")
    assert not directory.drop("item", "a")
    assert directory.pool.num_used == 0
    assert directory.stats().num_evictions == 0


# ---- pins


def test_the_reservers_pin_stays_until_commit(directory):
    block = reserve(directory, "a")
    with pytest.raises(ValueError, match="commit or abort"):
        directory.unpin(block)
    directory.commit(block)
    directory.unpin(block)
    with pytest.raises(ValueError, match="not pinned"):
        directory.unpin(block)


def test_pinned_holds_through_an_error_and_is_all_or_nothing(directory):
    a, b = build(directory, "a"), build(directory, "b")
    with directory.pinned([a, b, a]):
        assert (a.pins, b.pins) == (2, 1)
    assert (a.pins, b.pins) == (0, 0)
    with pytest.raises(KeyError), directory.pinned([a, b]):
        raise KeyError
    assert (a.pins, b.pins) == (0, 0)
    directory.drop("item", "b")
    with pytest.raises(ValueError, match="has been freed"), directory.pinned([a, b]):
        pass
    assert a.pins == 0


# ---- growing


def grow(directory, block, num_tokens, key=b"grown"):
    return directory.grow(block, key, list(range(num_tokens)), 1.0)


def test_growing_keeps_the_pages_and_adds_the_missing_ones(directory):
    block = build(directory, "u", 6, kind="history")
    pages = block.pages
    directory.pin(block)
    grown = grow(directory, block, 9)
    assert (grown.pages[:2], len(grown.pages), grown.pins, grown.state) == (pages, 3, 1, BlockState.PENDING)
    assert (block.pages, block.pins, block.state) == ((), 0, BlockState.RETIRED)
    assert directory.lookup(b"u", range(6)) is None
    directory.commit(grown)
    directory.unpin(grown)
    assert directory.lookup(b"grown", range(9)) is grown
    assert directory.current("history", "u") is grown
    assert directory.pages_used_by_kind() == {"history": 3}


def test_growing_within_the_last_page_allocates_nothing(directory):
    block = build(directory, "u", 6)
    build(directory, "a", 8)
    directory.pin(block)
    grown = grow(directory, block, 8)
    assert len(grown.pages) == 2
    assert directory.stats().num_evictions == 0


def test_growing_evicts_others(directory):
    block = build(directory, "u", 8)
    build(directory, "a", 8)
    directory.pin(block)
    grown = grow(directory, block, 16)
    assert len(set(grown.pages)) == 4
    assert directory.current("item", "a") is None


def test_aborting_a_grown_block_frees_all_of_it(directory):
    block = build(directory, "u", 6)
    directory.pin(block)
    directory.abort(grow(directory, block, 9))
    assert directory.pool.num_used == 0
    assert directory.lookup(b"u", range(6)) is None
    assert directory.lookup(b"grown", range(9)) is None


def test_a_block_with_other_readers_does_not_grow(directory):
    block = build(directory, "u", 6)
    with directory.pinned([block]):
        directory.pin(block)
        with pytest.raises(BlockBusyError, match="1 other readers"):
            grow(directory, block, 9)
        assert block.pins == 2
    directory.unpin(block)


@pytest.mark.parametrize("ids", [[0, 1, 2, 3, 4, 5], [0, 1, 2], [0, 1, 2, 3, 4, 9, 6], [9, *range(8)]])
def test_growing_must_append(directory, ids):
    block = build(directory, "u", 6)
    directory.pin(block)
    with pytest.raises(ValueError, match="must start with"):
        directory.grow(block, b"grown", ids, 1.0)
    assert directory.lookup(b"u", range(6)) is block


def test_only_a_ready_and_pinned_block_grows(directory):
    block = build(directory, "u", 6)
    with pytest.raises(ValueError, match="pinned by the caller"):
        grow(directory, block, 9)
    with pytest.raises(ValueError, match="pinned by the caller"):
        grow(directory, reserve(directory, "v"), 9)
    directory.pin(block)
    with pytest.raises(ValueError, match="is pending already"):
        grow(directory, block, 9, key=b"v")


def test_a_block_that_cannot_grow_stays_as_it_was(directory):
    block = build(directory, "u", 6)
    build(directory, "a")
    directory.pin(block)
    before = directory.stats()
    with pytest.raises(ResourceExhaustedError):
        grow(directory, block, 20)
    assert directory.stats() == before
    assert (block.pins, block.state, len(block.pages)) == (1, BlockState.READY, 2)


# ---- scratch


def test_scratch_pages_come_and_go(directory):
    build(directory, "a", 16)
    one, two = directory.reserve_scratch(3), directory.reserve_scratch(1)
    assert len({*one.pages, *two.pages}) == 4
    assert directory.pages_used_by_kind() == {SCRATCH: 4}
    assert directory.lookup(b"", []) is None
    assert not directory.drop(SCRATCH, "")
    with pytest.raises(ValueError, match="cannot be committed"):
        directory.commit(one)
    directory.check_integrity()
    directory.release(one)
    directory.release(two)
    assert directory.pool.num_free == 4
    with pytest.raises(ValueError, match="not pending"):
        directory.release(one)
    with pytest.raises(ValueError, match="only scratch"):
        directory.release(build(directory, "a"))
    with pytest.raises(ValueError, match="num_pages=0"):
        directory.reserve_scratch(0)


# ---- reporting


def test_stats_count_by_kind_and_state(directory):
    build(directory, "a", 5)
    reader = build(directory, "b", kind="history")
    directory.pin(reader)
    reserve(directory, "c")
    stats = directory.stats()
    assert stats.num_blocks == {"item": 1, "history": 1}
    assert stats.num_tokens == 9
    assert (stats.pages_total, stats.pages_used, stats.pages_pinned) == (4, 4, 2)
    assert directory.pages_used_by_kind() == {"item": 3, "history": 1}


def spoil_pages(directory, block: CachedBlock):
    block.pages = (directory.current("item", "b").pages[0],)


def spoil_null(directory, block):
    block.pages = (0,)


def spoil_length(directory, block):
    block.pages = ()


def spoil_leak(directory, block):
    directory.pool.allocate(1)


def spoil_free(directory, block):
    directory.pool.free(block.pages)


def spoil_pins(directory, block):
    block.pins = 1


def spoil_negative_pins(directory, block):
    block.pins = -1


def spoil_state(directory, block):
    block.state = BlockState.PENDING


def spoil_key(directory, block):
    block.key = b"other"


def spoil_owner(directory, block):
    block.owner = "other"


def spoil_policy(directory, block):
    directory._policy.pop()


def spoil_sum(directory, block):
    directory._evictable_pages += 1


def spoil_token_sum(directory, block):
    directory._index.num_ready_tokens += 1


def spoil_block_sum(directory, block):
    directory._index.num_ready_by_kind["item"] += 1


@pytest.mark.parametrize("spoil", [f for name, f in list(globals().items()) if name.startswith("spoil_")])
def test_spoiled_books_are_noticed(spoil):
    directory = new_directory()
    block = build(directory, "a")
    build(directory, "b")
    directory.check_integrity()
    spoil(directory, block)
    with pytest.raises(IntegrityError):
        directory.check_integrity()
