"""Files of every format with some bytes changed: each gives right values or an error that names the file."""

import gzip
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rcjax.catalog import (
    Catalogue,
    CatalogueError,
    Event,
    Item,
    Request,
    User,
    amazon,
    jsonl,
    movielens,
    parquet,
    recbole,
    yelp,
)
from rcjax.catalog.report import ReadLog
from rcjax.catalog.schema import Interaction

SHOP = Catalogue(
    items={
        "a": Item("a", "Läderväska 😀", "Brown.\nWide.", "Ada", ("Bags", "Totes"), 12.5),
        "b": Item("b", "Lamp"),
        "c": Item("c", "Chair", price=0.0),
    },
    users={"u": User("u", (Event("a", "Läderväska", "Nice", 4.5, 10), Event("b", "Lamp"))), "v": User("v")},
    requests=(Request("u", ("b", "a", "c"), "c"), Request("v", ("a",))),
)
EVENTS = (
    {"user_id": "u", "item_id": "a", "rating": 4.5, "timestamp_s": 10, "order": 2},
    {"user_id": "v", "item_id": 7, "title": "ä \ud83d\ude00", "text": "x"},
)
PRODUCT_2014 = {"asin": "B1", "title": "It's &amp; é", "price": 9.5, "categories": [["Beauty", "Bath"], ["Gifts"]]}
PRODUCT_2023 = {
    "parent_asin": "B1",
    "title": "é",
    "description": ["Bright."],
    "categories": ["Home"],
    "price": "$12.99",
}
REVIEW_2014 = {"reviewerID": "A", "asin": "B1", "overall": 5.0, "summary": "é", "unixReviewTime": 1390000000}
REVIEW_2023 = {"user_id": "U", "parent_asin": "B1", "rating": 4.0, "title": "é", "timestamp": 1588687728923}
BUSINESS = {"business_id": "b", "name": "Bär", "city": "Tampa", "categories": "Noodles, Bars"}
YELP_REVIEW = {"user_id": "u", "business_id": "b", "stars": 4.0, "text": "é", "date": "2016-03-09 20:56:38"}
MOVIES = "1::Toy Story (1995)::Animation|Comedy\n2::Café (1996)::Drama\n"
MOVIES_CSV = 'movieId,title,genres\n1,Toy Story (1995),Animation|Comedy\n2,"Café, The (1996)",(no genres listed)\n'
RATINGS = "7::2::4::978300760\n7::1::5::978300700\n"
ATOMIC_ITEMS = (
    "item_id:token\ttitle:token_seq\tprice:float\tgenre:token_seq\n"
    "1\tToy Story\t9.5\tAnimation Comedy\n2\tCafé\t\t['a b', 'c']\n"
)
ATOMIC_EVENTS = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t2\t4.0\t978300760\n8\t1\t5\t97830\n"


@dataclass(frozen=True)
class Case:
    """A file that is right, and its reader."""

    name: str
    data: bytes
    read: Callable[[Path, ReadLog], Iterator[Any]]


def lines(*records: object) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def own_files() -> list[Case]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        jsonl.write_catalogue(SHOP, folder)
        parquet.write_catalogue(SHOP, folder)
        data = {path.name: path.read_bytes() for path in folder.iterdir()}
    cases = [Case("events.jsonl", lines(*EVENTS), jsonl.read_events)]
    for kind in ("items", "users", "requests"):
        read = getattr(jsonl, f"read_{kind}")
        gzipped = data[f"{kind}.jsonl.gz"]
        cases += [Case(f"{kind}.jsonl", gzip.decompress(gzipped), read), Case(f"{kind}.jsonl.gz", gzipped, read)]
        cases.append(Case(f"{kind}.parquet", data[f"{kind}.parquet"], getattr(parquet, f"read_{kind}")))
    return cases


