"""Lines, rows and the messages of bad ones."""

import gzip
from pathlib import Path

import pytest

from rcjax.catalog.source import CatalogueError, Row, byte_progress, read_json_rows, read_lines


def test_plain_and_gzipped_lines_are_the_same(tmp_path: Path) -> None:
    data = "one\r\n\n  \nzwölf\nlast".encode()
    (tmp_path / "a.jsonl").write_bytes(data)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data))
    expected = [(1, "one"), (4, "zwölf"), (5, "last")]
    assert list(read_lines(tmp_path / "a.jsonl", progress=False)) == expected
    assert list(read_lines(tmp_path / "a.jsonl.gz", progress=True)) == expected


def test_a_byte_order_mark_is_not_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n')
    assert [row.values for row in read_json_rows(path, progress=False)] == [{"a": 1}]


def test_lines_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 1}\nbroken\n')
    rows = read_json_rows(path, progress=False)
    assert next(rows).values == {"n": 1}
    with pytest.raises(CatalogueError):
        next(rows)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n{"a": }\n', r"a\.jsonl:2: not JSON: Expecting value at column 7"),
        (b"[1]\n", r"a\.jsonl:1: expected a JSON object, got \[1\]"),
        (b'{"a": 1}\n\xff\n', r"a\.jsonl:2: not utf-8: byte 0 is 0xff"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    with pytest.raises(CatalogueError, match=message):
        list(read_json_rows(path, progress=False))


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"none\.jsonl: no such file"):
        list(read_lines(tmp_path / "none.jsonl", progress=False))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"line\n" * 1000)[:-12])
    with pytest.raises(CatalogueError, match=r"cut\.gz:\d+: damaged or truncated gzip data"):
        list(read_lines(tmp_path / "cut.gz", progress=False))
    (tmp_path / "not.gz").write_bytes(b"plain\n")
    with pytest.raises(CatalogueError, match=r"not\.gz:1: damaged"):
        list(read_lines(tmp_path / "not.gz", progress=False))


@pytest.mark.parametrize(
    ("values", "read", "message"),
    [
        ({"price": "abc"}, lambda r: r.number("price"), "x:3: field 'price': expected a number, got 'abc'"),
        ({"price": True}, lambda r: r.number("price"), "field 'price': expected a number, got True"),
        ({"price": float("nan")}, lambda r: r.number("price"), "field 'price': expected a number, got nan"),
        ({"price": 10**400}, lambda r: r.number("price"), "field 'price': expected a number, got 1000"),
        ({"t": 1.5}, lambda r: r.integer("t"), "field 't': expected a whole number, got 1.5"),
        ({}, lambda r: r.identifier("item_id"), "x:3: field 'item_id': missing"),
        ({"item_id": 1.5}, lambda r: r.identifier("item_id"), "field 'item_id': expected an id, got 1.5"),
        ({"title": 7}, lambda r: r.text("title"), "field 'title': expected text, got 7"),
        ({"c": "a"}, lambda r: r.texts("c"), "field 'c': expected a list, got 'a'"),
        ({"c": [1]}, lambda r: r.texts("c"), "field 'c': expected a list of text, got the entry 1"),
        ({"c": ["a", ""]}, lambda r: r.identifiers("c"), r"field 'c\[1\]': missing"),
        ({"e": [{}, 3]}, lambda r: list(r.rows("e")), r"field 'e\[1\]': expected an object, got 3"),
        (
            {"e": [{}, {"n": "x"}]},
            lambda r: [e.number("n") for e in r.rows("e")],
            r"x:3: field 'e\[1\]\.n': expected a number, got 'x'",
        ),
    ],
)
def test_a_bad_field_is_named(values: dict[str, object], read, message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        read(Row("x:3", values))


def test_absent_null_and_written_numbers() -> None:
    row = Row("x:1", {"null": None, "empty": "", "written": "12.5", "whole": "7", "id": 42})
    assert [row.number(name) for name in ("absent", "null", "empty", "written")] == [None, None, None, 12.5]
    assert row.integer("whole") == 7
    assert row.identifier("id") == "42"
    assert row.text("null") == ""
    assert row.texts("null") == ()


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
