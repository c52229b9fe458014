"""Single cases of names, pins, growing and scratch pages."""

import pytest
from directory_kit import build, key_of, lookup, new_directory, own, pinned, reserve

from rcjax.cache import SCRATCH, BlockBusyError, BlockState
from rcjax.errors import ResourceExhaustedError


@pytest.fixture
def directory():
    directory = new_directory()
    yield directory
    directory.check_integrity()


# ---- one current block per name


def test_a_new_text_retires_the_former_under_its_reader(directory):
    former = build(directory, "a", key="v1")
    directory.pin(former)
    new = reserve(directory, "a", key="v2")
    assert lookup(directory, "v1") is former, "the old text is served until the new one is there"
    directory.commit(new)
    assert lookup(directory, "v1") is None
    assert directory.current("item", own("a")) is new
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
    item, history = build(directory, "a", key="1"), build(directory, "a", key="2", kind="history")
    assert directory.current("item", own("a")) is item
    assert directory.current("history", own("a")) is history
    assert directory.drop("item", own("a"))
    assert directory.current("history", own("a")) is history


def test_the_newest_reservation_wins_whatever_the_order_of_commits(directory):
    older, newer = reserve(directory, "a", key="v1"), reserve(directory, "a", key="v2")
    directory.commit(newer)
    directory.commit(older)
    assert directory.current("item", own("a")) is newer
    assert lookup(directory, "v1") is None
    assert (older.state, len(older.pages)) == (BlockState.RETIRED, 1), "its reserver may still read it"
    directory.unpin(older)
    assert directory.pool.num_used == 1


def test_an_older_reservation_counts_where_the_newer_one_fails(directory):
    older, newer = reserve(directory, "a", key="v1"), reserve(directory, "a", key="v2")
    directory.abort(newer)
    directory.commit(older)
    assert lookup(directory, "v1") is older


def test_a_dropped_pending_block_never_becomes_ready(directory):
    block = reserve(directory, "a")
    assert directory.drop("item", own("a"))
    assert not directory.drop("item", own("a"))
    again = reserve(directory, "a")  # the same text is put once more while the first is still being computed
    directory.commit(block)
    assert block.state is BlockState.RETIRED
    assert directory.current("item", own("a")) is None
    directory.commit(again)
    directory.unpin(block)
    assert lookup(directory, "a") is again
    assert block.pages == ()


def test_dropping_what_is_not_there_says_so(directory):
    assert not directory.drop("item", own("a"))
    build(directory, "a")
    assert directory.drop("item", own("a"))
    assert not directory.drop("item", own("a"))
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


def test_as_many_unpins_as_pins(directory):
    a = build(directory, "a")
    with pinned(directory, a, a):
        assert a.pins == 2
        assert directory.stats().pages_pinned == 1
    assert (a.pins, directory.stats().pages_pinned) == (0, 0)


# ---- growing


def grow(directory, block, num_tokens, key="grown"):
    return directory.grow(block, key_of(key), list(range(num_tokens)), 1.0)


def test_growing_keeps_the_pages_and_adds_the_missing_ones(directory):
    block = build(directory, "u", 6, kind="history")
    pages = block.pages
    directory.pin(block)
    grown = grow(directory, block, 9)
    assert (grown.pages[:2], len(grown.pages), grown.pins, grown.state) == (pages, 3, 1, BlockState.PENDING)
    assert (block.pages, block.pins, block.state) == ((), 0, BlockState.RETIRED)
    assert lookup(directory, "u", 6) is None
    directory.commit(grown)
    directory.unpin(grown)
    assert lookup(directory, "grown", 9) is grown
    assert directory.current("history", own("u")) is grown
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
    assert directory.current("item", own("a")) is None


def test_aborting_a_grown_block_frees_all_of_it(directory):
    block = build(directory, "u", 6)
    directory.pin(block)
    directory.abort(grow(directory, block, 9))
    assert directory.pool.num_used == 0
    assert lookup(directory, "u", 6) is None
    assert lookup(directory, "grown", 9) is None


def test_a_block_with_other_readers_does_not_grow(directory):
    block = build(directory, "u", 6)
    with pinned(directory, block):
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
        directory.grow(block, key_of("grown"), ids, 1.0)
    assert lookup(directory, "u", 6) is block


def test_only_a_ready_and_pinned_block_grows(directory):
    block = build(directory, "u", 6)
    with pytest.raises(ValueError, match="pinned by the caller"):
        grow(directory, block, 9)
    with pytest.raises(ValueError, match="pinned by the caller"):
        grow(directory, reserve(directory, "v"), 9)
    directory.pin(block)
    with pytest.raises(ValueError, match="is pending already"):
        grow(directory, block, 9, key="v")


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
    assert not directory.drop(SCRATCH, own(""))
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
