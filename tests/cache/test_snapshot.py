"""Snapshots: what comes back is what was saved, and what shall not be saved is not."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from snapshot_checks import IDS, ITEMS, NUM_BLOCKS, assert_blocks_are_of, index_of, know, named_blocks, num_pages
from tiny_engine import assert_idle, close_to, event, item, recommend, restarted, scores

from rcjax.cache.snapshot import snapshot
from rcjax.cache.snapshot.snapshot import SnapshotReport, restore_cache, save_cache
from rcjax.model.kv import KVPages


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "snapshots" / "one"


@pytest.fixture
def source(engine):
    know(engine)
    return engine


@pytest.fixture
def fresh(compiled, settings):
    return restarted(compiled, settings)


@pytest.fixture(params=["one chunk", "small chunks", "a chunk per block"])
def chunk_bytes(request, monkeypatch, source):
    page_bytes = source.slice.pages.num_bytes // source.slice.pages.k.shape[1]
    chosen = {"one chunk": snapshot.CHUNK_BYTES, "small chunks": 8 * page_bytes, "a chunk per block": 1}[request.param]
    monkeypatch.setattr(snapshot, "CHUNK_BYTES", chosen)
    return chosen


class TestRoundTrip:
    def test_a_restored_engine_computes_no_block_and_scores_the_same(self, source, fresh, folder, chunk_bytes):
        saved = save_cache(source.cache, folder)
        restored = restore_cache(fresh.cache, folder)
        total = num_pages(source, named_blocks(source)) * source.slice.pages.num_bytes // source.slice.pages.k.shape[1]
        assert saved == restored == SnapshotReport(NUM_BLOCKS, total, num_skipped=0)
        assert list(named_blocks(fresh)) == list(named_blocks(source))
        assert_blocks_are_of(fresh, source)
        assert_idle(fresh)
        before = fresh.cache.stats().num_misses
        know(fresh)
        for arm in ("sequential_label_blocks", "parallel_anchor_blocks", "parallel_label_blocks_boundary"):
            assert scores(fresh, IDS, arm=arm) == close_to(scores(source, IDS, arm=arm))
            assert recommend(fresh, IDS, "v", arm=arm).tokens.built == 0
        assert fresh.cache.stats().num_misses == before
        assert not np.any(fresh.slice.read_pages([0])), "the null page stays zero"

    def test_a_relative_folder_is_taken_from_the_working_directory(self, source, fresh, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        saved = save_cache(source.cache, Path("relative"))
        assert restore_cache(fresh.cache, tmp_path / "relative") == saved

    def test_chunks_hold_what_they_should(self, source, folder, chunk_bytes):
        save_cache(source.cache, folder)
        blocks = index_of(folder)["blocks"]
        num_chunks = len(list((folder / "kv-1").iterdir()))
        assert sorted({block["chunk"] for block in blocks}) == list(range(num_chunks))
        page_bytes = source.slice.pages.num_bytes // source.slice.pages.k.shape[1]
        if chunk_bytes == 1:
            assert num_chunks == NUM_BLOCKS
        else:
            in_all = num_pages(source, named_blocks(source)) * page_bytes
            assert num_chunks >= in_all / chunk_bytes
            assert (num_chunks == 1) == (in_all <= chunk_bytes)

    def test_what_was_restored_can_be_grown_replaced_and_saved_again(self, source, fresh, compiled, settings, folder):
        save_cache(source.cache, folder)
        restore_cache(fresh.cache, folder)
        for one in (fresh, source):
            know(one)
            one.append_events("u", [event(20), event(21)])
            one.put_items([item(2, text="new")])
            one.delete_items(["i3"])
        expected = scores(source, ["i1", "i2", "i4"])
        assert scores(fresh, ["i1", "i2", "i4"]) == close_to(expected)
        assert save_cache(fresh.cache, folder).num_blocks == NUM_BLOCKS - 1
        again = restarted(compiled, settings)
        restore_cache(again.cache, folder)
        assert ("item", "i3") not in named_blocks(again)
        assert_blocks_are_of(again, fresh)

    def test_bfloat16(self, engine, fresh, folder):
        for one in (engine, fresh):
            one.cache.identity = dataclasses.replace(one.cache.identity, kv_dtype="bfloat16")
        know(engine)
        for one in (engine, fresh):
            one.slice.pages = jax.tree.map(lambda values: values.astype(jnp.bfloat16), one.slice.pages)
        assert save_cache(engine.cache, folder).num_blocks == NUM_BLOCKS
        assert restore_cache(fresh.cache, folder).num_blocks == NUM_BLOCKS
        assert fresh.slice.pages.k.dtype == jnp.bfloat16
        assert_blocks_are_of(fresh, engine)

    def test_orders_of_correction_come_back(self, source, fresh, folder):
        chosen = {}
        for owner in ("i1", "i5"):
            block = source.cache.directory.current("item", owner)
            chosen[owner] = np.random.default_rng(0).permutation(block.num_tokens).tolist()
            source.cache.directory.set_order(block, chosen[owner])
        save_cache(source.cache, folder)
        restore_cache(fresh.cache, folder)
        found = {owner: block.order for (_, owner), block in named_blocks(fresh).items() if block.order is not None}
        assert {owner: order.tolist() for owner, order in found.items()} == chosen

    def test_an_empty_cache(self, engine, fresh, folder):
        assert save_cache(engine.cache, folder) == restore_cache(fresh.cache, folder) == SnapshotReport(0, 0, 0)

    def test_neither_compiles(self, compiled, source, fresh, folder):
        source.put_items([item(i) for i in range(60, 73)])  # so that no other test moves as many pages
        before = compiled.stats().num_compilations
        save_cache(source.cache, folder)
        restore_cache(fresh.cache, folder)
        assert compiled.stats().num_compilations == before


class TestWhatIsLeftOut:
    def test_inline_content_is_not_saved(self, source, fresh, folder):
        secret = item(99, text="secret")
        assert recommend(source, [*IDS, secret], history=(event(50),)).tokens.built > 0
        num_inline = len(named_blocks(source)) - NUM_BLOCKS
        assert num_inline == 2
        assert save_cache(source.cache, folder).num_skipped == num_inline
        assert {block["owner"] for block in index_of(folder)["blocks"]} == {*IDS, "u", "v"}
        assert restore_cache(fresh.cache, folder).num_blocks == NUM_BLOCKS

    def test_what_pages_held_before_is_not_saved(self, source, fresh, folder):
        def poison(values):
            return values.at[:, 1:].set(jnp.nan)

        kept = {name: source.slice.read_pages(block.pages) for name, block in named_blocks(source).items()}
        source.slice.pages = KVPages(poison(source.slice.pages.k), poison(source.slice.pages.v))
        for name, block in named_blocks(source).items():
            for values in kept[name]:
                flat = values.reshape(values.shape[0], -1, *values.shape[3:])
                flat[:, block.num_tokens :] = np.nan
            source.slice.write_pages(block.pages, *kept[name])
        save_cache(source.cache, folder)
        restore_cache(fresh.cache, folder)
        assert_blocks_are_of(fresh, source)

    def test_a_resident_block_stays(self, source, fresh, folder):
        save_cache(source.cache, folder)
        newer = item(2, text="newer")
        fresh.put_items([newer, ITEMS[4]])
        there = {owner: fresh.cache.directory.current("item", owner) for owner in ("i2", "i4")}
        report = restore_cache(fresh.cache, folder)
        assert (report.num_blocks, report.num_resident, report.num_skipped) == (NUM_BLOCKS - 2, 2, 0)
        assert {owner: fresh.cache.directory.current("item", owner) for owner in there} == there
        assert restore_cache(fresh.cache, folder).num_resident == NUM_BLOCKS
        assert_idle(fresh)

    def test_a_smaller_pool_takes_the_last_blocks_that_fit(self, source, compiled, settings, folder):
        save_cache(source.cache, folder)
        names = list(named_blocks(source))
        instruction = compiled.cache.directory.pool.pages_for(len(compiled.builder.instruction_ids))
        wanted = names[-4:]
        small = restarted(compiled, settings, num_pages=1 + instruction + num_pages(source, wanted))
        report = restore_cache(small.cache, folder)
        assert (report.num_blocks, report.num_skipped) == (4, NUM_BLOCKS - 4)
        assert list(named_blocks(small)) == wanted
        assert small.cache.directory.pool.num_free == 0
        assert_blocks_are_of(small, source)
        assert_idle(small)

    def test_nothing_is_evicted(self, source, compiled, settings, folder):
        save_cache(source.cache, folder)
        small = restarted(compiled, settings, num_pages=14)
        small.put_items([item(70), item(71)])
        there, free = set(named_blocks(small)), small.cache.directory.pool.num_free
        report = restore_cache(small.cache, folder)
        assert there <= set(named_blocks(small))
        assert small.cache.stats().num_evictions == 0
        assert report.num_blocks + report.num_skipped == NUM_BLOCKS
        assert num_pages(small, set(named_blocks(small)) - there) <= free
        assert_idle(small)
