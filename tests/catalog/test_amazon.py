"""Amazon files, written here in the layouts of 2014 and 2023."""

import gzip
import json
from pathlib import Path

import pytest

from rcjax.catalog import CatalogueError, Event, Item, amazon, load_catalogue
from rcjax.catalog.report import ReadLog

META_2014 = {
    "asin": "B001",
    "title": "Soap &amp; Dish",
    "description": "It's plain.",
    "brand": "Ada",
    "price": 9.5,
    "categories": [["Beauty", "Bath", "Soap"], ["Beauty", "Gifts"]],
    "salesRank": {"Beauty": 12},
}
REVIEW_2014 = {
    "reviewerID": "A1",
    "asin": "B001",
    "overall": 5.0,
    "summary": "Lovely",
    "reviewText": "Smells good.",
    "unixReviewTime": 1390000000,
}
META_2023 = {
    "parent_asin": "B101",
    "title": "Lamp",
    "description": ["Bright.", "Small."],
    "features": ["Dims"],
    "store": "Lux",
    "categories": ["Home", "Lamps"],
    "price": 12.99,
}
REVIEW_2023 = {
    "user_id": "U1",
    "parent_asin": "B101",
    "rating": 4.0,
    "title": "Bright!",
    "text": "Very.",
    "timestamp": 1588687728923,
}


def write(path: Path, *lines: str) -> Path:
    data = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("as_line", [json.dumps, repr], ids=["json", "python literal"])
def test_2014(tmp_path: Path, as_line) -> None:
    untitled = {"asin": "B002", "categories": [["Beauty"]]}
    write(tmp_path / "meta_Beauty.json.gz", as_line(META_2014), as_line(untitled))
    about_untitled = {**REVIEW_2014, "asin": "B002"}
    write(tmp_path / "reviews_Beauty_5.json.gz", json.dumps(REVIEW_2014), json.dumps(about_untitled))
    catalogue, report = load_catalogue(tmp_path, "amazon2014", progress=False)
    categories = ("Beauty", "Bath", "Soap", "Gifts")
    assert catalogue.items == {"B001": Item("B001", "Soap & Dish", "It's plain.", "Ada", categories, 9.5)}
    event = Event("B001", "Soap & Dish", "Lovely. Smells good.", 5.0, 1390000000)
    assert catalogue.users["A1"].events == (event,)
    assert report.skipped == {"item without a title": 1, "event of an unknown item, without a title": 1}


