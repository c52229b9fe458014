"""Single cases of versions, of the hooks, and of orders of correction."""

import pytest
from directory_kit import build, key_of, lookup, new_directory, own, reserve

from rcjax.cache import BlockState


@pytest.fixture
def directory():
    directory = new_directory()
    yield directory
    directory.check_integrity()


# ---- versions


def test_a_plan_older_than_a_deletion_does_not_bring_the_block_back(directory):
    directory.drop("item", own("a"), 6)
    block = reserve(directory, "a", version=5)
    directory.commit(block)
    assert (block.state, len(block.pages)) == (BlockState.RETIRED, 1), "the plan's own request may read it"
    assert directory.current("item", own("a")) is None
    directory.unpin(block)
    assert directory.pool.num_used == 0


def test_a_block_put_after_the_deletion_stays(directory):
    new = build(directory, "a", version=7)
    assert not directory.drop("item", own("a"), 6)
    assert directory.current("item", own("a")) is new


def test_a_deletion_reaches_what_is_pending_and_not_newer(directory):
    old, new = reserve(directory, "a", key="old", version=6), reserve(directory, "a", key="new", version=7)
    assert directory.drop("item", own("a"), 6)
    directory.commit(old)
    directory.commit(new)
    assert lookup(directory, "old") is None
    assert directory.current("item", own("a")) is new


def test_an_older_text_does_not_replace_a_newer_one(directory):
    older = reserve(directory, "a", key="older", version=3)
    newer = build(directory, "a", key="newer", version=4)
    directory.commit(older)
    assert older.state is BlockState.RETIRED
    assert directory.current("item", own("a")) is newer


def test_that_a_newer_text_was_there_outlives_its_eviction(directory):
    build(directory, "a", key="newer", version=4)
    directory.release(directory.reserve_scratch(4))
    older = reserve(directory, "a", key="older", version=3)
    directory.commit(older)
    assert lookup(directory, "older") is None


def test_a_newer_version_reserved_first_is_not_overtaken_by_an_older_one(directory):
    newer, older = reserve(directory, "a", key="newer", version=4), reserve(directory, "a", key="older", version=3)
    directory.commit(older)
    assert lookup(directory, "older") is older
    directory.commit(newer)
    assert directory.current("item", own("a")) is newer
    assert older.state is BlockState.RETIRED


def test_a_grown_block_has_a_version_too(directory):
    block = build(directory, "u", 6, version=1)
    directory.pin(block)
    grown = directory.grow(block, key_of("grown"), range(7), 1.0, 2)
    directory.drop("item", own("u"), 3)
    directory.commit(grown)
    assert grown.state is BlockState.RETIRED


def test_what_no_plan_can_be_too_old_for_is_forgotten(directory):
    for version in range(1, 100):
        build(directory, f"i{version % 9}", key=str(version), version=version)
        directory.drop("item", own(f"j{version}"), version)
    assert len(directory._versions) == 9 + 99
    directory.forget_versions(90)
    assert len(directory._versions) == 9 + 9
    directory.drop("item", own("late"), 90)
    assert len(directory._versions) == 9 + 9, "what is forgotten already is not noted"
    directory.forget_versions(99)
    assert not len(directory._versions)


# ---- hooks


def test_the_hooks_tell_what_can_be_found():
    calls = []
    directory = new_directory(
        on_commit=lambda key: calls.append(("+", key)), on_evict=lambda key: calls.append(("-", key))
    )

    def told(*expected):
        found, calls[:] = calls[:], []
        return found == [(call[0], key_of(call[1:])) for call in expected]

    build(directory, "a", 8)
    assert told("+a")
    reserved = reserve(directory, "b", 12)
    assert told("-a"), "evicted"
    directory.abort(reserved)
    assert told()
    build(directory, "c", 4, key="c1")
    build(directory, "c", 4, key="c2")
    assert told("+c1", "-c1", "+c2"), "replaced"
    block = directory.current("item", own("c"))
    directory.pin(block)
    grown = directory.grow(block, key_of("c3"), range(6), 1.0)
    assert told("-c2")
    directory.commit(grown)
    directory.drop("item", own("c"))
    directory.drop("item", own("c"))
    assert told("+c3", "-c3")
    directory.unpin(grown)
    assert told()


