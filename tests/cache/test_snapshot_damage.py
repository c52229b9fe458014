"""Snapshots that are damaged, of another model, or were interrupted: nothing wrong is ever restored."""

import dataclasses
import errno
import json
import os
import re

import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest
from full_disk import full_disk
from snapshot_kit import (
    INSTRUCTION_IDS,
    NUM_BLOCKS,
    PAGE_TOKENS,
    Cache,
    assert_blocks_are_of,
    build_s,
    index_of,
    stocked,
)

from rcjax.cache import BlockKeys
from rcjax.cache.snapshot import restore_cache, save_cache, saving
from rcjax.disk import DiskError
from rcjax.errors import InvalidRequestError, NotFoundError


def stop(*_):
    raise KeyboardInterrupt


def save(cache, folder):
    return save_cache(cache.directory, cache.pages, cache.keys, folder)


def restore(cache, folder):
    return restore_cache(cache.directory, cache.pages, cache.keys, folder, build_s)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "snapshots" / "one"


@pytest.fixture
def source():
    return stocked()


@pytest.fixture
def fresh():
    return Cache()


class TestDamage:
    def test_a_changed_byte_of_kv_is_refused(self, source, fresh, folder):
        save(source, folder)
        chunk = folder / "kv-1" / "0"
        (first_page,) = [block["first_page"] for block in index_of(folder)["blocks"] if block["owner"] == "i3"]
        loaded = ocp.load(chunk)
        loaded["v"].view(np.uint8)[1, first_page, 0, 1, 2] ^= 0x10
        ocp.save(chunk, loaded, overwrite=True)  # Orbax's own checksums are right
        report = restore(fresh, folder)
        assert report.corrupt == ("item 'i3'",)
        assert report.num_blocks == NUM_BLOCKS - 1
        assert ("item", "i3") not in fresh.named_blocks()
        assert_blocks_are_of(fresh, source)
        fresh.assert_idle()
        fresh.put("item", "i3")

    @pytest.mark.parametrize(
        ("field", "changed"),
        [
            ("owner", "i300"),
            ("kind", "history"),
            ("key", "00" * 32),
            ("key", "not hex"),
            ("token_ids", [1, 2, 3]),
            ("first_page", 0),
            ("first_page", 10**6),
            ("chunk", 9),
            ("digest", "00" * 32),
        ],
    )
    def test_a_changed_entry_is_refused(self, source, fresh, folder, field, changed):
        save(source, folder)
        index = index_of(folder)
        assert index["blocks"][3][field] != changed
        index["blocks"][3][field] = changed
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
        report = restore(fresh, folder)
        assert len(report.corrupt) == 1
        assert report.num_blocks == NUM_BLOCKS - 1
        assert ("item", "i3") not in fresh.named_blocks()
        assert_blocks_are_of(fresh, source)
        fresh.assert_idle()

    @pytest.mark.parametrize(
        ("field", "changed"),
        [
            ("owner", "i300"),
            ("kind", "history"),
            ("key", "00" * 32),
            ("key", "not hex"),
            ("digest", ""),
            ("order", [0]),
        ],
    )
    def test_a_changed_order_is_refused_and_its_block_restored(self, source, fresh, folder, field, changed):
        block = source.directory.current("item", "i3")
        source.directory.set_order(block, list(range(block.num_tokens))[::-1])
        save(source, folder)
        index = index_of(folder)
        index["orders"][0][field] = changed
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
        report = restore(fresh, folder)
        assert len(report.corrupt) == 1
        assert report.corrupt[0].startswith("the order of ")
        assert report.num_blocks == NUM_BLOCKS
        assert not fresh.directory.orders()

    def test_swapped_blocks_are_refused(self, source, fresh, folder):
        """Both with KV and digest of the other: each would be a fine block, under another name."""
        save(source, folder)
        index = index_of(folder)
        one, other = index["blocks"][1], index["blocks"][4]
        assert -(-len(one["token_ids"]) // PAGE_TOKENS) == -(-len(other["token_ids"]) // PAGE_TOKENS)
        for field in ("first_page", "digest"):
            one[field], other[field] = other[field], one[field]
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
        assert set(restore(fresh, folder).corrupt) == {"item 'i1'", "item 'i4'"}

    # Orbax loads K and V at once and gives up after the first error; the other's comes when nobody listens any more.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_every_file_may_be_damaged(self, source, folder, monkeypatch):
        """Whatever byte is flipped, all that is restored is right, and nothing is lost without a word."""
        monkeypatch.setattr(saving, "CHUNK_BYTES", 1)
        save(source, folder)
        rng = np.random.default_rng(0)
        chunk = folder / "kv-1" / "2"
        seen = set()
        for path in sorted(p for p in [folder / "index.json", *chunk.rglob("*")] if p.is_file() and p.stat().st_size):
            raw = path.read_bytes()
            for at in rng.integers(0, len(raw), 2):
                flipped = bytearray(raw)
                flipped[at] ^= 1 << int(rng.integers(8))
                path.write_bytes(flipped)
                one = Cache()
                try:
                    report = restore(one, folder)
                except InvalidRequestError:
                    seen.add("refused")
                    assert not one.named_blocks()
                else:
                    seen.add("corrupt" if report.corrupt else "harmless")
                    assert report.num_blocks + len(report.corrupt) == NUM_BLOCKS
                    assert len(one.named_blocks()) == report.num_blocks
                assert_blocks_are_of(one, source)
                one.directory.check_integrity()
            path.write_bytes(raw)
        assert "corrupt" in seen

    def test_a_missing_chunk_is_named(self, source, fresh, folder, monkeypatch, caplog):
        monkeypatch.setattr(saving, "CHUNK_BYTES", 1)
        save(source, folder)
        (folder / "kv-1" / "0").rename(folder / "elsewhere")
        assert restore(fresh, folder).corrupt == ("item 'i0'",)
        assert "cannot be read" in caplog.text

    def test_no_snapshot(self, fresh, folder):
        with pytest.raises(NotFoundError, match=re.escape(str(folder))):
            restore(fresh, folder)

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}'])
    def test_an_unreadable_index(self, source, fresh, folder, content):
        save(source, folder)
        (folder / "index.json").write_text(content, encoding="utf-8")
        with pytest.raises(InvalidRequestError, match=r"index\.json is damaged or of another version"):
            restore(fresh, folder)

    def test_a_data_folder_elsewhere_is_not_followed(self, source, fresh, folder):
        save(source, folder)
        (folder / "index.json").write_text(json.dumps(index_of(folder) | {"data": "../kv-1"}), encoding="utf-8")
        with pytest.raises(InvalidRequestError, match="damaged"):
            restore(fresh, folder)

    def test_a_failing_write_leaves_nothing_reserved(self, source, fresh, folder):
        save(source, folder)

        def fail(*_):
            raise RuntimeError("device lost")

        fresh.pages.write_pages = fail
        with pytest.raises(RuntimeError, match="device lost"):
            restore(fresh, folder)
        assert not fresh.named_blocks()
        fresh.assert_idle()