def test_2023(tmp_path: Path) -> None:
    write(tmp_path / "meta_Home.jsonl", json.dumps(META_2023))
    later = {**REVIEW_2023, "timestamp": 1588687728924, "title": "Later"}
    write(tmp_path / "Home.jsonl.gz", json.dumps(later), json.dumps(REVIEW_2023))
    catalogue, report = load_catalogue(tmp_path, "amazon2023", progress=False)
    item = Item("B101", "Lamp", "Bright. Small. Dims", "Lux", ("Home", "Lamps"), 12.99)
    assert catalogue.items == {"B101": item}
    # one millisecond apart, so in one second: still in order
    assert catalogue.users["U1"].events == (
        Event("B101", "Lamp", "Bright! Very.", 4.0, 1588687728),
        Event("B101", "Lamp", "Later. Very.", 4.0, 1588687728),
    )
    assert report.num_events == 2


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        ("None", None),
        (None, None),
        ("", None),
        ("—", None),
        ("$12.00", 12.0),
        ("from 12.99", 12.99),
        ("$1,234.50", 1234.5),
        ("$12.00 - $15.00", 12.0),
        (7, 7.0),
    ],
)
def test_2023_prices(tmp_path: Path, price: object, expected: float | None) -> None:
    path = write(tmp_path / "meta.jsonl", json.dumps({**META_2023, "price": price}))
    assert next(amazon.read_items_2023(path, ReadLog())).price == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (json.dumps({**META_2023, "description": "Bright."}), "field 'description': expected a list"),
        (json.dumps({"title": "Lamp"}), "field 'parent_asin': missing"),
    ],
)
def test_a_bad_product_of_2023_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "meta.jsonl", json.dumps(META_2023), line)
    with pytest.raises(CatalogueError, match=rf"meta\.jsonl:2: {message}"):
        list(amazon.read_items_2023(path, ReadLog()))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'asin': 'B1', 'title': open('x')}", "not JSON"),  # a literal is data, never code
        ("{'asin': ", "not JSON"),
        ("['asin']", "not JSON"),
        (repr({**META_2014, "categories": "Beauty"}), "field 'categories': expected a list of paths"),
        (repr({**META_2014, "categories": [[3]]}), r"field 'categories\[0\]': expected a list of text"),
        ("{'asin': 'B1', 'asin': 'B2'}", "a field that is there more than once"),
        ("{[]: 'B1'}", "not JSON"),
        ("{'asin': 1" + "+1" * 5000 + "}", "not JSON"),
        ("{'asin': " + "-" * 5000 + "1}", "not JSON"),
        ("[" * 200_000, "JSON that is nested too deeply"),
        ("{'asin': 'B1', b'title': 'x'}", "expected text as a field's name, got b'title'"),
        (r"{'asin': 'B1', 'title': 'x\ud83d'}", r"field 'title': \\ud83d at character 2 is half a surrogate pair"),
    ],
)
def test_a_bad_product_of_2014_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "meta.json.gz", repr(META_2014), line)
    with pytest.raises(CatalogueError, match=rf"meta\.json\.gz:2: {message}"):
        list(amazon.read_items_2014(path, ReadLog()))


def test_bad_reviews_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "reviews.json", json.dumps({**REVIEW_2014, "overall": "good"}))
    with pytest.raises(CatalogueError, match=r"reviews\.json:1: field 'overall': expected a number, got 'good'"):
        list(amazon.read_events_2014(path, ReadLog()))
    path = write(tmp_path / "reviews.json", json.dumps({**REVIEW_2014, "overall": 6}))
    with pytest.raises(CatalogueError, match=r"reviews\.json:1: field 'overall': expected a number from 0 to 5, got 6"):
        list(amazon.read_events_2014(path, ReadLog()))
    path = write(tmp_path / "reviews.jsonl", json.dumps({**REVIEW_2023, "timestamp": "now"}))
    with pytest.raises(CatalogueError, match=r"reviews\.jsonl:1: field 'timestamp': expected a number, got 'now'"):
        list(amazon.read_events_2023(path, ReadLog()))


def test_literals_as_python_2_wrote_them(tmp_path: Path) -> None:
    r"""Halves of a pair that belong together, and backslashes that escape nothing (of which Python warns)."""
    path = write(
        tmp_path / "meta.json", r"{'asin': 'B1', 'title': '\ud83d\ude00 \d', 'description': '&#" + "9" * 5000 + "'}"
    )
    (item,) = amazon.read_items_2014(path, ReadLog())
    assert item.title == "😀 \\d"
    assert item.description == "&#" + "9" * 5000


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rating", 50, "expected a number from 0 to 5, got 50"),
        ("rating", -1, "expected a number from 0 to 5, got -1"),
        ("timestamp", 1e18, "expected a time in ms since 1970"),
        ("timestamp", 1588687728923.5, "expected a whole number"),
        ("parent_asin", 7.0, "expected an id, got 7.0; write text or a whole number"),
    ],
)
def test_values_out_of_range_are_named(tmp_path: Path, field: str, value: object, message: str) -> None:
    path = write(tmp_path / "reviews.jsonl", json.dumps(REVIEW_2023), json.dumps({**REVIEW_2023, field: value}))
    with pytest.raises(CatalogueError, match=rf"reviews\.jsonl:2: field '{field}': {message}"):
        list(amazon.read_events_2023(path, ReadLog()))
