"""The tiers by themselves: what they hold, what goes to the disk, that damage is a miss, and what a deletion leaves."""

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from directory_kit import key_of, own
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from rcjax.cache import CachedBlock
from rcjax.cache.tiers import KVTiers
from rcjax.cache.tiers.disk import SUBFOLDER, DiskTier
from rcjax.disk import DiskError
from rcjax.kernels.kv import KVFormat

FORMAT = KVFormat("bfloat16", 2, 1, 4, 3)
INT8 = KVFormat("int8", 2, 1, 4, 3)
BLOCK_BYTES = 2 * FORMAT.page_bytes + 16  # of a block of 4 tokens


def block_of(name, text=0, kind="item", inline=""):
    """A block as a pool has it; `text` tells contents of one owner apart."""
    ids = np.arange(4, dtype=np.int32) + 10 * text
    return CachedBlock(key_of((kind, name, text)), kind, own(name)._replace(inline=inline), ids, (1, 2), 1.0)


def pages_of(block, kv_format=FORMAT):
    rng = np.random.default_rng(list(block.key[:8]))
    pages = kv_format.host_empty(2)
    for array in (pages.k, pages.v):
        array[:] = rng.integers(-100, 100, array.shape)
    for scale in (pages.k_scale, pages.v_scale):
        if scale is not None:
            scale[:] = rng.random(scale.shape)
    return pages


def spill(tiers, block, kv_format=FORMAT):
    arrival = tiers.expect(block)
    if arrival is not None:
        tiers.keep(arrival, pages_of(block, kv_format))


def read(tiers, block):
    return tiers.read(block.key, block.token_ids)


def is_same(kept, pages):
    return all(
        np.asarray(one).tobytes() == np.asarray(other).tobytes()
        for one, other in ((kept.pages.k, pages.k), (kept.pages.v, pages.v))
    )


@pytest.fixture
def disk(tmp_path):
    made = DiskTier(tmp_path, 100 * BLOCK_BYTES, FORMAT)
    yield made
    made.close()


@pytest.fixture
def tiers(disk):
    return KVTiers(2 * BLOCK_BYTES, disk)


def files(folder):
    return [path for path in (Path(folder) / SUBFOLDER).rglob("*") if path.is_file()]


class TestHost:
    def test_a_block_comes_back_as_it_went(self, tiers):
        block = block_of("a")
        assert tiers.find(block.key) is None
        spill(tiers, block)
        assert tiers.find(block.key) == "host"
        assert is_same(read(tiers, block), pages_of(block))
        assert tiers.host_bytes_used == BLOCK_BYTES

    def test_what_is_there_is_not_wanted_again(self, tiers):
        spill(tiers, block_of("a"))
        assert tiers.expect(block_of("a")) is None

    def test_other_tokens_under_the_same_key_are_a_miss(self, tiers):
        block = block_of("a")
        spill(tiers, block)
        assert tiers.read(block.key, block.token_ids + 1) is None
        assert read(tiers, block) is not None

    def test_a_flipped_byte_is_a_miss_and_a_count(self, tiers):
        block = block_of("a")
        spill(tiers, block)
        read(tiers, block).pages.v.view(np.uint8)[1, 1, 2, 0, 3] ^= 1
        assert read(tiers, block) is None
        assert tiers.num_corrupt == 1
        assert tiers.find(block.key) is None

    def test_newer_content_takes_the_place_of_older(self, tiers):
        spill(tiers, block_of("a"))
        spill(tiers, block_of("a", text=1))
        assert tiers.find(block_of("a").key) is None
        assert tiers.find(block_of("a", text=1).key) == "host"

    def test_without_a_disk_the_oldest_go(self):
        tiers = KVTiers(2 * BLOCK_BYTES)
        for owner in "abc":
            spill(tiers, block_of(owner))
        read(tiers, block_of("b"))
        spill(tiers, block_of("d"))
        assert [tiers.find(block_of(owner).key) for owner in "abcd"] == [None, "host", None, "host"]

    def test_a_block_larger_than_all_room_is_not_kept(self):
        tiers = KVTiers(BLOCK_BYTES - 1)
        spill(tiers, block_of("a"))
        assert tiers.host_bytes_used == 0


