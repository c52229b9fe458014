"""The project's own files: round trips, joins, time order, and what is left out."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rcjax.catalog import (
    Catalogue,
    CatalogueError,
    CataloguePaths,
    Event,
    Item,
    Request,
    User,
    jsonl,
    load_catalogue,
    parquet,
)

WRITERS = {"jsonl": jsonl.write_catalogue, "parquet": parquet.write_catalogue}
SHOP = Catalogue(
    items={
        "a": Item("a", "Läderväska", "Brown.\nWide.", "Ada", ("Bags", "Totes"), 12.5),
        "b": Item("b", "Lamp"),
        "c": Item("c", "Chair", price=0.0),
    },
    users={
        "u": User("u", (Event("a", "Läderväska", "Nice", 4.5, 10), Event("gone", "No longer sold", "", None, 11))),
        "new": User("new"),
    },
    requests=(Request("u", ("b", "a", "c"), "c"), Request("new", ("a",))),
)


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_round_trip(tmp_path: Path, format: str) -> None:
    WRITERS[format](SHOP, tmp_path / "shop")
    catalogue, report = load_catalogue(tmp_path / "shop", format, progress=False)
    assert catalogue == SHOP
    assert list(catalogue.items) == ["a", "b", "c"]
    assert (report.num_items, report.num_users, report.num_events, report.num_requests) == (3, 2, 2, 2)
    assert report.skipped == {}


texts = st.text(st.characters(codec="utf-8"), max_size=12).map(str.strip)
item_fields = st.fixed_dictionaries(
    {
        "title": texts.filter(bool),
        "description": texts,
        "brand": texts,
        "categories": st.lists(texts.filter(bool), max_size=3).map(tuple),
        "price": st.none() | st.floats(0, 1e6),
    }
)


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@settings(max_examples=30, deadline=None)
@given(things=st.lists(item_fields, max_size=5))
def test_any_text_round_trips(tmp_path_factory, format: str, things: list[dict[str, Any]]) -> None:
    folder = tmp_path_factory.mktemp(format)
    shop = Catalogue({str(n): Item(str(n), **fields) for n, fields in enumerate(things)}, {})
    WRITERS[format](shop, folder)
    assert load_catalogue(folder, format, progress=False)[0] == shop


def test_gzip_bytes_depend_on_the_records_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        jsonl.write_catalogue(SHOP, tmp_path / name)
    first, second = ((tmp_path / name / "items.jsonl.gz").read_bytes() for name in ("one", "two"))
    assert first == second


def test_a_flat_stream_is_put_in_time_order(tmp_path: Path) -> None:
    write_lines(tmp_path / "items.jsonl", *({"item_id": i, "title": i.upper()} for i in "abcdef"))
    write_lines(
        tmp_path / "interactions.jsonl",
        {"user_id": "u", "item_id": "a", "timestamp_s": 20},
        {"user_id": "u", "item_id": "b", "timestamp_s": 10, "order": 2},
        {"user_id": "v", "item_id": "c", "rating": 5.0, "order": 1},
        {"user_id": "u", "item_id": "d", "timestamp_s": 10, "order": 1},
        {"user_id": "v", "item_id": "e", "order": 0},
        {"user_id": "u", "item_id": "f", "timestamp_s": 20},
    )
    catalogue, _ = load_catalogue(tmp_path, progress=False)
    assert [event.item_id for event in catalogue.users["u"].events] == ["d", "b", "a", "f"]
    assert catalogue.users["v"].events == (Event("e", "E"), Event("c", "C", rating=5.0))


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    paths = CataloguePaths(
        items=write_lines(
            tmp_path / "things.jsonl",
            {"item_id": "a", "title": "A"},
            {"item_id": "b", "title": " "},
            {"item_id": "c"},
            {"item_id": "a", "title": "Another A"},
        ),
        events=write_lines(
            tmp_path / "clicks.jsonl",
            {"user_id": "u", "item_id": "a"},
            {"user_id": "u", "item_id": "b"},
            {"user_id": "u", "item_id": "b", "title": "Known by its own title"},
        ),
        requests=write_lines(
            tmp_path / "asked.jsonl",
            {"user_id": "u", "candidates": ["a"]},
            {"user_id": "u", "candidates": ["a", "b"]},
            {"user_id": "nobody", "candidates": ["a"]},
            {"user_id": "u", "candidates": ["a", "a"]},
        ),
    )
    catalogue, report = load_catalogue(paths, "jsonl", progress=False)
    assert catalogue.items == {"a": Item("a", "A")}
    assert [event.title for event in catalogue.users["u"].events] == ["A", "Known by its own title"]
    assert catalogue.requests == (Request("u", ("a",)),)
    assert report.skipped == {
        "item without a title": 2,
        "item whose id came before": 1,
        "event of an unknown item, without a title": 1,
        "request with an unknown candidate": 1,
        "request of an unknown user": 1,
        "request with a candidate twice": 1,
    }
    assert report.lines()[0] == "left out 2 records: item without a title"


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("items", {"item_id": "x", "title": "a\ud83d"}, r"field 'title': \\ud83d at character 2 is half"),
        ("users", {"user_id": "u\ud83d", "events": []}, r"field 'user_id': \\ud83d at character 2 is half"),
        (
            "users",
            {"user_id": "u", "events": [{"item_id": "\0"}]},
            r"field 'events\[0\]\.item_id': a control character",
        ),
        ("items", {"title": "X"}, "field 'item_id': missing"),
        ("users", {"user_id": "u", "events": [{"title": "X"}]}, r"field 'events\[0\]\.item_id': missing"),
        ("events", {"item_id": "a"}, "field 'user_id': missing"),
        ("events", {"user_id": "u", "item_id": "a", "timestamp_s": "noon"}, "field 'timestamp_s': expected a number"),
        (
            "events",
            {"user_id": "u", "item_id": "a", "rating": float("nan")},
            "field 'rating': expected a number, got nan",
        ),
        ("requests", {"user_id": "u", "candidates": []}, "field 'candidates': missing"),
        ("requests", {"user_id": "u", "candidates": ["a"], "target": "b"}, "field 'target': 'b' is not among"),
    ],
)
def test_a_bad_record_is_named(tmp_path: Path, name: str, record: dict[str, object], message: str) -> None:
    good = {"items": {"item_id": "a", "title": "A"}, "requests": {"user_id": "u", "candidates": ["a"]}}
    write_lines(tmp_path / "items.jsonl", good["items"])
    write_lines(tmp_path / f"{name}.jsonl", good.get(name, {"user_id": "u", "item_id": "a"}), record)
    with pytest.raises(CatalogueError, match=rf"{name}\.jsonl:2: {message}"):
        load_catalogue(tmp_path, progress=False)


def test_a_folder_must_be_clear_about_its_files(tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match=r"absent: no such folder"):
        load_catalogue(tmp_path / "absent", progress=False)
    with pytest.raises(CatalogueError, match=r"no file called items\.jsonl, plain or \.gz"):
        load_catalogue(tmp_path, progress=False)
    write_lines(tmp_path / "items.jsonl", {"item_id": "a", "title": "A"})
    write_lines(tmp_path / "events.jsonl")
    write_lines(tmp_path / "interactions.jsonl")
    with pytest.raises(CatalogueError, match=r"events\.jsonl, interactions\.jsonl all fit"):
        load_catalogue(tmp_path, progress=False)


def test_an_unknown_format_or_policy_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises((CatalogueError, TypeError), match="amazon2014"):
        load_catalogue(tmp_path, "csv", progress=False)
    with pytest.raises((CatalogueError, TypeError), match="stop"):
        load_catalogue(tmp_path, progress=False, on_error="ignore")
