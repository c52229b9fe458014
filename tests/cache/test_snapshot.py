"""Snapshots: what comes back is what was saved, and what shall not be saved is not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from snapshot_kit import (
    FORMAT,
    NAMES,
    NUM_BLOCKS,
    Cache,
    HostPages,
    assert_blocks_are_of,
    index_of,
    of_dtype,
    own,
    restore,
    save,
    stocked,
)

from rcjax.cache import BlockState
from rcjax.cache.snapshot import SnapshotReport, SnapshotStore, saving
from rcjax.cache.snapshot.manifest import read_manifest
from rcjax.errors import InvalidRequestError
from rcjax.kernels.kv import QUANTISED_DTYPES, KVFormat


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "snapshots" / "one"


@pytest.fixture
def source():
    return stocked()


@pytest.fixture
def fresh():
    return Cache()


@pytest.fixture(params=["one segment", "small segments", "a segment per block"])
def segment_bytes(request, monkeypatch):
    sizes = {"one segment": saving.SEGMENT_BYTES, "small segments": 8 * FORMAT.page_bytes, "a segment per block": 1}
    monkeypatch.setattr(saving, "SEGMENT_BYTES", sizes[request.param])
    monkeypatch.setattr(saving, "PIECE_PAGES", 1)
    return sizes[request.param]


class TestRoundTrip:
    def test_all_blocks_come_back(self, source, fresh, folder, segment_bytes):
        saved = save(source, folder)
        restored = restore(fresh, folder)
        assert saved == restored == SnapshotReport(NUM_BLOCKS, source.num_pages(NAMES) * FORMAT.page_bytes, 0)
        assert list(fresh.named_blocks()) == list(source.named_blocks()) == NAMES
        assert_blocks_are_of(fresh, source)
        fresh.assert_idle()
        for block in source.named_blocks().values():
            assert fresh.directory.lookup(block.key, block.token_ids) is not None

    def test_a_relative_folder_is_taken_from_the_working_directory(self, source, fresh, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        saved = save(source, Path("relative"))
        assert restore(fresh, tmp_path / "relative") == saved

    def test_segments_hold_what_they_should(self, source, folder, segment_bytes):
        save(source, folder)
        of_kind = {}
        for segment, block in index_of(folder):
            of_kind.setdefault(block.kind, {}).setdefault(segment, []).append(block)
        assert set(of_kind) == {"item", "history"}
        for segments in of_kind.values():
            for name, blocks in segments.items():
                sizes = [block.num_bytes for block in blocks]
                assert [block.at for block in blocks] == [sum(sizes[:at]) for at in range(len(sizes))]
                assert (folder / "segments" / name).stat().st_size == sum(sizes)
                assert sum(sizes[:-1]) < segment_bytes
                assert len(sizes) == 1 or segment_bytes > 1
        num = len(of_kind["item"])
        assert num == (8 if segment_bytes == 1 else 1) or (segment_bytes == 8 * FORMAT.page_bytes and num > 1)

    def test_what_was_restored_can_be_replaced_and_saved_again(self, source, fresh, folder):
        save(source, folder)
        restore(fresh, folder)
        fresh.put("item", "i2", [7, 8, 9], version=1)
        fresh.directory.drop("item", own("i3"), 2)
        assert save(fresh, folder).num_blocks == NUM_BLOCKS - 1
        again = Cache()
        restore(again, folder)
        assert set(again.named_blocks()) == set(NAMES) - {("item", "i3")}
        assert_blocks_are_of(again, fresh)

    def test_bfloat16(self, folder):
        kv_format = KVFormat("bfloat16", FORMAT.num_layers, FORMAT.num_kv_heads, FORMAT.head_dim, FORMAT.page_tokens)
        source, fresh = stocked(kv_format=kv_format), Cache(kv_format=kv_format)
        assert save(source, folder) == restore(fresh, folder)
        assert fresh.pages.values.k.dtype == kv_format.numpy_dtype
        assert_blocks_are_of(fresh, source)

    @pytest.mark.parametrize("dtype", QUANTISED_DTYPES)
    def test_quantised_pages_come_back_bit_for_bit(self, folder, dtype):
        source, fresh = stocked(kv_format=of_dtype(dtype)), Cache(kv_format=of_dtype(dtype))
        assert save(source, folder) == restore(fresh, folder)
        assert fresh.pages.values.k.dtype == of_dtype(dtype).numpy_dtype
        assert len(source.kv_bytes(source.named_blocks()[NAMES[0]])) == 4, "values and scales"
        assert_blocks_are_of(fresh, source)

    @pytest.mark.parametrize(
        ("saved", "served"), [("int8", "float32"), ("float8_e4m3fn", "int8"), ("bfloat16", "int8")]
    )
    def test_pages_of_another_dtype_are_refused_by_name(self, folder, saved, served):
        save(stocked(kv_format=of_dtype(saved)), folder)
        fresh = Cache(kv_format=of_dtype(served))
        with pytest.raises(InvalidRequestError) as error:
            restore(fresh, folder)
        assert f"kv_dtype is {saved!r} there and {served!r} here" in str(error.value)
        assert {"int8": "set cache.kv_dtype to int8", "float8_e4m3fn": "set cache.kv_dtype to fp8"}.get(
            saved, "to bfloat16 here"
        ) in str(error.value)
        assert "\n" not in str(error.value)
        assert not fresh.named_blocks()

    @pytest.mark.parametrize("damaged", ["values", "scales"])
    def test_a_flipped_bit_of_values_or_scales_is_found(self, folder, damaged):
        source, fresh = stocked(kv_format=of_dtype("int8")), Cache(kv_format=of_dtype("int8"))
        save(source, folder)
        segment, block = index_of(folder)[0]
        path = folder / "segments" / segment
        raw = bytearray(path.read_bytes())
        raw[block.at + (5 if damaged == "values" else block.num_bytes - 5)] ^= 1
        path.write_bytes(raw)
        assert restore(fresh, folder).corrupt == (str(block),)

    def test_an_empty_cache(self, fresh, folder):
        assert save(Cache(), folder) == restore(fresh, folder) == SnapshotReport(0, 0, 0)


class TestOrders:
    def test_orders_come_back_with_their_blocks_and_without(self, source, fresh, folder):
        rng = np.random.default_rng(0)
        chosen = {}
        for owner in ("i1", "i5"):
            block = source.named_blocks()["item", owner]
            chosen[owner] = rng.permutation(block.num_tokens).tolist()
            source.directory.set_order(block, chosen[owner])
        source.directory.release(source.directory.reserve_scratch(source.directory.num_available_pages))
        assert not source.named_blocks(), "all are evicted"
        source.put("item", "i1")
        save(source, folder)
        restore(fresh, folder)
        assert fresh.named_blocks()["item", "i1"].order.tolist() == chosen["i1"]
        assert fresh.put("item", "i5").order.tolist() == chosen["i5"]

    def test_orders_that_are_there_stay(self, source, fresh, folder):
        block = source.named_blocks()["item", "i1"]
        source.directory.set_order(block, range(block.num_tokens))
        save(source, folder)
        newer = list(range(block.num_tokens))[::-1]
        fresh.directory.set_order(fresh.put("item", "i1"), newer)
        assert not restore(fresh, folder).corrupt
        assert fresh.named_blocks()["item", "i1"].order.tolist() == newer


def test_tenants_stay_apart(source, fresh, folder):
    """The same item, in content and in id, is a block of each tenant, and so comes back to each."""
    source.put("item", "i1", tenant="one")
    mine = source.put("history", "u", [5, 6], tenant="two")
    source.directory.set_order(mine, [1, 0])
    assert save(source, folder).num_blocks == restore(fresh, folder).num_blocks == NUM_BLOCKS + 2
    assert_blocks_are_of(fresh, source)
    same = [fresh.directory.current("item", own("i1", tenant)) for tenant in ("", "one")]
    assert same[0].token_ids.tolist() == same[1].token_ids.tolist()
    assert same[0].key != same[1].key
    assert fresh.directory.current("item", own("i1", "two")) is None
    assert fresh.directory.current("history", own("u", "two")).order.tolist() == [1, 0]
    assert fresh.directory.current("history", own("u")).order is None
    fresh.assert_idle()


class TestWhatIsLeftOut:
    def test_inline_content_is_not_saved(self, source, fresh, folder):
        for kind in ("item", "history"):
            block = source.put(kind, "i1", [1, 2], inline="any")
            source.directory.set_order(block, range(block.num_tokens))
        assert save(source, folder).num_skipped == 2
        assert {block.owner.full_id for _, block in index_of(folder)} == {owner for _, owner in NAMES}
        assert not read_manifest(SnapshotStore(folder)).orders
        assert restore(fresh, folder).num_blocks == NUM_BLOCKS

    def test_what_pages_held_before_is_not_saved(self, source, fresh, folder):
        """The host pages are full of NaN where nothing was written: none of that may come back."""
        assert any(np.isnan(source.pages.read_pages(b.pages).k).any() for b in source.named_blocks().values())
        save(source, folder)
        restore(fresh, folder)
        assert not any(np.isnan(fresh.pages.read_pages(b.pages).k).any() for b in fresh.named_blocks().values())

    def test_a_block_that_is_there_stays(self, source, fresh, folder):
        save(source, folder)
        there = [fresh.put("item", "i2", [1, 2, 3]), fresh.put("item", "i4")]
        report = restore(fresh, folder)
        assert (report.num_blocks, report.num_present, report.num_skipped) == (NUM_BLOCKS - 2, 2, 0)
        assert [fresh.directory.current("item", own(owner)) for owner in ("i2", "i4")] == there
        assert restore(fresh, folder).num_present == NUM_BLOCKS
        fresh.assert_idle()

    def test_a_smaller_pool_takes_the_last_blocks_that_fit(self, source, folder):
        save(source, folder)
        wanted = NAMES[-4:]
        small = Cache(num_pages=1 + 2 + source.num_pages(wanted))
        report = restore(small, folder)
        assert (report.num_blocks, report.num_skipped) == (4, NUM_BLOCKS - 4)
        assert list(small.named_blocks()) == wanted
        assert small.directory.pool.num_free == 0
        assert_blocks_are_of(small, source)
        small.assert_idle()

    def test_nothing_is_evicted(self, source, folder):
        save(source, folder)
        small = Cache(num_pages=12)
        small.put("item", "i70"), small.put("item", "i71")
        there, free = set(small.named_blocks()), small.directory.pool.num_free
        report = restore(small, folder)
        assert there <= set(small.named_blocks())
        assert small.directory.num_evictions == 0
        assert report.num_blocks + report.num_skipped == NUM_BLOCKS
        assert small.num_pages(set(small.named_blocks()) - there) <= free
        small.assert_idle()

    def test_what_was_just_deleted_is_not_brought_back(self, source, fresh, folder):
        save(source, folder)
        fresh.directory.drop("item", own("i3"), version=5)
        report = restore(fresh, folder)
        assert (report.num_blocks, report.num_skipped) == (NUM_BLOCKS - 1, 1)
        assert ("item", "i3") not in fresh.named_blocks()
        fresh.assert_idle()


def test_a_restored_block_gives_way_to_a_write(source, fresh, folder):
    save(source, folder)
    restore(fresh, folder)
    restored = fresh.directory.current("item", own("i2"))
    fresh.put("item", "i2", [7, 8, 9], version=1)
    assert restored.state is BlockState.RETIRED


def test_snapshots_need_neither_engine_nor_model():
    above = "('rcjax.engine', 'rcjax.model')"
    code = f"import sys, rcjax.cache.snapshot; print([name for name in sys.modules if name.startswith({above})])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_fake_pages_refuse_another_format():
    other = HostPages(3, KVFormat("float32", 1, 2, 3, FORMAT.page_tokens))
    with pytest.raises(ValueError, match="where the pool holds"):
        HostPages(3).write_pages([1], other.read_pages([1]))
