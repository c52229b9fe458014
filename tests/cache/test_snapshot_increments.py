"""Snapshots after the first: what did not change is not written again, and what nobody needs goes."""

import pytest
from snapshot_kit import (
    FORMAT,
    NAMES,
    NUM_BLOCKS,
    Cache,
    assert_blocks_are_of,
    files_of,
    index_of,
    own,
    restore,
    save,
    stocked,
)

from rcjax.cache.snapshot import Content, SnapshotStore, open_snapshot, save_snapshot, saving
from rcjax.cache.snapshot.base import MAX_SMALL_SEGMENTS
from rcjax.cache.snapshot.manifest import numbers_in, read_manifest


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "snapshots"


@pytest.fixture
def source():
    return stocked()


def values(folder):
    """The segments and records of a folder, with when and as which file they were written."""
    return {
        path.name: (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in files_of(folder)
        if path.parent.name != "snapshots"
    }


def library(items, users=()):
    return Content(
        items=lambda: {name: lambda name=name: {"item_id": name, "title": items[name]} for name in items},
        users=lambda: {name: lambda name=name: {"user_id": name} for name in users},
    )


def test_what_did_not_change_is_not_written_again(source, folder):
    content = library({f"i{number}": "mug" for number in range(8)}, ["u", "v"])
    first = save(source, folder, content=content)
    assert (first.num_written, first.written_bytes) == (NUM_BLOCKS, first.num_bytes)
    before = values(folder)
    again = save(source, folder, content=content)
    assert (again.number, again.num_written, again.written_bytes) == (2, 0, 0)
    assert again == first
    assert values(folder) == before
    source.put("item", "i40")
    third = save(source, folder, content=content)
    assert (third.num_blocks, third.num_written) == (NUM_BLOCKS + 1, 1)
    assert before.items() <= values(folder).items()
    assert len(values(folder)) == len(before) + 2, "a segment and its index"
    fresh = Cache()
    assert restore(fresh, folder).num_blocks == NUM_BLOCKS + 1
    assert_blocks_are_of(fresh, source)


def test_of_a_changed_library_one_part_is_written(source, folder):
    titles = {f"item-{number}": "mug" for number in range(5000)}
    save(source, folder, content=library(titles))
    before = values(folder)
    titles["item-17"] = "pan"
    save(source, folder, content=library(titles))
    assert len(values(folder).keys() - before.keys()) == 1
    assert len(values(folder)) == len(before), "the former part is gone"
    restoring = open_snapshot(SnapshotStore(folder), source.keys, [source.pool])
    found = {one["item_id"]: one["title"] for some in restoring.records("items") for one in some}
    assert found == titles


def test_the_newest_stay_and_what_only_others_refer_to_goes(source, folder):
    for number in range(1, 6):
        source.put("item", "i0", [number, number], version=number)
        save(source, folder, keep=3)
    store = SnapshotStore(folder)
    assert numbers_in(store) == [3, 4, 5]
    for number in (3, 4, 5):
        fresh = Cache()
        assert restore(fresh, folder, number=number).corrupt == ()
        assert fresh.named_blocks()["item", "i0"].token_ids.tolist() == [number, number]
    source.directory.drop("item", own("i0"), 9)
    save(source, folder, keep=1)
    referenced = {use.name for use in read_manifest(store).segments}
    assert {path.stem for path in (folder / "segments").iterdir()} == referenced


def test_nothing_of_a_deleted_user_is_in_the_next_snapshot_nor_in_a_file_once_the_others_are_gone(source, folder):
    known = set(NAMES)
    content = Content(is_known=lambda kind, owner: (kind, owner.full_id) in known)
    save(source, folder, content=content, keep=2)
    (kv,) = [source.kv_bytes(block)[0] for name, block in source.named_blocks().items() if name == ("history", "u")]
    assert any(b'"owner":["","u",""]' in path.read_bytes() for path in files_of(folder))
    source.directory.drop("history", own("u"), 1)
    known.remove(("history", "u"))
    save(source, folder, content=content, keep=2)
    assert ("history", "u") not in {(block.kind, block.owner.full_id) for _, block in index_of(folder)}
    save(source, folder, content=content, keep=2)
    texts = [path.read_bytes() for path in files_of(folder)]
    assert not any(b'"owner":["","u",""]' in text for text in texts)
    assert not any(kv in text for text in texts if len(kv) > 16)
    assert restore(Cache(), folder).num_blocks == NUM_BLOCKS - 1


def test_who_is_deleted_while_it_is_taken_is_not_in_it(source, folder):
    known = set(NAMES)
    content = Content(
        items=lambda: known.discard(("history", "u")) or {}, is_known=lambda kind, owner: (kind, owner.full_id) in known
    )
    assert save(source, folder, content=content).num_blocks == NUM_BLOCKS - 1
    assert ("history", "u") not in {(block.kind, block.owner.full_id) for _, block in index_of(folder)}


def test_a_segment_that_is_mostly_of_no_use_is_left_behind(source, folder):
    save(source, folder)
    for number, owner in enumerate(("i1", "i2", "i3", "i5", "i6", "i7")):
        source.directory.drop("item", own(owner), number + 1)
    report = save(source, folder)
    assert (report.num_blocks, report.num_written) == (4, 2), "the two items that are left"
    fresh = Cache()
    restore(fresh, folder)
    assert_blocks_are_of(fresh, source)
    assert len(fresh.named_blocks()) == 4


def test_many_small_segments_become_one(folder):
    source = Cache(num_pages=500)
    source.put("item", "long", range(800))
    for number in range(MAX_SMALL_SEGMENTS + 3):
        source.put("item", f"n{number}", [number])
        save(source, folder)
    assert len(read_manifest(SnapshotStore(folder)).segments) <= MAX_SMALL_SEGMENTS + 1
    fresh = Cache(num_pages=500)
    assert restore(fresh, folder).num_blocks == MAX_SMALL_SEGMENTS + 4
    assert_blocks_are_of(fresh, source)


class TestSeveralPools:
    def test_what_several_hold_is_written_once_by_one_each(self, folder, monkeypatch):
        monkeypatch.setattr(saving, "SEGMENT_BYTES", 1)
        one, other = stocked(), stocked()
        other.put("item", "i41")
        report = save_snapshot(SnapshotStore(folder), one.keys, [one.pool, other.pool])
        assert report.num_blocks == report.num_written == NUM_BLOCKS + 1
        assert len({block.key for _, block in index_of(folder)}) == len(index_of(folder)) == NUM_BLOCKS + 1
        first, second, third = Cache(), Cache(), Cache()
        pools = [first.pool, second.pool, third.pool]

        def is_wanted(pool, kind, owner):
            return pool == 2 or (pool == hash(owner) % 2)

        restoring = open_snapshot(SnapshotStore(folder), first.keys, pools, is_wanted=is_wanted)
        restoring.restore()
        assert restoring.finish().num_blocks == 2 * (NUM_BLOCKS + 1)
        assert len(third.named_blocks()) == NUM_BLOCKS + 1
        assert not set(first.named_blocks()) & set(second.named_blocks())
        assert set(first.named_blocks()) | set(second.named_blocks()) == set(third.named_blocks())
        for cache in (first, second, third):
            assert_blocks_are_of(cache, other)
            cache.assert_idle()

    def test_an_object_store_takes_them_as_a_folder_does(self, source):
        """TensorStore's own store in memory, by URL: nothing needs files."""
        store = SnapshotStore("memory://bucket/of/ours")
        save_snapshot(store, source.keys, [source.pool], library({"a": "mug"}))
        source.put("item", "i40")
        assert save_snapshot(store, source.keys, [source.pool], library({"a": "mug"})).num_written == 1
        assert numbers_in(store) == [2]
        fresh = Cache()
        restoring = open_snapshot(store, fresh.keys, [fresh.pool])
        restoring.restore()
        assert restoring.finish().num_blocks == NUM_BLOCKS + 1
        assert_blocks_are_of(fresh, source)


class TestHotFirst:
    def test_the_blocks_used_last_come_first_and_the_order_of_use_comes_back(self, source, folder):
        source.directory.unpin(source.directory.acquire(*key_and_ids(source, "i2")))
        names = [*(name for name in NAMES if name != ("item", "i2")), ("item", "i2")]
        save(source, folder)
        fresh = Cache()
        restoring = open_snapshot(SnapshotStore(folder), fresh.keys, [fresh.pool])
        restoring.restore(0.3)
        assert set(fresh.named_blocks()) == set(names[-3:])
        assert restoring.report.num_blocks == 3
        fresh.put("item", "i5", [1, 2, 3], version=1)  # a write while the rest is yet to come
        restoring.restore(1.0)
        report = restoring.finish()
        assert (report.num_blocks, report.num_present) == (NUM_BLOCKS - 1, 1)
        assert [name for name in fresh.named_blocks() if name != ("item", "i5")] == [
            name for name in names if name != ("item", "i5")
        ]
        assert fresh.directory.current("item", own("i5")).token_ids.tolist() == [1, 2, 3]

    def test_what_is_deleted_meanwhile_does_not_come_back(self, source, folder):
        save(source, folder)
        fresh = Cache()
        restoring = open_snapshot(SnapshotStore(folder), fresh.keys, [fresh.pool], version=4)
        restoring.restore(0.2)
        fresh.directory.drop("item", own("i1"), version=5)
        restoring.restore()
        assert restoring.finish().num_skipped == 1
        assert ("item", "i1") not in fresh.named_blocks()

    def test_a_pool_of_fewer_bytes_takes_the_hottest(self, source, folder):
        save(source, folder)
        small = Cache(num_pages=1 + 2 + source.num_pages(NAMES[-3:]))
        restoring = open_snapshot(SnapshotStore(folder), small.keys, [small.pool])
        restoring.restore(0.4)
        assert list(small.named_blocks()) == NAMES[-1:]
        restoring.restore()
        report = restoring.finish()
        assert list(small.named_blocks()) == NAMES[-3:]
        assert report.num_bytes == source.num_pages(NAMES[-3:]) * FORMAT.page_bytes


def key_and_ids(cache, owner):
    block = cache.directory.current("item", own(owner))
    return block.key, block.token_ids


def test_pieces_rest_as_long_as_they_take(source, folder):
    now, rests = [0.0], []

    def clock():
        now[0] += 1.0
        return now[0]

    report = save(source, folder, rest_share=0.5, clock=clock, sleep=rests.append)
    assert report.num_blocks == NUM_BLOCKS
    assert len(rests) >= 3, "a list of slots and two pieces at least"
    assert set(rests) == {0.5}
