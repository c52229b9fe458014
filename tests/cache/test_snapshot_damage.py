"""Snapshots that are damaged or of another set-up: nothing wrong is ever restored, and nothing is lost unseen."""

import dataclasses
import json
import re

import numpy as np
import pytest
from snapshot_kit import (
    FORMAT,
    INSTRUCTION_IDS,
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

from rcjax.cache import BlockKeys
from rcjax.cache.snapshot import SnapshotStore, open_snapshot
from rcjax.cache.snapshot.manifest import LAYOUT, manifest_name, read_manifest
from rcjax.cache.snapshot.segments import digest_of
from rcjax.errors import InvalidRequestError, NotFoundError
from rcjax.kernels.kv import KVFormat


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "snapshots"


@pytest.fixture
def source():
    return stocked()


@pytest.fixture
def fresh():
    return Cache()


def change_manifest(folder, **fields):
    """Edits the manifest of snapshot 1, and makes its digest right."""
    path = folder / manifest_name(1)
    content = json.loads(path.read_bytes().partition(b"\n")[2]) | fields
    text = json.dumps(content).encode()
    path.write_bytes(digest_of(text).encode() + b"\n" + text)


def assert_right_or_refused(source, folder):
    """Whatever is restored is right, and what is not is refused or counted; which it was."""
    one = Cache()
    try:
        report = restore(one, folder)
    except InvalidRequestError:
        assert not one.named_blocks()
        outcome = "refused"
    else:
        assert report.num_blocks + len(report.corrupt) == NUM_BLOCKS
        assert len(one.named_blocks()) == report.num_blocks
        outcome = "corrupt" if report.corrupt else "harmless"
    assert_blocks_are_of(one, source)
    one.assert_idle()
    return outcome


class TestDamage:
    def test_a_changed_byte_of_kv_is_a_miss(self, source, fresh, folder):
        save(source, folder)
        (segment, block) = next(found for found in index_of(folder) if found[1].owner == own("i3"))
        path = folder / "segments" / segment
        raw = bytearray(path.read_bytes())
        raw[block.at + block.num_bytes // 2] ^= 0x10
        path.write_bytes(raw)
        report = restore(fresh, folder)
        assert report.corrupt == ("item 'i3'",)
        assert report.num_blocks == NUM_BLOCKS - 1
        assert ("item", "i3") not in fresh.named_blocks()
        assert_blocks_are_of(fresh, source)
        fresh.assert_idle()
        fresh.put("item", "i3")

    def test_every_64th_byte_of_every_file_may_be_flipped(self, source, folder):
        block = source.directory.current("item", own("i3"))
        source.directory.set_order(block, range(block.num_tokens))
        save(source, folder)
        outcomes = {}
        for path in files_of(folder):
            raw = path.read_bytes()
            for at in range(0, len(raw), 64):
                flipped = bytearray(raw)
                flipped[at] ^= 1 << (at // 64 % 8)
                path.write_bytes(flipped)
                outcomes.setdefault(path.parent.name, set()).add(assert_damage_is_told(source, folder))
            path.write_bytes(raw)
        assert outcomes == {"snapshots": {"refused"}, "segments": {"corrupt"}, "library": {"corrupt"}}

    def test_every_file_may_be_cut_off_or_gone(self, source, folder):
        save(source, folder)
        outcomes = {}
        for path in files_of(folder):
            raw = path.read_bytes()
            for length in {0, 1, len(raw) // 3, len(raw) - 1}:
                path.write_bytes(raw[:length])
                outcomes.setdefault(path.parent.name, set()).add(assert_right_or_refused(source, folder))
            path.unlink()
            if path.parent.name != "snapshots":
                outcomes[path.parent.name].add(assert_right_or_refused(source, folder))
            path.write_bytes(raw)
        assert outcomes == {"snapshots": {"refused"}, "segments": {"corrupt"}}

    def test_what_lies_before_a_cut_comes_back(self, source, fresh, folder):
        save(source, folder)
        segment, last = max((f for f in index_of(folder) if f[1].kind == "item"), key=lambda found: found[1].at)
        path = folder / "segments" / segment
        path.write_bytes(path.read_bytes()[:-1])
        assert restore(fresh, folder).corrupt == (str(last),)

    @pytest.mark.parametrize(
        ("field", "changed"),
        [
            ("owner", ["", "i300", ""]),
            ("owner", ["tenant", "i3", ""]),
            ("kind", "history"),
            ("key", "00" * 32),
            ("tokens", "AQAAAAIAAAADAAAA"),
            ("at", 0),
            ("at", 10**6),
            ("num_bytes", 64),
            ("num_pages", 9),
            ("digest", "00" * 32),
        ],
    )
    def test_a_changed_entry_is_refused(self, source, fresh, folder, field, changed):
        """Even where the digest of its index is right, as whoever changes it can see to."""
        save(source, folder)
        path = next(path for path in (folder / "segments").glob("*.index") if b'"i3"' in path.read_bytes())
        index = json.loads(path.read_bytes())
        entry = next(entry for entry in index["blocks"] if entry["owner"] == ["", "i3", ""])
        assert entry[field] != changed
        entry[field] = changed
        path.write_text(json.dumps(index))
        uses = [use.model_dump() for use in read_manifest(SnapshotStore(folder)).segments]
        for use in uses:
            if use["name"] == path.stem:
                use["digest"] = digest_of(path.read_bytes())
        change_manifest(folder, segments=uses)
        report = restore(fresh, folder)
        assert len(report.corrupt) == 1
        assert report.num_blocks == NUM_BLOCKS - 1
        assert ("item", "i3") not in fresh.named_blocks()
        assert_blocks_are_of(fresh, source)
        fresh.assert_idle()

    def test_swapped_segments_are_found(self, source, folder):
        save(source, folder)
        one, other = sorted({segment for segment, _ in index_of(folder)})
        for suffix in ("", ".index"):
            paths = [folder / "segments" / f"{name}{suffix}" for name in (one, other)]
            values = [path.read_bytes() for path in paths]
            for path, value in zip(paths, reversed(values), strict=True):
                path.write_bytes(value)
        assert assert_right_or_refused(source, folder) == "corrupt"

    def test_a_damaged_record_is_refused_and_another_snapshot_named(self, source, folder, library_content):
        save(source, folder, content=library_content(["a", "b"]))
        save(source, folder, content=library_content(["a", "b", "c"]), keep=2)
        store = SnapshotStore(folder)
        newest = open_snapshot(store, source.keys, [source.pool])
        (part,) = newest.manifest.items
        path = folder / "library" / part.digest
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        with pytest.raises(InvalidRequestError, match=r"3 items of snapshot 2 are damaged or missing .* another"):
            list(newest.records("items"))
        before = open_snapshot(store, source.keys, [source.pool], number=1)
        assert [record["item_id"] for some in before.records("items") for record in some] == ["a", "b"]

    def test_a_damaged_manifest_names_the_others(self, source, fresh, folder):
        save(source, folder)
        save(source, folder, keep=2)
        (folder / manifest_name(2)).write_bytes(b"{}")
        with pytest.raises(InvalidRequestError, match=r"00000002\.json is damaged .*restore another \(1\)"):
            restore(fresh, folder)
        assert restore(fresh, folder, number=1).num_blocks == NUM_BLOCKS

    def test_what_is_damaged_is_saved_anew(self, source, folder):
        save(source, folder)
        (folder / manifest_name(1)).write_bytes(b"")
        assert save(source, folder).num_written == NUM_BLOCKS
        assert assert_right_or_refused(source, folder) == "harmless"
        for path in (folder / "segments").glob("*.index"):
            path.write_bytes(b"")
        assert save(source, folder).num_written == NUM_BLOCKS
        assert assert_right_or_refused(source, folder) == "harmless"

    def test_no_snapshot(self, fresh, folder):
        with pytest.raises(NotFoundError, match=re.escape(str(folder))):
            restore(fresh, folder)
        assert not folder.exists()
        save(stocked(), folder)
        with pytest.raises(NotFoundError, match=r"no snapshot 7 in .* there are 1"):
            restore(fresh, folder, number=7)

    @pytest.mark.parametrize("fields", [{"version": 3}, {"segments": [{"name": "../x"}]}, {"unknown": 1}])
    def test_another_version_is_refused(self, source, fresh, folder, fields):
        save(source, folder)
        change_manifest(folder, **fields)
        with pytest.raises(InvalidRequestError, match=r"damaged or of another version"):
            restore(fresh, folder)

    def test_a_failing_write_leaves_nothing_reserved(self, source, fresh, folder):
        save(source, folder)

        def fail(*_):
            raise RuntimeError("device lost")

        fresh.pages.start_write = fail
        with pytest.raises(RuntimeError, match="device lost"):
            restore(fresh, folder)
        assert not fresh.named_blocks()
        fresh.assert_idle()


def assert_damage_is_told(source, folder):
    """As `assert_right_or_refused`, where an order may be what is damaged."""
    one = Cache()
    try:
        report = restore(one, folder)
    except InvalidRequestError:
        assert not one.named_blocks()
        return "refused"
    assert_blocks_are_of(one, source)
    assert report.num_blocks + len(report.corrupt) == NUM_BLOCKS or report.corrupt[0].startswith("an order in ")
    return "corrupt" if report.corrupt else "harmless"


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

    def test_another_salt_is_refused_without_telling_it(self, source, fresh, folder):
        salts = [b"salt of the past 0123", b"salt of today 0123456"]
        source = Cache(salt=salts[0])
        source.put("item", "i1")
        save(source, folder)
        assert not any(salt in path.read_bytes() for salt in salts for path in files_of(folder))
        fresh = Cache(salt=salts[1])
        with pytest.raises(InvalidRequestError) as error:
            restore(fresh, folder)
        theirs, ours = (BlockKeys(fresh.keys.identity, [1], salt).identity.key_salt for salt in salts)
        assert f"key_salt is {theirs!r} there and {ours!r} here" in str(error.value)
        assert str(error.value).endswith("or set server.key_salt_file to the salt that it was saved with")
        assert str(error.value).count(" there ") == 1
        assert not any(salt.decode() in str(error.value) for salt in salts)
        assert not fresh.named_blocks()
        assert restore(Cache(salt=salts[0]), folder).num_blocks == 1

    def test_all_that_differs_is_named(self, source, folder):
        save(source, folder)
        change_manifest(folder, layout="another")
        kv_format = KVFormat("float32", FORMAT.num_layers, FORMAT.num_kv_heads, 5, FORMAT.page_tokens)
        fresh = Cache(kv_format=kv_format)
        fresh.keys = BlockKeys(dataclasses.replace(fresh.keys.identity, model_fingerprint="tuned"), INSTRUCTION_IDS)
        with pytest.raises(InvalidRequestError) as error:
            restore(fresh, folder)
        for name, theirs, ours in (
            ("model_fingerprint", "model", "tuned"),
            ("kv_shape", (2, 2, 3), (2, 2, 5)),
            ("layout", "another", LAYOUT),
        ):
            assert f"{name} is {theirs!r} there and {ours!r} here" in str(error.value)

    def test_another_instruction_is_refused(self, source, fresh, folder):
        save(source, folder)
        fresh.keys = BlockKeys(fresh.keys.identity, [1, 2])
        with pytest.raises(InvalidRequestError, match="instruction is"):
            restore(fresh, folder)

    def test_the_snapshots_of_another_set_up_stay_until_their_turn(self, source, folder):
        save(source, folder)
        other = stocked()
        other.keys = BlockKeys(dataclasses.replace(other.keys.identity, model_fingerprint="tuned"), INSTRUCTION_IDS)
        renewed = Cache()
        renewed.keys = other.keys
        renewed.put("item", "i0")
        assert save(renewed, folder, keep=2).num_written == 1
        assert restore(Cache(), folder, number=1).num_blocks == NUM_BLOCKS
        save(renewed, folder, keep=2)
        with pytest.raises(NotFoundError):
            restore(Cache(), folder, number=1)


@pytest.fixture
def library_content():
    from rcjax.cache.snapshot import Content

    def of(item_ids):
        return Content(items=lambda: {name: lambda name=name: {"item_id": name} for name in item_ids})

    return of


def test_flips_were_of_every_kind_of_byte(source, folder):
    """The sweep above is no sample by chance: files are larger than a few steps of it."""
    save(source, folder)
    assert all(path.stat().st_size > 3 * 64 for path in files_of(folder))
    assert np.prod(FORMAT.shape(1)) * 4 > 64
