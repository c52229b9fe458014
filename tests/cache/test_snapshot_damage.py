"""Snapshots that are damaged, of another model, or were interrupted: nothing wrong is ever restored."""

import dataclasses
import json
import re

import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import pytest
from snapshot_checks import IDS, NUM_BLOCKS, assert_blocks_are_of, index_of, know, named_blocks
from tiny_engine import PAGE_TOKENS, assert_idle, close_to, item, restarted, scores

from rcjax.cache.snapshot import snapshot
from rcjax.cache.snapshot.snapshot import restore_cache, save_cache
from rcjax.errors import InvalidRequestError, NotFoundError


def stop(*_):
    raise KeyboardInterrupt


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


class TestDamage:
    def test_a_changed_byte_of_kv_is_refused(self, source, fresh, folder):
        save_cache(source.cache, folder)
        chunk = folder / "kv-1" / "0"
        (first_page,) = [block["first_page"] for block in index_of(folder)["blocks"] if block["owner"] == "i3"]
        loaded = ocp.load(chunk)
        loaded["v"].view(np.uint8)[1, first_page, 0, 1, 2] ^= 0x10
        ocp.save(chunk, loaded, overwrite=True)  # Orbax's own checksums are right
        report = restore_cache(fresh.cache, folder)
        assert report.corrupt == ("item 'i3'",)
        assert report.num_blocks == NUM_BLOCKS - 1
        assert ("item", "i3") not in named_blocks(fresh)
        assert_blocks_are_of(fresh, source)
        assert_idle(fresh)
        know(fresh)
        assert scores(fresh, IDS) == close_to(scores(source, IDS))

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
            ("order", None),
            ("order", [0]),
        ],
    )
    def test_a_changed_entry_is_refused(self, source, fresh, folder, field, changed):
        block = source.cache.directory.current("item", "i3")
        source.cache.directory.set_order(block, list(range(block.num_tokens))[::-1])
        save_cache(source.cache, folder)
        index = index_of(folder)
        assert index["blocks"][3][field] != changed
        index["blocks"][3][field] = changed
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
        report = restore_cache(fresh.cache, folder)
        assert len(report.corrupt) == 1
        assert report.num_blocks == NUM_BLOCKS - 1
        assert ("item", "i3") not in named_blocks(fresh)
        assert_blocks_are_of(fresh, source)
        assert_idle(fresh)

    def test_swapped_blocks_are_refused(self, source, fresh, folder):
        """Both with KV and digest of the other: each would be a fine block, under another name."""
        save_cache(source.cache, folder)
        index = index_of(folder)
        one, other = index["blocks"][1], index["blocks"][7]
        assert -(-len(one["token_ids"]) // PAGE_TOKENS) == -(-len(other["token_ids"]) // PAGE_TOKENS)
        for field in ("first_page", "digest"):
            one[field], other[field] = other[field], one[field]
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
        assert set(restore_cache(fresh.cache, folder).corrupt) == {"item 'i1'", "item 'i7'"}

    # Orbax loads K and V at once and gives up after the first error; the other's comes when nobody listens any more.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_every_file_may_be_damaged(self, source, compiled, settings, folder, monkeypatch):
        """Whatever byte is flipped, all that is restored is right, and nothing is lost without a word."""
        monkeypatch.setattr(snapshot, "CHUNK_BYTES", 1)
        save_cache(source.cache, folder)
        rng = np.random.default_rng(0)
        chunk = folder / "kv-1" / "2"
        seen = set()
        for path in sorted(p for p in [folder / "index.json", *chunk.rglob("*")] if p.is_file() and p.stat().st_size):
            raw = path.read_bytes()
            for at in rng.integers(0, len(raw), 2):
                flipped = bytearray(raw)
                flipped[at] ^= 1 << int(rng.integers(8))
                path.write_bytes(flipped)
                one = restarted(compiled, settings)
                try:
                    report = restore_cache(one.cache, folder)
                except InvalidRequestError:
                    seen.add("refused")
                    assert not named_blocks(one)
                else:
                    seen.add("corrupt" if report.corrupt else "harmless")
                    assert report.num_blocks + len(report.corrupt) == NUM_BLOCKS
                    assert len(named_blocks(one)) == report.num_blocks
                assert_blocks_are_of(one, source)
                one.cache.directory.check_integrity()
            path.write_bytes(raw)
        assert "corrupt" in seen

    def test_a_missing_chunk_is_named(self, source, fresh, folder, monkeypatch, caplog):
        monkeypatch.setattr(snapshot, "CHUNK_BYTES", 1)
        save_cache(source.cache, folder)
        (folder / "kv-1" / "0").rename(folder / "elsewhere")
        assert restore_cache(fresh.cache, folder).corrupt == ("item 'i0'",)
        assert "cannot be read" in caplog.text

    def test_no_snapshot(self, fresh, folder):
        with pytest.raises(NotFoundError, match=re.escape(str(folder))):
            restore_cache(fresh.cache, folder)

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2}'])
    def test_an_unreadable_index(self, source, fresh, folder, content):
        save_cache(source.cache, folder)
        (folder / "index.json").write_text(content, encoding="utf-8")
        with pytest.raises(InvalidRequestError, match=r"index\.json is damaged or of another version"):
            restore_cache(fresh.cache, folder)

    def test_a_data_folder_elsewhere_is_not_followed(self, source, fresh, folder):
        save_cache(source.cache, folder)
        (folder / "index.json").write_text(json.dumps(index_of(folder) | {"data": "../kv-1"}), encoding="utf-8")
        with pytest.raises(InvalidRequestError, match="damaged"):
            restore_cache(fresh.cache, folder)

    def test_a_failing_write_leaves_nothing_reserved(self, source, fresh, folder):
        save_cache(source.cache, folder)

        def fail(*_):
            raise RuntimeError("device lost")

        fresh.slice.write_pages = fail
        with pytest.raises(RuntimeError, match="device lost"):
            restore_cache(fresh.cache, folder)
        assert not named_blocks(fresh)
        assert_idle(fresh)


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
        save_cache(source.cache, folder)
        ours = getattr(fresh.cache.identity, field)
        fresh.cache.identity = dataclasses.replace(fresh.cache.identity, **{field: other})
        with pytest.raises(InvalidRequestError) as error:
            restore_cache(fresh.cache, folder)
        assert f"{field} is {ours!r} there and {other!r} here" in str(error.value)
        assert str(error.value).count(" there ") == 1
        assert not named_blocks(fresh)

    def test_another_instruction_is_refused(self, source, fresh, folder):
        save_cache(source.cache, folder)
        fresh.cache.instruction_key = b"\1" * 32
        with pytest.raises(InvalidRequestError, match="instruction is"):
            restore_cache(fresh.cache, folder)