class TestDisk:
    def test_what_leaves_host_memory_comes_back_from_the_disk(self, tiers, tmp_path):
        for owner in "abc":
            spill(tiers, block_of(owner))
        assert tiers.find(block_of("a").key) == "disk"
        tiers.drop([]).result(60)  # it is written by now
        assert len(files(tmp_path)) == 1
        assert is_same(read(tiers, block_of("a")), pages_of(block_of("a")))
        assert tiers.find(block_of("a").key) == "host", "it is there again"

    def test_quantised_blocks_have_their_scales(self, tmp_path):
        tiers = KVTiers(2 * INT8.page_bytes + 16, DiskTier(tmp_path, 10**6, INT8))
        for owner in "ab":
            spill(tiers, block_of(owner), INT8)
        tiers.drop([]).result(60)
        expected = pages_of(block_of("a"), INT8)
        kept = read(tiers, block_of("a"))
        assert is_same(kept, expected)
        np.testing.assert_array_equal(kept.pages.k_scale, expected.k_scale)
        tiers.close()

    @pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
    def test_damage_on_the_disk_is_a_miss(self, tiers, tmp_path, damage):
        for owner in "abc":
            spill(tiers, block_of(owner))
        tiers.drop([]).result(60)
        (file,) = files(tmp_path)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        if damage == "delete":
            file.unlink()
        else:
            file.write_bytes(data if damage == "flip" else data[:-1])
        assert read(tiers, block_of("a")) is None
        assert tiers.num_corrupt == 1
        assert tiers.find(block_of("a").key) is None

    def test_what_came_inline_does_not_go_to_the_disk(self, tiers):
        for owner in ("one", "two", "three"):
            spill(tiers, block_of(owner, inline="any"))
        assert tiers.find(block_of("one").key) is None
        assert tiers.disk_bytes_used == 0

    def test_the_disk_has_a_limit_too(self, tmp_path):
        tiers = KVTiers(BLOCK_BYTES, DiskTier(tmp_path, 2 * BLOCK_BYTES, FORMAT))
        for owner in "abcd":
            spill(tiers, block_of(owner))
        assert [tiers.find(block_of(owner).key) for owner in "abcd"] == [None, "disk", "disk", "host"]
        tiers.drop([]).result(60)
        assert len(files(tmp_path)) == 2
        tiers.close()

    def test_it_starts_and_ends_empty(self, tmp_path):
        left = tmp_path / SUBFOLDER / "00" / "left"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"of a process that was killed")
        disk = DiskTier(tmp_path, 10**6, FORMAT)
        assert not files(tmp_path)
        tiers = KVTiers(BLOCK_BYTES, disk)
        for owner in "abc":
            spill(tiers, block_of(owner))
        tiers.drop([]).result(60)
        assert files(tmp_path)
        tiers.close()
        assert not (tmp_path / SUBFOLDER).exists()
        assert tiers.expect(block_of("d")) is None
        assert tiers.drop([("item", own("a"))]).result(60) is None

    def test_another_process_has_the_folder(self, tmp_path):
        script = (
            "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(); sys.stdin.read()"
        )
        held = [sys.executable, "-c", script, str(tmp_path / f"{SUBFOLDER}.lock")]
        with subprocess.Popen(held, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            with pytest.raises(DiskError, match=r"held by another process; give each its own cache\.disk\.folder"):
                DiskTier(tmp_path, 10**6, FORMAT)
            process.stdin.close()

    def test_a_write_that_fails_is_a_miss(self, tiers, disk, monkeypatch):
        class Full:
            def write(self, file, value):
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(disk, "_store", Full())
        for owner in "abc":
            spill(tiers, block_of(owner))
        with pytest.raises(DiskError, match="cannot be deleted"):
            tiers.drop([]).result(60)
        assert disk.num_failed == 1
        assert tiers.find(block_of("a").key) is None
        monkeypatch.undo()
        tiers.drop([]).result(60)


class TestDrop:
    def test_from_every_tier(self, tiers, tmp_path):
        for owner in "abc":
            spill(tiers, block_of(owner))
        tiers.drop([("item", own("a")), ("item", own("c")), ("item", own("unknown"))]).result(60)
        assert not files(tmp_path)
        assert [tiers.find(block_of(owner).key) for owner in "abc"] == [None, "host", None]

    def test_what_is_on_its_way(self, tiers):
        arrival = tiers.expect(block_of("a"))
        tiers.drop([("item", own("a"))])
        tiers.keep(arrival, pages_of(block_of("a")))
        assert tiers.find(block_of("a").key) is None
        assert tiers.num_expected == 0

    def test_what_is_being_read_from_the_disk(self, tiers, disk, monkeypatch):
        for owner in "abc":
            spill(tiers, block_of(owner))
        is_reading, release, read_file = threading.Event(), threading.Event(), disk.read

        def slow(stored):
            is_reading.set()
            release.wait()
            return read_file(stored)

        monkeypatch.setattr(disk, "read", slow)
        reader = threading.Thread(target=read, args=(tiers, block_of("a")))
        reader.start()
        assert is_reading.wait(60)
        tiers.drop([("item", own("a"))])
        release.set()
        reader.join(60)
        assert tiers.find(block_of("a").key) is None

    def test_what_is_not_to_be_trusted(self, tiers):
        for owner in "abc":
            spill(tiers, block_of(owner))
        tiers.discard(block_of("a").key)
        tiers.discard(block_of("b").key)
        assert [tiers.find(block_of(owner).key) for owner in "abc"] == [None, None, "host"]


names = st.sampled_from("abcde")
texts = st.integers(0, 1)


class TierMachine(RuleBasedStateMachine):
    """Any order of spilling, reading and dropping, with copies under way, against the set of what may be found."""

    folder = None  # set by the test

    @initialize(host=st.integers(1, 3), disk=st.integers(1, 3))
    def start(self, host, disk):
        self.disk = DiskTier(self.folder, disk * BLOCK_BYTES, FORMAT)
        self.tiers = KVTiers(host * BLOCK_BYTES, self.disk)
        self.arrivals = []  # (arrival, block, whether it was dropped meanwhile)
        self.allowed = set()  # keys that came and were not dropped since

    @rule(owner=names, text=texts)
    def expect(self, owner, text):
        block = block_of(owner, text)
        arrival = self.tiers.expect(block)
        if arrival is not None:
            self.arrivals.append([arrival, block, False])

    @rule(data=st.data(), comes=st.booleans())
    def end_arrival(self, data, comes):
        if not self.arrivals:
            return
        ended = data.draw(st.sampled_from(self.arrivals))
        self.arrivals.remove(ended)
        arrival, block, was_dropped = ended
        if not comes:
            self.tiers.give_up([arrival])
            return
        self.tiers.keep(arrival, pages_of(block))
        if not was_dropped:
            self.allowed.add(block.key)

    @rule(owner=names, text=texts)
    def read(self, owner, text):
        block = block_of(owner, text)
        kept = read(self.tiers, block)
        if kept is not None:
            assert block.key in self.allowed
            assert is_same(kept, pages_of(block))

    @rule(owner=names)
    def drop(self, owner):
        self.tiers.drop([("item", own(owner))]).result(60)
        for arrival in self.arrivals:
            arrival[2] = arrival[2] or arrival[1].owner == owner
        self.allowed -= {block_of(owner, text).key for text in (0, 1)}
        assert not any(stored.owner == owner for stored in self.disk._index._by_key.values())

    @invariant()
    def only_what_came_is_found(self):
        for owner in "abcde":
            for text in (0, 1):
                key = block_of(owner, text).key
                assert self.tiers.find(key) is None or key in self.allowed

    @invariant()
    def the_limits_hold(self):
        assert self.tiers.host_bytes_used <= self.tiers._host.max_bytes
        assert self.tiers.disk_bytes_used <= self.disk._index.max_bytes

    def teardown(self):
        if hasattr(self, "tiers"):
            self.tiers.drop([]).result(60)
            assert len(files(self.folder)) == len(self.disk._index)
            self.tiers.close()


def test_any_order_of_calls(tmp_path):
    TierMachine.folder = tmp_path
    run_state_machine_as_test(
        TierMachine, settings=hypothesis_settings(max_examples=30, stateful_step_count=30, deadline=None)
    )
