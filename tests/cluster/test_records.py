"""Records of the library: in whatever order they come, a replica becomes what the library is."""

from hypothesis import given
from hypothesis import strategies as st

from rcjax.catalog.types import Event, Item
from rcjax.cluster.ray.keeping import Followers, KeptLibrary
from rcjax.cluster.ray.records import CHUNK_RECORDS, Record, dump, record_of, replay, retain
from rcjax.engine.library import Library
from rcjax.engine.plan import Change, Stored
from rcjax.prompt import BlockKind, Owner

ROOM = 2**20


def owner(number):
    return Owner("", f"i{number}")


def put(number, version, title):
    return Change(BlockKind.ITEM, owner(number), Stored(Item(f"i{number}", title), version, None))


def content(library):
    return {name.id: stored.content for name, stored in library.items().items()}


titles = st.one_of(st.none(), st.text("ab", min_size=1, max_size=2))
writes = st.lists(st.tuples(st.integers(0, 3), titles), max_size=20)


@given(writes=writes, order=st.randoms(use_true_random=False))
def test_the_order_of_records_does_not_matter(writes, order):
    library, replica = Library(ROOM), Library(ROOM)
    records = []
    # A version that is read holds the library's memory of deletions, as long as records are under way.
    for one in (library, replica):
        one.versions.begin_read()
    for version, (number, title) in enumerate(writes, start=1):
        change = put(number, version, title) if title else Change(BlockKind.ITEM, owner(number), None)
        library.replay([change], version)
        records.append(record_of(change, version))
    order.shuffle(records)
    replay(replica, records)
    assert content(replica) == content(library)


def test_a_dump_has_items_and_users_in_chunks():
    library = Library(ROOM)
    library.replay([put(number, 1, "mug") for number in range(CHUNK_RECORDS + 1)], 1)
    events = (Event("i1", "mug"),)
    library.replay([Change(BlockKind.HISTORY, Owner("shop", "ann"), Stored(events, 2, None, (3,)))], 2)
    chunks = list(dump(library))
    assert list(map(len, chunks)) == [CHUNK_RECORDS, 2]
    replica = Library(ROOM)
    for chunk in chunks:
        replay(replica, chunk)
    assert content(replica) == content(library)
    user = replica.user("shop", "ann")
    assert (user.content, user.event_lens, user.version) == (events, (3,), 2)


def test_what_a_whole_dump_does_not_have_is_forgotten_unless_it_came_after():
    library = Library(ROOM)
    library.replay([put(1, 3, "old"), put(2, 3, "kept")], 3)
    library.replay([put(4, 9, "new")], 9)
    assert retain(library, {(BlockKind.ITEM, owner(2))}, 5) == [(BlockKind.ITEM, owner(1))]
    assert sorted(content(library)) == ["i2", "i4"]


def test_a_kept_library_tells_each_write_and_holds_versions_that_are_read_elsewhere():
    now_s = [0.0]
    followers = Followers(lambda: now_s[0])
    library = KeptLibrary(ROOM, followers)
    version = library.versions.begin_write()
    library.replay([put(1, version, "mug")], version)
    library.versions.end_write(version)
    (records,) = library.feed.since(0, 10)
    assert records == (Record(BlockKind.ITEM, owner(1), 1, Item("i1", "mug")),)
    assert (library.versions.oldest, library.versions.readable) == (1, 1)
    followers.heard("a front end", 0)
    assert library.versions.oldest == 0
    assert len(followers) == 1
    now_s[0] = 1000.0
    assert library.versions.oldest == 1, "who has not been heard of for so long reads nothing"


def test_reads_of_a_follower_begin_where_it_is():
    library = Library(ROOM)
    assert library.versions.begin_read() == 0
    library.versions.follow(7)
    library.versions.follow(5)
    assert library.versions.begin_read() == 7
    assert library.versions.oldest == 0
    assert library.versions.begin_write() == 8
