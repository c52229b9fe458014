"""Lines of files, plain or gzipped, the JSON in them, and the messages of bad ones."""

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from rcjax.catalog import CatalogueError
from rcjax.catalog.json_record import json_record
from rcjax.catalog.source import byte_progress, read_lines


def texts(path: Path, *, progress: bool = False) -> list[tuple[str, str]]:
    return [(line.where.removeprefix(f"{path}:"), line.text()) for line in read_lines(path, progress=progress)]


def objects(path: Path, data: bytes) -> list[dict[str, Any]]:
    path.write_bytes(data)
    return [dict(json_record(line).values) for line in read_lines(path, progress=False)]


def test_plain_and_gzipped_lines_are_the_same(tmp_path: Path) -> None:
    data = "one\r\n\n  \nzwölf\nlast".encode()
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    (tmp_path / "b.jsonl").write_bytes(gzip.compress(data))  # its name does not say that it is gzipped
    expected = [("1", "one"), ("4", "zwölf"), ("5", "last")]
    assert texts(tmp_path / "a.jsonl") == expected
    assert texts(tmp_path / "a.jsonl.gz", progress=True) == expected
    assert texts(tmp_path / "b.jsonl") == expected


def test_a_byte_order_mark_is_not_part_of_a_line(tmp_path: Path) -> None:
    """Several files made into one have a mark in the middle, too."""
    data = b'\xef\xbb\xbf{"a": 1}\r\n\xef\xbb\xbf{"a": 2}\r\n\xef\xbb\xbf'
    assert objects(tmp_path / "a.jsonl", data) == [{"a": 1}, {"a": 2}]


def test_lines_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"first\n" + os.urandom(100_000))[:-1000])
    lines = read_lines(path, progress=False)
    assert next(lines).text() == "first"
    with pytest.raises(CatalogueError, match=r"a\.jsonl\.gz:\d+: damaged"):
        list(lines)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n{"a": }\n', r"a\.jsonl:2: not JSON: Expecting value at column 7$"),
        (b'{"a": 1}\n{"a": "x', r"a\.jsonl:2: not JSON: .* at column 7 \(the file ends in this line.* cut off\?\)$"),
        (b'{"a": 1}\n{"a": "x\xc3', r"a\.jsonl:2: not utf-8: byte 9 is 0xc3.* cut off\?\)$"),
        (b"[1]\n", r"a\.jsonl:1: expected a JSON object, got \[1\]; one line is one record"),
        (b'{"a": 1}\n\xff\n', r"a\.jsonl:2: not utf-8: byte 1 is 0xff; convert the file$"),
        (b'{"a": ' + b"[" * 100_000 + b"\n", r"a\.jsonl:1: JSON that is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", r"a\.jsonl:1: JSON with a number of more than 4,300 digits"),
        (b'{"\\ud83d": 1}\n', r"a\.jsonl:1: field '\\ud83d': \\ud83d at character 1 is half a surrogate pair"),
        ('{"a": 1}\n'.encode("utf-16"), r"a\.jsonl: UTF-16 text; convert it to UTF-8"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        objects(tmp_path / "a.jsonl", data)


def test_a_name_with_two_values_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"title": "A", "price": 1, "title": "B", "price": 1}\n')
    (record,) = map(json_record, read_lines(path, progress=False))
    with pytest.raises(CatalogueError, match=r"a\.jsonl:1: field 'title': expected text, got several values for one"):
        record.text("title")
    assert record.number("price") == 1.0


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"none\.jsonl: no such file"):
        texts(tmp_path / "none.jsonl")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"line\n" * 1000)[:-12])
    with pytest.raises(CatalogueError, match=r"cut\.gz:\d+: damaged or truncated gzip data"):
        texts(tmp_path / "cut.gz")
    (tmp_path / "not.gz").write_bytes(b"plain\n")
    with pytest.raises(CatalogueError, match=r"not\.gz:1: damaged, or not gzip data; if it is plain text, take \.gz"):
        texts(tmp_path / "not.gz")
    with pytest.raises(CatalogueError, match=r"cannot be read: Is a directory"):
        texts(tmp_path)
    with pytest.raises(CatalogueError, match=r"a\\x00b.*: not a file's name"):
        texts(tmp_path / "a\0b")


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("rcjax.catalog.source._MAX_LINE_BYTES", 1 << 20)
    (tmp_path / "zeros.gz").write_bytes(gzip.compress(bytes(3 << 20)))
    with pytest.raises(CatalogueError, match=r"zeros\.gz:1: a line of more than 1 MiB; write one record a line"):
        texts(tmp_path / "zeros.gz")


def test_a_message_is_one_line_that_can_be_printed(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\nb\xff.jsonl"))
    path.write_text("[1]\n")
    with pytest.raises(CatalogueError, match=r"/a b\\udcff\.jsonl:1: expected a JSON object") as caught:
        [json_record(line) for line in read_lines(path, progress=False)]
    str(caught.value).encode("utf-8")


def test_progress_shows_bytes_on_a_terminal_only(tmp_path: Path, capsys, monkeypatch) -> None:
    path = tmp_path / "big.jsonl"
    path.write_bytes(b"x" * 3000)
    with byte_progress(path, enabled=True) as show_bytes_read:
        show_bytes_read(1500)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich take stderr for a terminal
    with byte_progress(path, enabled=True) as show_bytes_read:
        show_bytes_read(1500)
    shown = capsys.readouterr().err
    assert "big.jsonl" in shown
    assert "1.5/3.0 kB" in shown
    with byte_progress(path, enabled=False) as show_bytes_read:
        show_bytes_read(1500)
    assert capsys.readouterr().err == ""