# ---- orders of correction


def test_a_block_keeps_its_order(directory):
    block = build(directory, "a", 3)
    assert block.order is None
    directory.set_order(block, [2, 0, 1])
    found = lookup(directory, "a", 3)
    assert found.order.tolist() == [2, 0, 1]
    assert not found.order.flags.writeable


@pytest.mark.parametrize("order", [[], [0, 1], [0, 1, 1], [0, 1, 3], [0, 1, 2, 3]])
def test_an_order_names_each_token_once(directory, order):
    block = build(directory, "a", 3)
    with pytest.raises(ValueError, match="a block of 3 tokens must name each offset once"):
        directory.set_order(block, order)
    assert block.order is None


def evict_all(directory):
    directory.release(directory.reserve_scratch(directory.pool.capacity_pages))


def test_an_order_outlives_its_block(directory):
    directory.set_order(build(directory, "a", 3), [2, 0, 1])
    evict_all(directory)
    assert directory.orders()[key_of("a")].order.tolist() == [2, 0, 1]
    assert build(directory, "a", 3).order.tolist() == [2, 0, 1]
    assert lookup(directory, "a", 3).order.tolist() == [2, 0, 1]


def test_an_order_goes_with_its_item(directory):
    directory.set_order(build(directory, "a", 3), [2, 0, 1])
    evict_all(directory)
    directory.drop("item", own("a"))
    assert not directory.orders()
    assert build(directory, "a", 3).order is None


def test_an_order_goes_when_other_content_comes(directory):
    directory.set_order(build(directory, "a", 3), [2, 0, 1])
    other = reserve(directory, "a", key="other")
    assert key_of("a") in directory.orders(), "the content may yet be used"
    directory.commit(other)
    assert not directory.orders()


def test_an_order_of_a_pending_block_comes_with_it(directory):
    former = build(directory, "a", 3)
    directory.set_order(former, [2, 0, 1])
    block = reserve(directory, "a", 4, key="new")
    directory.set_order(block, [3, 1, 0, 2])
    assert former.order.tolist() == lookup(directory, "a", 3).order.tolist() == [2, 0, 1]
    directory.commit(block)
    assert directory.orders()[key_of("new")].order.tolist() == [3, 1, 0, 2]


def test_an_order_that_has_gone_is_not_brought_back_by_a_block_that_was_reserved_before(directory):
    directory.set_order(build(directory, "a", 3), [2, 0, 1])
    evict_all(directory)
    block = reserve(directory, "a", 3, version=2)
    assert block.order.tolist() == [2, 0, 1]
    build(directory, "a", 4, key="other", version=1)
    directory.commit(block)
    assert block.order is None
    assert not directory.orders()


def test_orders_are_told_and_put_back(directory):
    directory.set_order(build(directory, "a", 3), [2, 0, 1])
    directory.set_order(build(directory, "b", 2, kind="history"), [1, 0])
    other = new_directory()
    for key, named in directory.orders().items():
        assert other.put_order(key, named.kind, named.owner, named.order)
    assert build(other, "a", 3).order.tolist() == [2, 0, 1]
    assert build(other, "b", 2, kind="history").order.tolist() == [1, 0]


def test_an_order_put_back_does_not_displace_what_is_there(directory):
    directory.set_order(build(directory, "a", 3), [2, 0, 1])
    assert not directory.put_order(key_of("a"), "item", own("a"), [0, 1, 2])
    block = build(directory, "b", 3, key="newer")
    assert not directory.put_order(key_of("b"), "item", own("b"), [0, 1, 2])
    assert directory.put_order(key_of("newer"), "item", own("b"), [0, 2, 1])
    assert block.order.tolist() == [0, 2, 1]
    pending = reserve(directory, "c", 3)
    assert directory.put_order(key_of("c"), "item", own("c"), [1, 0, 2])
    directory.commit(pending)
    assert pending.order.tolist() == [1, 0, 2]
    with pytest.raises(ValueError, match="name each offset once"):
        directory.put_order(key_of("d"), "item", own("d"), [1, 2])
