"""The library: which write of an owner counts, and what is kept of texts, for how long."""

import gc
import itertools
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning_kit import new_planner, planned, write_to
from tiny_engine import event, item

from rcjax.catalog.types import Item, User
from rcjax.engine.library import BLOCK_BYTES, Library
from rcjax.engine.plan import Change, Stored, WritePlan
from rcjax.errors import NotFoundError
from rcjax.prompt import BlockKind, Owner
from rcjax.request import AppendEvents, DeleteItems, DeleteUser, PutItems, PutUser, RecommendRequest


def kept_bytes(library):
    """Looked up item by item."""
    stored = [*library.items().values(), *library.users().values()]
    return sum(BLOCK_BYTES + 4 * len(one.block.block) for one in stored if one.block is not None)


WRITES = st.lists(st.tuples(st.sampled_from(["a", "b"]), st.one_of(st.none(), st.integers(0, 3))), max_size=7)


@given(WRITES, st.data())
def test_the_newest_write_of_an_owner_counts_in_whatever_order_they_are_swapped(writes, data):
    planner = new_planner()
    library = planner.library
    plans = []
    for name, text in writes:
        write = DeleteItems((name,)) if text is None else PutItems((item_named(name, text),))
        plans.append(planner.plan_write(write))
    applied = []
    for plan in data.draw(st.permutations(plans)):
        library.swap(plan)
        applied.append(plan)
        newest = {}
        for one in sorted(applied, key=lambda one: one.version):
            newest[writes[plans.index(one)][0]] = writes[plans.index(one)][1]
        expected = {name: item_named(name, text) for name, text in newest.items() if text is not None}
        assert {one.id: stored.content for one, stored in library.items().items()} == expected
        if data.draw(st.booleans()):  # ended early or late, which decides what is forgotten of deletions
            library.versions.end_write(plan.version)
    assert library.cache_bytes == kept_bytes(library)


def item_named(name, text):
    return Item(name, f"text {text}")


def test_swaps_count_what_they_delete():
    planner = new_planner()
    write_to(planner, PutItems((item(1), item(2))))
    write_to(planner, PutUser(User("u")))
    assert write_to(planner, DeleteItems(("i1", "x")))[1] == 1
    assert write_to(planner, DeleteItems(("i1", "i2")))[1] == 1
    assert write_to(planner, DeleteUser("u"))[1] == 1
    assert write_to(planner, DeleteUser("u"))[1] == 0
    assert (planner.library.num_items, planner.library.num_users) == (0, 0)


def test_deletions_are_forgotten_once_no_older_write_lives():
    planner = new_planner()
    library = planner.library
    late = planner.plan_write(PutItems((item(1),)))
    write_to(planner, PutItems((item(1, text="new"),)))
    write_to(planner, DeleteItems(("i1",)))
    library.swap(late)
    assert library.item("", "i1") is None, "the deletion is newer"
    library.versions.end_write(late.version)
    for i in range(100):
        write_to(planner, DeleteItems((f"i{i}",)))
    assert len(library._deleted) <= 1


@pytest.mark.parametrize("num_kept", [0, 1, 5])
def test_tokens_are_kept_within_the_bytes_allowed_those_used_last(num_kept):
    items = [item(i) for i in range(8)]
    planner = new_planner()
    size = BLOCK_BYTES + 4 * max(len(planner.builder.item_ids(one)) for one in items)
    planner = new_planner(max_cache_bytes=num_kept * size)
    library = planner.library
    write_to(planner, PutItems(tuple(items)))
    for i in (3, 0, 7, 1, 3, 6, 2):
        planned(planner, RecommendRequest((f"i{i}",), history=()))
        assert kept_bytes(library) == library.cache_bytes <= num_kept * size
    kept = [i for i in range(8) if library.item("", f"i{i}").block is not None]
    assert set((2, 6, 3, 1, 7)[:num_kept]) <= set(kept)
    assert len(kept) <= num_kept + 1, "a shorter one may fit besides"


def test_forgotten_tokens_are_made_again():
    with_room, without = new_planner(), new_planner(max_cache_bytes=0)
    for planner in (with_room, without):
        write_to(planner, PutItems((item(1), item(2))))
        write_to(planner, PutUser(User("u", (event(1), event(2)))))
        write_to(planner, AppendEvents("u", (event(3),)))
    plans = [planned(planner, RecommendRequest(("i1", "i2"), "u")) for planner in (with_room, without)]
    assert plans[0].keys == plans[1].keys
    assert without.library.cache_bytes == 0


