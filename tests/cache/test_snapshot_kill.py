"""Snapshots that are cut off: killed, or on a full disk. The old one is there, or the new one, and nothing else."""

import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from full_disk import full_disk
from snapshot_kit import NUM_BLOCKS, Cache, assert_blocks_are_of, files_of, restore, save, stocked

from rcjax.cache.snapshot import SnapshotStore, open_snapshot, saving
from rcjax.cache.snapshot.manifest import numbers_in, read_manifest
from rcjax.cache.snapshot.retention import values_of
from rcjax.disk import DiskError
from rcjax.errors import ResourceExhaustedError

NUM_KILLS = 12


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "snapshots"


def stop(*_, **__):
    raise KeyboardInterrupt


def blocks_after(number):
    """The blocks that the child's snapshot of that number has."""
    dropped = {f"n{n - 2}" for n in range(3, number + 1, 3)}
    return {("item", f"n{n}") for n in range(1, number + 1)} - {("item", name) for name in dropped}


def test_whenever_it_is_killed_the_old_snapshot_or_the_new_one_is_there(folder):
    here = Path(__file__).parent
    child = subprocess.Popen(
        [sys.executable, str(here / "snapshot_child.py"), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(here)},
    )
    assert child.stdout is not None
    rng = random.Random(0)
    told = 0
    try:
        for _ in range(3 + rng.randrange(3)):
            told = int(child.stdout.readline())
        # Stopped at a random point, what it leaves is looked at as if it had been killed there, and it goes on.
        for _ in range(NUM_KILLS):
            time.sleep(rng.uniform(0.001, 0.03))
            os.kill(child.pid, signal.SIGSTOP)
            os.waitpid(child.pid, os.WUNTRACED)  # until all its threads stand still
            found = newest_is_whole(folder)
            assert found >= told
            told = found
            os.kill(child.pid, signal.SIGCONT)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert newest_is_whole(folder) >= told
    # The next one, of another process, builds on it and takes away what was left behind.
    after = stocked(num_pages=64)
    report = save(after, folder, keep=1)
    assert report.num_blocks == NUM_BLOCKS
    store = SnapshotStore(folder)
    names = {str(path.relative_to(folder)) for path in files_of(folder)}
    assert names == values_of(read_manifest(store))


def newest_is_whole(folder):
    """Restores the newest snapshot, with nothing missing; its number."""
    store = SnapshotStore(folder)
    number = numbers_in(store)[-1]
    cache = Cache(num_pages=20_000)
    restoring = open_snapshot(store, cache.keys, [cache.pool])
    restoring.restore()
    report = restoring.finish()
    assert report.corrupt == ()
    known = {name for name in cache.named_blocks() if name[1].startswith("n")}
    assert known == blocks_after(number)
    assert [record["n"] for some in restoring.records("items") for record in some] == list(range(number))
    return number


@pytest.mark.parametrize("when", ["in the second segment", "in the records", "in the manifest"])
def test_the_former_snapshot_survives_an_interruption(folder, monkeypatch, when):
    source, fresh = stocked(), Cache()
    save(source, folder)
    former, files = dict(source.named_blocks()), files_of(folder)
    source.put("item", "i40"), source.put("history", "w"), source.put("item", "i0", [1, 2], version=1)
    with monkeypatch.context() as patch:
        if when == "in the second segment":
            real, calls = saving.kv_name, []
            patch.setattr(saving, "kv_name", lambda name: stop() if calls else calls.append(1) or real(name))
        else:
            patch.setattr(saving, "write_records" if when == "in the records" else "write_manifest", stop)
        with pytest.raises(KeyboardInterrupt):
            save(source, folder)
    assert files_of(folder) == files, "what was written for nothing is gone"
    assert restore(fresh, folder).num_blocks == NUM_BLOCKS
    assert {name: block.key for name, block in fresh.named_blocks().items()} == {
        name: block.key for name, block in former.items()
    }


@pytest.mark.parametrize("when", ["in a segment", "in the manifest"])
def test_on_a_full_disk_the_former_snapshot_survives_and_a_line_says_so(folder, monkeypatch, when):
    source, fresh = stocked(), Cache()
    save(source, folder)
    former, files = dict(source.named_blocks()), files_of(folder)
    source.put("item", "i40")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if when == "in the manifest":
            patch.setattr(SnapshotStore, "write", writing_but_for("snapshots/", full))
            with pytest.raises(OSError, match="No space left"):
                save(source, folder)
        else:
            with full_disk(100), pytest.raises(DiskError) as caught:
                save(source, folder)
            assert re.fullmatch(
                rf"{folder}/segments/\w+ cannot be written: File too large; [^\n]+", caught.value.message
            )
    assert files_of(folder) == files
    assert restore(fresh, folder).num_blocks == NUM_BLOCKS
    assert fresh.named_blocks().keys() == former.keys()
    assert save(source, folder).num_blocks == NUM_BLOCKS + 1
    assert_blocks_are_of(fresh, source)


def writing_but_for(prefix, fail):
    real = SnapshotStore.write
    return lambda self, name, value: fail() if name.startswith(prefix) else real(self, name, value)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"file/one cannot be written: Not a directory; "):
        save(stocked(), tmp_path / "file" / "one")


def test_two_do_not_write_at_once(folder):
    save(stocked(), folder)
    with SnapshotStore(folder).exclusive(), pytest.raises(ResourceExhaustedError, match="another snapshot"):
        save(stocked(), folder)
    assert save(stocked(), folder).number == 2