class TestIdentity:
    @pytest.mark.parametrize(
        ("field", "other"),
        [
            ("model_fingerprint", "fine-tuned"),
            ("tokenizer_fingerprint", "another"),
            ("template_version", "2"),
            ("kv_dtype", "bfloat16"),
            ("page_tokens", 16),
        ],
    )
    def test_another_identity_is_refused_by_name(self, source, fresh, folder, field, other):
        save(source, folder)
        ours = getattr(fresh.keys.identity, field)
        fresh.keys = BlockKeys(dataclasses.replace(fresh.keys.identity, **{field: other}), INSTRUCTION_IDS)
        with pytest.raises(InvalidRequestError) as error:
            restore(fresh, folder)
        assert f"{field} is {ours!r} there and {other!r} here" in str(error.value)
        assert str(error.value).count(" there ") == 1
        assert ("or set dtype " in str(error.value)) == (field == "kv_dtype")
        assert not fresh.named_blocks()

    def test_another_instruction_is_refused(self, source, fresh, folder):
        save(source, folder)
        fresh.keys = BlockKeys(fresh.keys.identity, [1, 2])
        with pytest.raises(InvalidRequestError, match="instruction is"):
            restore(fresh, folder)


class TestInterruption:
    @pytest.mark.parametrize("when", ["in the second chunk", "in the index", "before the swap"])
    def test_the_former_snapshot_survives(self, source, fresh, folder, monkeypatch, when):
        monkeypatch.setattr(saving, "CHUNK_BYTES", 1)
        save(source, folder)
        former = dict(source.named_blocks())
        source.put("item", "i40"), source.put("item", "i0", [1, 2], version=1)
        monkeypatch.undo()
        with monkeypatch.context() as patch:
            patch.setattr(saving, "CHUNK_BYTES", 1)
            if when == "in the second chunk":
                real, calls = saving.ocp.save, []
                patch.setattr(saving.ocp, "save", lambda *args: stop() if calls else calls.append(1) or real(*args))
            elif when == "in the index":
                patch.setattr(saving, "write_index", stop)
            else:
                patch.setattr(type(folder), "replace", stop)
            with pytest.raises(KeyboardInterrupt):
                save(source, folder)
        assert restore(fresh, folder).num_blocks == NUM_BLOCKS
        assert {name: block.key for name, block in fresh.named_blocks().items()} == {
            name: block.key for name, block in former.items()
        }

    # Orbax's threads each raise what the first has raised; the others' comes when nobody listens any more.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.parametrize("when", ["in a chunk", "in the index"])
    def test_on_a_full_disk_the_former_snapshot_survives_and_a_line_says_so(
        self, source, fresh, folder, monkeypatch, when
    ):
        def full(descriptor):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        save(source, folder)
        former = dict(source.named_blocks())
        source.put("item", "i40")
        with monkeypatch.context() as patch, full_disk(2**30 if when == "in the index" else 100):
            if when == "in the index":
                patch.setattr(os, "fsync", full)
            with pytest.raises(DiskError) as caught:
                save(source, folder)
        reason = "No space left on device" if when == "in the index" else "File too large"
        assert re.fullmatch(rf"{folder}\S* cannot be written: {reason}; [^\n]+", caught.value.message)
        assert {path.name for path in folder.iterdir()} == {"index.json", "kv-1"}
        assert restore(fresh, folder).num_blocks == NUM_BLOCKS
        assert fresh.named_blocks().keys() == former.keys()
        assert save(source, folder).num_blocks == NUM_BLOCKS + 1

    def test_a_folder_that_cannot_be_made(self, source, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(DiskError, match=r"file/one cannot be written: Not a directory; "):
            save(source, tmp_path / "file" / "one")

    def test_what_an_interrupted_save_left_goes_with_the_next(self, source, fresh, folder):
        save(source, folder)
        (folder / "kv-7").mkdir()
        (folder / "kv-7" / "part").write_bytes(b"x")
        (folder / "index.json.new").write_bytes(b"{")
        (folder / "kv-notes").mkdir()
        source.put("item", "i40")
        save(source, folder)
        assert {path.name for path in folder.iterdir()} == {"index.json", "kv-8", "kv-notes"}
        assert restore(fresh, folder).num_blocks == NUM_BLOCKS + 1