def reachable_blocks(planner):
    """Weak references to the tokens of an item and of a history, and to the texts they were made of."""
    stored = planner.library.item("", "i1"), planner.library.user("", "u")
    return [weakref.ref(one.block.block.token_ids) for one in stored]


@pytest.mark.parametrize("is_planned_late", [False, True])
def test_nothing_of_a_deleted_text_stays(is_planned_late):
    planner = new_planner()
    write_to(planner, PutItems((item(1, text="secret"),)))
    write_to(planner, PutUser(User("u", (event(1),))))
    planned(planner, RecommendRequest(("i1",), "u"))
    gone = reachable_blocks(planner)
    late = [planner.library.item("", "i1"), planner.library.user("", "u")]
    write_to(planner, DeleteItems(("i1",)))
    write_to(planner, DeleteUser("u"))
    if is_planned_late:  # a planner thread that had looked it up before, and makes its tokens only now
        blocks = [planner._blocks.item(Owner("", "i1"), late[0]), planner._blocks.history(Owner("", "u"), late[1])]
        gone += [weakref.ref(block.block.token_ids) for block in blocks]
        blocks.clear()
    late.clear()
    gc.collect()
    assert all(one() is None for one in gone)
    assert planner.library.cache_bytes == 0
    assert not planner.library._used
    with pytest.raises(NotFoundError):
        planner.plan(RecommendRequest(("i1",), history=()))


def test_a_replaced_text_goes_as_a_deleted_one_does():
    planner = new_planner()
    write_to(planner, PutItems((item(1, text="old"),)))
    write_to(planner, PutUser(User("u", (event(1),))))
    gone = reachable_blocks(planner)
    write_to(planner, PutItems((item(1, text="new"),)))
    write_to(planner, PutUser(User("u", (event(2),))))
    gc.collect()
    assert all(one() is None for one in gone)


def test_nothing_inline_is_kept():
    planner = new_planner()
    write_to(planner, PutItems((item(1),)))
    before = planner.library.cache_bytes
    plan = planned(planner, RecommendRequest((item(1, text="other"), item(2)), "u", history=(event(1),)))
    gone = [weakref.ref(block.token_ids) for block in plan.prompt.blocks if block.owner.is_inline]
    assert len(gone) == 3
    del plan
    gc.collect()
    assert all(one() is None for one in gone)
    assert planner.library.cache_bytes == before


def test_appending_tokenises_the_new_events_only(monkeypatch):
    planner = new_planner()
    write_to(planner, PutUser(User("u", (event(1), event(2)))))
    seen = []
    encode = planner.builder.encode
    monkeypatch.setattr(planner.builder, "encode", lambda text: (seen.append(text), encode(text))[1])
    for i in itertools.count(3):
        plan, _ = write_to(planner, AppendEvents("u", (event(i),)))
        if plan.grow_from is None:
            break
        former, block = plan.grow_from.block, plan.build[0].block
        assert block.token_ids[: len(former)].tolist() == former.token_ids.tolist()
    assert len(seen) == i - 2, "no old event was tokenised again, not even when the oldest had to go"
    assert i > 4
    assert planner.library.user("", "u").block.block.kind is BlockKind.HISTORY


def test_what_comes_back_gives_way_to_what_is_known_or_was_deleted_since():
    library = Library(2**20)

    def write(name, content):
        version = library.versions.begin_write()
        stored = None if content is None else Stored(content, version, None)
        change = Change(BlockKind.ITEM, Owner("", name), stored)
        library.swap(WritePlan(DeleteItems((name,)), version, (), None, (), (change,)))
        library.versions.end_write(version)

    kept, gone, new = (item_named(name, "old") for name in ("kept", "gone", "new"))
    write("kept", item_named("kept", "newer"))
    version = library.versions.begin_read()
    write("gone", gone)
    write("gone", None)
    found = [(Owner("", one.item_id), Stored(one, version, None)) for one in (kept, gone, new)]
    assert library.add_missing(BlockKind.ITEM, found) == 1
    assert {one.id: stored.content for one, stored in library.items().items()} == {
        "kept": item_named("kept", "newer"),
        "new": new,
    }
    write("new", None)  # as any other
    assert library.item("", "new") is None