def arrow_stream() -> bytes:
    table = pa.table({"item_id": ["a", "b"], "title": ["é", "B"], "categories": [["x", "y"], []], "price": [1.5, None]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=1)
    return sink.getvalue().to_pybytes()


CASES = [
    *own_files(),
    Case("meta_2014.json", repr(PRODUCT_2014).encode() + b"\n" + lines(PRODUCT_2014), amazon.read_items_2014),
    Case("reviews_2014.json", lines(REVIEW_2014, REVIEW_2014), amazon.read_events_2014),
    Case("meta_2023.jsonl", lines(PRODUCT_2023, PRODUCT_2023), amazon.read_items_2023),
    Case("reviews_2023.jsonl", lines(REVIEW_2023, REVIEW_2023), amazon.read_events_2023),
    Case("movies_1m.dat", MOVIES.encode("latin-1"), movielens.read_items),
    Case("movies_10m.dat", MOVIES.encode("utf-8"), movielens.read_items),
    Case("movies.csv", MOVIES_CSV.encode(), movielens.read_items),
    Case("ratings.dat", RATINGS.encode(), movielens.read_events),
    Case("business.json", lines(BUSINESS, BUSINESS), yelp.read_items),
    Case("review.json", lines(YELP_REVIEW, YELP_REVIEW), yelp.read_events),
    Case("shop.item", ATOMIC_ITEMS.encode(), recbole.read_items),
    Case("shop.inter", ATOMIC_EVENTS.encode(), recbole.read_events),
    Case("data.arrow", arrow_stream(), parquet.read_items),
]
BY_NAME = {case.name: case for case in CASES}


@st.composite
def changes(draw: st.DrawFn, data: bytes) -> bytes:
    """The data with one to three changes: a byte flipped, bytes put in, a part taken out or there twice, an end cut."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(("flip", "insert", "remove", "repeat", "cut")))
        if kind == "flip" and start < len(data):
            data = data[:start] + bytes([data[start] ^ draw(st.integers(1, 255))]) + data[start + 1 :]
        elif kind == "insert":
            data = data[:start] + draw(st.binary(max_size=8)) + data[start:]
        elif kind == "remove":
            data = data[:start] + data[end:]
        elif kind == "repeat":
            data = data[:end] + data[start:]
        elif kind == "cut":
            data = data[:start]
    return data


def outcome(path: Path, case: Case) -> list[Any] | None:
    """What is read, or None for an error, which has to be of ours."""
    try:
        return list(case.read(path, ReadLog()))
    except CatalogueError as error:
        message = str(error)
        assert message.startswith(f"{path}:")
        assert len(message.splitlines()) == 1
        assert len(message) < 1000
        message.encode("utf-8")
        return None


def check(thing: Any) -> None:
    """That what was read can be used: texts are text, ids have no blanks around, numbers are finite."""
    if isinstance(thing, tuple):
        user_id, interactions = thing
        check_texts(user_id)
        assert user_id.strip() == user_id != ""
        for interaction in interactions:
            check(interaction)
    elif isinstance(thing, Item):
        assert thing.item_id.strip() == thing.item_id != ""
        check_texts(thing.item_id, thing.title, thing.description, thing.brand, *thing.categories)
        assert thing.price is None or (math.isfinite(thing.price) and thing.price >= 0)
    elif isinstance(thing, Interaction):
        assert thing.item_id.strip() == thing.item_id != ""
        check_texts(thing.user_id, thing.item_id, thing.title, thing.text)
        assert thing.rating is None or math.isfinite(thing.rating)
    else:
        assert isinstance(thing, Request)
        check_texts(thing.user_id, *thing.candidates)
        assert thing.target is None or thing.target in thing.candidates


def check_texts(*texts: str) -> None:
    for text in texts:
        text.encode("utf-8")


@pytest.mark.parametrize("name", list(BY_NAME))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.data())
def test_a_changed_file_is_read_right_or_named(tmp_path: Path, name: str, drawn: st.DataObject) -> None:
    case = BY_NAME[name]
    path = tmp_path / name
    path.write_bytes(drawn.draw(changes(case.data)))
    for thing in outcome(path, case) or ():
        check(thing)


# what Python's json writes: halves of surrogate pairs, NaN and integers of any size among them
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from((10**400, 1e308, 7.0))
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        ("\ud83d", "\udc00x", "a\0", " a ", "", "7", "$1,234", "1.234,5", "nan", "2020-13-01", "&#55357;")
    ),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
RECORDS = {
    "items.jsonl": {"item_id": "a", "title": "A", "description": "", "brand": "", "categories": [], "price": 1},
    "users.jsonl": {"user_id": "u", "events": [{"item_id": "a", "rating": 1, "timestamp_s": 1}]},
    "requests.jsonl": {"user_id": "u", "candidates": ["a"], "target": "a"},
    "events.jsonl": EVENTS[0],
    "meta_2014.json": PRODUCT_2014 | {"description": "", "brand": ""},
    "reviews_2014.json": REVIEW_2014 | {"reviewText": ""},
    "meta_2023.jsonl": PRODUCT_2023 | {"features": [], "store": ""},
    "reviews_2023.jsonl": REVIEW_2023 | {"text": ""},
    "business.json": BUSINESS | {"address": "", "state": ""},
    "review.json": YELP_REVIEW,
}


@pytest.mark.parametrize("name", list(RECORDS))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.data())
def test_any_value_in_any_field_is_read_or_named(tmp_path: Path, name: str, drawn: st.DataObject) -> None:
    path, record = tmp_path / name, RECORDS[name]
    field = drawn.draw(st.sampled_from(sorted(record)))
    changed = record | {field: drawn.draw(values)}
    as_line = repr if name == "meta_2014.json" and drawn.draw(st.booleans()) else json.dumps
    path.write_bytes(as_line(changed).encode("utf-8", "surrogatepass"))
    for thing in outcome(path, BY_NAME[name]) or ():
        check(thing)


@pytest.mark.parametrize("name", list(BY_NAME))
def test_the_files_are_right_as_they_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BY_NAME[name].data)
    things = outcome(path, BY_NAME[name])
    assert things is not None
    assert len(things) in (2, 3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=st.data())
def test_what_is_read_of_changed_lines_is_what_json_says(tmp_path: Path, drawn: st.DataObject) -> None:
    case = BY_NAME["items.jsonl"]
    data = drawn.draw(changes(case.data))
    path = tmp_path / case.name
    path.write_bytes(data)
    items = outcome(path, case)
    if items is not None:
        records = [json.loads(line) for line in data.decode("utf-8-sig").split("\n") if line.strip(" \t\r\v\f")]
        assert [item.item_id for item in items] == [str(record["item_id"]) for record in records]
        assert [item.title for item in items] == [(record.get("title") or "").strip() for record in records]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(min_value=0), bits=st.integers(1, 255))
def test_no_changed_byte_of_gzip_data_gets_through(tmp_path: Path, position: int, bits: int) -> None:
    case = BY_NAME["items.jsonl.gz"]
    data = bytearray(case.data)
    data[position % len(data)] ^= bits
    path = tmp_path / case.name
    path.write_bytes(data)
    assert outcome(path, case) in (None, list(SHOP.items.values()))
