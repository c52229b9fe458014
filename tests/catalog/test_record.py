"""Fields of records, and the messages of bad ones."""

from decimal import Decimal

import pytest

from rcjax.catalog import CatalogueError
from rcjax.catalog.record import Record


def nested(depth: int) -> list[object]:
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("values", "read", "message"),
    [
        ({"n": "abc"}, lambda r: r.number("n"), "x:3: field 'n': expected a number, got 'abc'"),
        ({"n": True}, lambda r: r.number("n"), "field 'n': expected a number, got True"),
        ({"n": float("nan")}, lambda r: r.number("n"), "field 'n': expected a number, got nan; leave it out"),
        ({"n": "nan"}, lambda r: r.number("n"), "field 'n': expected a number, got 'nan'"),
        ({"n": "1_000"}, lambda r: r.number("n"), "field 'n': expected a number, got '1_000'"),
        ({"n": "١٢"}, lambda r: r.number("n"), "field 'n': expected a number, got '١٢'"),
        ({"n": b"12"}, lambda r: r.number("n"), "field 'n': expected a number, got b'12'"),
        ({"n": Decimal("sNaN")}, lambda r: r.number("n"), "field 'n': expected a number, got Decimal"),
        ({"n": 10**400}, lambda r: r.number("n"), "field 'n': expected a number, got 1000"),
        (
            {"n": 10**5000},
            lambda r: r.number("n"),
            "field 'n': expected a number, got a number of more than 4,300 digits",
        ),
        ({"n": nested(100_000)}, lambda r: r.number("n"), r"field 'n': expected a number, got \[\[\[\.\.\.\]\]\]"),
        ({"n": 5.5}, lambda r: r.number("n", low=0.0, high=5.0), "field 'n': expected a number from 0 to 5, got 5.5"),
        ({"t": 1.5}, lambda r: r.timestamp("t"), "field 't': expected a whole number, got 1.5"),
        ({"t": 1588687728923}, lambda r: r.timestamp("t"), "field 't': expected a time in s .* in another unit"),
        ({"t": -(10**11)}, lambda r: r.timestamp("t"), "field 't': expected a time in s since 1970, got -1000"),
        ({}, lambda r: r.identifier("id"), "x:3: field 'id': missing"),
        ({"id": " \t"}, lambda r: r.identifier("id"), "x:3: field 'id': missing"),
        ({"id": 1.5}, lambda r: r.identifier("id"), "field 'id': expected an id, got 1.5; write text or a whole"),
        ({"id": 7.0}, lambda r: r.identifier("id"), "field 'id': expected an id, got 7.0"),
        ({"id": False}, lambda r: r.identifier("id"), "field 'id': expected an id, got False"),
        ({"id": 10**5000}, lambda r: r.identifier("id"), "field 'id': expected an id, got a number of more than 4,300"),
        ({"id": "a "}, lambda r: r.identifier("id"), "field 'id': blanks around the id 'a '; take them away"),
        ({"id": "a\0b"}, lambda r: r.identifier("id"), r"field 'id': a control character in the id 'a\\x00b'"),
        ({"id": "u\ud83d"}, lambda r: r.identifier("id"), r"field 'id': \\ud83d at character 2 is half a surrogate"),
        ({"title": 7}, lambda r: r.text("title"), "field 'title': expected text, got 7"),
        ({"title": "ab\ude00c"}, lambda r: r.text("title"), r"field 'title': \\ude00 at character 3 is half a surr"),
        ({"c": "a"}, lambda r: r.texts("c"), "field 'c': expected a list, got 'a'"),
        ({"c": [1]}, lambda r: r.texts("c"), "field 'c': expected a list of text, got the entry 1"),
        ({"c": ["a", "\udfff"]}, lambda r: r.texts("c"), r"field 'c': \\udfff at character 1"),
        ({"c": ["a", ""]}, lambda r: r.identifiers("c"), r"field 'c\[1\]': missing"),
        ({"e": [{}, 3]}, lambda r: list(r.records("e")), r"field 'e\[1\]': expected an object, got 3"),
        ({"e": [{"\ud800": 3}]}, lambda r: list(r.records("e")), r"field 'e\[0\]\.\\ud800': \\ud800 at character 1"),
        (
            {"e": [{}, {"n": "x"}]},
            lambda r: [e.number("n") for e in r.records("e")],
            r"x:3: field 'e\[1\]\.n': expected a number, got 'x'",
        ),
    ],
)
def test_a_bad_field_is_named(values: dict[str, object], read, message: str) -> None:
    with pytest.raises(CatalogueError, match=message) as caught:
        read(Record("x:3", values))
    assert len(str(caught.value)) < 200


def test_absent_null_and_written_numbers() -> None:
    values = {"null": None, "empty": " ", "written": " 12.5", "small": "-.5e1", "whole": "7", "exact": Decimal("7.25")}
    record = Record("x:1", values)
    names = ("absent", "null", "empty", "written", "small", "exact")
    assert [record.number(name) for name in names] == [None, None, None, 12.5, -5.0, 7.25]
    assert [record.timestamp(name) for name in ("absent", "whole")] == [None, 7]
    assert Record("x:1", {"t": 1588687728923}).timestamp("t", unit="ms") == 1588687728923
    assert record.text("null") == ""
    assert record.texts("null") == ()


def test_ids_are_text_or_whole_numbers() -> None:
    values = {"whole": 42, "written": "7.0", "blank inside": "a b", "pair": "\ud83d\ude00", "joined": "👩\u200d🚀"}
    record = Record("x:1", values)
    assert [record.identifier(name) for name in record.values] == ["42", "7.0", "a b", "😀", "👩\u200d🚀"]
