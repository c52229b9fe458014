"""Evicted blocks come back from host memory and the disk with the same scores to the bit, or are computed anew."""

import threading
from pathlib import Path

import numpy as np
import pytest
from connected_slices import WATCHDOG_S, Slices, parts_of, scores

from rcjax.cache.tiers import KVTiers
from rcjax.cache.tiers.disk import SUBFOLDER, DiskTier
from rcjax.engine import spilling
from rcjax.engine.compilation import CompilationCounter
from rcjax.prompt import BlockKind, Owner
from rcjax.request import RecommendRequest

ITEMS = (1, 2, 3, 4)
IDS = tuple(f"i{number}" for number in ITEMS)
COUNTER = CompilationCounter()


@pytest.fixture
def host():
    """One slice with a host tier."""
    made = Slices(1, tiers=KVTiers(2**24))
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path):
    """One slice with room for next to nothing on the host, and a disk tier behind that."""
    parts, _, _ = parts_of(1)
    num_bytes = 3 * parts.programs.format.page_bytes
    made = Slices(1, tiers=KVTiers(num_bytes, DiskTier(tmp_path, 2**24, parts.programs.format)))
    yield made
    made.close()


def rank(slices):
    return slices.submit(0, slices.plan_of(RecommendRequest(IDS, history=()))).result(WATCHDOG_S)


def tokens_of(result):
    return {name: getattr(result.tokens, name) for name in ("built", "fetched", "host", "disk")}


def num_tokens(slices, numbers=ITEMS):
    return sum(len(slices.block(number).block) for number in numbers)


def files(folder):
    return [path for path in (Path(folder) / SUBFOLDER).rglob("*") if path.is_file()]


class TestHost:
    def test_what_was_evicted_scores_as_before(self, host):
        host.put_items(ITEMS, on=[0])
        first = rank(host)
        host.evict_all(0)
        COUNTER.start()
        second = rank(host)
        assert COUNTER() == 0, "nothing is compiled after warm-up"
        assert scores(second) == scores(first)
        num_history = first.tokens.built
        assert tokens_of(second) == {
            "built": 0,
            "fetched": 0,
            "host": num_tokens(host) + num_history,
            "disk": 0,
        }
        stats = host.workers[0].stats
        assert stats.num_from_host == len(ITEMS) + 1
        assert stats.from_host_bytes == stats.spilled_bytes > 0
        host.assert_idle()

    def test_it_is_copied_to_the_host_once(self, host):
        host.put_items(ITEMS, on=[0])
        for _ in range(3):
            rank(host)
            host.evict_all(0)
        stats = host.workers[0].stats
        assert stats.from_host_bytes == 2 * stats.spilled_bytes

    def test_pages_are_copied_before_they_are_written_again(self):
        """A pool so small that each request takes the pages of the one before."""
        made = Slices(1, num_pages=22, tiers=KVTiers(2**24))
        expected = [scores(made.rank(0, (number,), (number,))) for number in range(8)]
        for number in range(8):
            again = made.rank(0, (number,), (number,))
            assert scores(again) == expected[number]
        assert made.workers[0].stats.num_from_host > 8
        assert made.tiers.num_corrupt == 0
        made.assert_idle()
        made.close()

    def test_a_flipped_byte_is_computed_anew(self, host):
        host.put_items(ITEMS, on=[0])
        first = rank(host)
        host.evict_all(0)
        kept = host.tiers.read(host.block(2).key, host.block(2).block.token_ids)
        kept.pages.k.view(np.uint8)[0, 0, 0, 0, 0] ^= 1
        second = rank(host)
        assert scores(second) == pytest.approx(scores(first), abs=1e-5)
        assert second.tokens.built == num_tokens(host, [2])
        assert host.tiers.num_corrupt == 1

    def test_what_is_deleted_is_not_there_either(self, host):
        host.put_items(ITEMS, on=[0])
        host.evict_all(0)
        host.delete_items([2])
        assert [host.tiers.find(host.block(number).key) for number in (1, 2)] == ["host", None]

    def test_what_is_deleted_while_it_comes_back_is_never_found(self, host, monkeypatch):
        host.put_items(ITEMS, on=[0])
        plan = host.plan_of(RecommendRequest(IDS, history=()))
        first = rank(host)
        host.evict_all(0)
        read, is_reading, release = host.tiers.read, threading.Event(), threading.Event()

        def slow(key, token_ids):
            is_reading.set()
            release.wait()
            return read(key, token_ids)

        monkeypatch.setattr(host.tiers, "read", slow)
        future = host.submit(0, plan)
        assert is_reading.wait(WATCHDOG_S)
        host.delete_items([2])
        release.set()
        assert scores(future.result(WATCHDOG_S)) == pytest.approx(scores(first), abs=1e-5)
        assert host.on(0, lambda worker: worker.cache.directory.current("item", Owner("", "i2"))) is None
        assert host.tiers.find(host.block(2).key) is None

    def test_what_is_deleted_while_it_goes_is_not_kept(self, host):
        host.put_items(ITEMS, on=[0])
        keep, is_going, release = host.tiers.keep, threading.Event(), threading.Event()

        def slow(arrival, pages):
            is_going.set()
            release.wait()
            keep(arrival, pages)

        host.tiers.keep = slow
        thread = threading.Thread(target=host.evict_all, args=(0,))
        thread.start()
        assert is_going.wait(WATCHDOG_S)
        host.delete_items([1, 2])
        release.set()
        thread.join(WATCHDOG_S)
        assert [host.tiers.find(host.block(number).key) for number in ITEMS] == [None, None, "host", "host"]

    def test_few_copies_are_under_way_at_once(self, host, monkeypatch):
        monkeypatch.setattr(spilling, "MAX_PAGES_UNDER_WAY", 2)
        host.put_items(ITEMS, on=[0])
        first = rank(host)
        host.evict_all(0)
        assert host.workers[0].stats.num_not_spilled > 0
        assert scores(rank(host)) == pytest.approx(scores(first), abs=1e-5)

    def test_a_copy_that_fails_is_a_miss(self, host, monkeypatch):
        host.put_items(ITEMS, on=[0])
        first = rank(host)
        monkeypatch.setattr(host.tiers, "keep", lambda arrival, pages: 1 / 0)
        host.evict_all(0)
        monkeypatch.undo()
        second = rank(host)
        assert scores(second) == pytest.approx(scores(first), abs=1e-5)
        assert second.tokens.host == 0
        host.assert_idle()


