"""Single cases of finding and building; test_directory_model.py has the directory in any order of calls."""

import numpy as np
import pytest
from directory_kit import build, key_of, lookup, new_directory, own, pinned, reserve

from rcjax.cache import SCRATCH, BlockState
from rcjax.errors import ResourceExhaustedError


@pytest.fixture
def directory():
    directory = new_directory()
    yield directory
    directory.check_integrity()


# ---- finding


def test_a_block_is_found_from_commit_on(directory):
    block = reserve(directory, "a", 5)
    assert (block.state, block.pins, block.num_tokens, len(block.pages)) == (BlockState.PENDING, 1, 5, 2)
    assert lookup(directory, "a", 5) is None
    assert directory.current("item", own("a")) is None
    directory.commit(block)
    assert lookup(directory, "a", 5) is block
    assert directory.current("item", own("a")) is block
    assert block.pins == 1
    stats = directory.stats()
    assert (stats.num_hits, stats.num_misses) == (1, 1)


@pytest.mark.parametrize("other", [[0, 1, 2, 9], [0, 1, 2], [0, 1, 2, 3, 4]])
def test_a_key_with_other_tokens_is_a_counted_collision_and_never_a_hit(directory, other):
    block = build(directory, "a")
    assert directory.lookup(key_of("a"), np.array(other, np.int32)) is None
    stats = directory.stats()
    assert (stats.num_collisions, stats.num_misses, stats.num_hits) == (1, 1, 0)
    assert lookup(directory, "a") is block
    with pytest.raises(ValueError, match="is ready already"):
        directory.reserve(key_of("a"), "item", own("b"), other, 1.0)


def test_the_callers_tokens_are_copied(directory):
    ids = np.arange(4, dtype=np.int32)
    block = directory.reserve(key_of("a"), "item", own("a"), ids, 1.0)
    directory.commit(block)
    ids[0] = 7
    assert directory.lookup(key_of("a"), ids) is None
    assert lookup(directory, "a") is block


def test_ready_blocks_are_those_that_can_be_found(directory):
    a, b = build(directory, "a"), build(directory, "b", kind="history")
    reserve(directory, "c")
    directory.reserve_scratch(1)
    assert list(directory.ready_blocks()) == [a, b]


# ---- building


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((key_of("b"), "item", own("b"), [], 1.0), "without tokens"),
        ((key_of("b"), SCRATCH, own("b"), [1], 1.0), "reserved"),
        ((key_of("b"), "item", own("b"), [1], float("nan")), "cost"),
        ((key_of("b"), "item", own("b"), [1], -1.0), "cost"),
        ((key_of("b"), "item", own("b"), [2**31], 1.0), "int32"),
        ((key_of("pending"), "item", own("b"), [1], 1.0), "is pending already"),
        ((key_of("ready"), "item", own("b"), [1], 1.0), "is ready already"),
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
    with pinned(directory, lookup(directory, "a")):
        pass
    assert lookup(directory, "b") is b, "which without a pin is no use of it"
    reserve(directory, "d", 8)
    assert [directory.current("item", own(owner)) for owner in "abc"] == [a, None, c]
    assert (b.state, b.pages) == (BlockState.RETIRED, ())
    assert directory.stats().num_evictions == 1


def test_a_costly_block_outlives_one_used_later(directory):
    build(directory, "costly", 8, cost=8.0)
    build(directory, "cheap", 8, cost=1.0)
    reserve(directory, "new")
    assert directory.current("item", own("costly"))
    assert not directory.current("item", own("cheap"))


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
    assert directory.current("item", own("a"))
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
