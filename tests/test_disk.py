"""Files are written whole or not at all, and what a disk says against it is one line."""

import errno
import os
from pathlib import Path

import pytest
from full_disk import full_disk

from rcjax.disk import DiskError, check_folder, make_folder, write_whole, writing

ADVICE = "; see to room and permissions there, or name another place"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "Permission denied"),
        (OSError("cannot\ntell"), "cannot tell"),
        (ValueError("Error writing:\n Failed [os_error_code='28'] [more]"), "No space left on device"),
        (ValueError("I/O error: File too large (os error 27)"), "File too large"),
        (ValueError("x" * 1000), "x" * 200),
        (ValueError(), "ValueError"),
    ],
)
def test_the_reason_is_one_line(error: Exception, reason: str) -> None:
    with pytest.raises(DiskError) as caught, writing(Path("a/b"), ValueError):
        raise error
    assert caught.value.message == f"a/b cannot be written: {reason}{ADVICE}"


def test_other_errors_are_not_the_disks() -> None:
    with pytest.raises(ValueError, match="of the caller"), writing(Path("a")):
        raise ValueError("of the caller")


def test_a_file_is_replaced_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "é.json"
    write_whole(path, "old é")
    with full_disk(1000), pytest.raises(DiskError, match=r"é\.json cannot be written: File too large"):
        write_whole(path, "x" * 2000)
    assert [file.name for file in tmp_path.iterdir()] == ["é.json"]
    assert path.read_text("utf-8") == "old é"
    write_whole(path, "new")
    assert path.read_text() == "new"


def test_what_cannot_be_put_in_place_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="No space left on device"):
        write_whole(tmp_path / "a", "x")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_tried(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    check_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "below"):
        for tried in (make_folder, check_folder):
            with pytest.raises(DiskError, match=r"file.* cannot be written: "):
                tried(wrong)
    with pytest.raises(DiskError, match=f"none cannot be written: No such file or directory{ADVICE}"):
        check_folder(tmp_path / "none")
    with full_disk(0), pytest.raises(DiskError, match="File too large"):
        check_folder(tmp_path)