class TestDisk:
    def test_what_was_evicted_scores_as_before(self, disk):
        disk.put_items(ITEMS, on=[0])
        first = rank(disk)
        disk.evict_all(0)
        second = rank(disk)
        assert scores(second) == scores(first)
        assert second.tokens.disk > 0
        assert second.tokens.built == first.tokens.built, "the history, which came inline"
        assert second.tokens.disk + second.tokens.host == num_tokens(disk)
        stats = disk.workers[0].stats
        assert stats.num_from_disk + stats.num_from_host == len(ITEMS)
        assert stats.from_disk_bytes > 0

    @pytest.mark.parametrize("damage", ["flip", "delete"])
    def test_damage_is_computed_anew(self, disk, tmp_path, damage):
        disk.put_items(ITEMS, on=[0])
        first = rank(disk)
        disk.evict_all(0)
        disk.tiers.drop([]).result(WATCHDOG_S)  # all is written by now
        found = files(tmp_path)
        for file in found:
            data = bytearray(file.read_bytes())
            data[7] ^= 16
            file.write_bytes(data) if damage == "flip" else file.unlink()
        second = rank(disk)
        assert scores(second) == pytest.approx(scores(first), abs=1e-5)
        assert second.tokens.disk == 0
        assert second.tokens.built > 0
        assert disk.tiers.num_corrupt == len(found)

    def test_a_deletion_answers_when_the_files_are_gone(self, disk, tmp_path):
        disk.put_items(ITEMS, on=[0])
        disk.evict_all(0)
        disk.tiers.drop([]).result(WATCHDOG_S)
        assert files(tmp_path)
        disk.delete_items(ITEMS)
        assert not files(tmp_path)
        assert disk.tiers.host_bytes_used == 0

    def test_a_deletion_that_leaves_a_file_fails(self, disk, monkeypatch):
        disk.put_items(ITEMS, on=[0])
        disk.evict_all(0)
        disk.tiers.drop([]).result(WATCHDOG_S)

        class Stuck:
            def write(self, file, value):
                raise OSError(30, "Read-only file system")

        monkeypatch.setattr(disk.tiers._disk, "_store", Stuck())
        dropped = disk.workers[0].drop([(BlockKind.ITEM, Owner("", item_id)) for item_id in IDS], 99)
        assert "cannot be deleted" in str(dropped.exception(WATCHDOG_S))
        monkeypatch.undo()