class TestInterruption:
    @pytest.mark.parametrize("when", ["in the second chunk", "in the index", "before the swap"])
    def test_the_former_snapshot_survives(self, source, fresh, folder, monkeypatch, when):
        monkeypatch.setattr(snapshot, "CHUNK_BYTES", 1)
        save_cache(source.cache, folder)
        former = dict(named_blocks(source))
        source.put_items([item(40), item(0, text="changed")])
        monkeypatch.undo()
        with monkeypatch.context() as patch:
            patch.setattr(snapshot, "CHUNK_BYTES", 1)
            if when == "in the second chunk":
                real, calls = snapshot.ocp.save, []
                patch.setattr(snapshot.ocp, "save", lambda *args: stop() if calls else calls.append(1) or real(*args))
            elif when == "in the index":
                patch.setattr(snapshot, "write_index", stop)
            else:
                patch.setattr(type(folder), "replace", stop)
            with pytest.raises(KeyboardInterrupt):
                save_cache(source.cache, folder)
        assert restore_cache(fresh.cache, folder).num_blocks == NUM_BLOCKS
        assert {name: block.key for name, block in named_blocks(fresh).items()} == {
            name: block.key for name, block in former.items()
        }

    def test_what_an_interrupted_save_left_goes_with_the_next(self, source, fresh, folder):
        save_cache(source.cache, folder)
        (folder / "kv-7").mkdir()
        (folder / "kv-7" / "part").write_bytes(b"x")
        (folder / "index.json.new").write_bytes(b"{")
        (folder / "kv-notes").mkdir()
        source.put_items([item(40)])
        save_cache(source.cache, folder)
        assert {path.name for path in folder.iterdir()} == {"index.json", "kv-8", "kv-notes"}
        assert restore_cache(fresh.cache, folder).num_blocks == NUM_BLOCKS + 1
