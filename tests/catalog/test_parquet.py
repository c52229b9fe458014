"""Parquet files of other writers: column types, row groups, and damage with its place."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rcjax.catalog import Catalogue, CatalogueError, CataloguePaths, Event, Item, User, load_catalogue, parquet


def items_of(path: Path, table: pa.Table, **options: object) -> list[Item]:
    pq.write_table(table, path, **options)
    return list(load_catalogue(CataloguePaths(path), "parquet", progress=False)[0].items.values())


def test_files_are_read_across_row_groups_and_batches(tmp_path: Path) -> None:
    ids = [f"i{n}" for n in range(10_000)]
    table = pa.table({"item_id": ids, "title": ids})
    assert [item.item_id for item in items_of(tmp_path / "a.parquet", table, row_group_size=6000)] == ids


def test_the_types_of_other_writers(tmp_path: Path) -> None:
    names = pa.array(["A", "B"])
    columns = {
        "item_id": pa.array([1, 2], pa.int32()),
        "title": names.dictionary_encode(),
        "description": names.cast(pa.large_string()),
        "brand": pa.nulls(2),
        "categories": pa.array([["x"], None], pa.large_list(pa.string())),
        "price": pa.array([Decimal("12.99"), None], pa.decimal128(8, 2)),
        "when": pa.array([1, 2], pa.timestamp("ns")),  # of no interest, and Python has no nanoseconds
    }
    assert items_of(tmp_path / "a.parquet", pa.table(columns)) == [
        Item("1", "A", "A", "", ("x",), 12.99),
        Item("2", "B", "B"),
    ]


@pytest.mark.parametrize(
    ("kind", "prices", "expected"),
    [
        (pa.float32(), [12.99, float("nan"), None], [12.99, None, None]),
        (pa.string(), ["$1,234.50", "ask us", ""], [1234.5, None, None]),
        (pa.int16(), [3, -3, None], [3.0, None, None]),
    ],
    ids=str,
)
def test_prices(tmp_path: Path, kind: pa.DataType, prices: list[object], expected: list[object]) -> None:
    table = pa.table({"item_id": ["a", "b", "c"], "title": ["A", "B", "C"], "price": pa.array(prices, kind)})
    pq.write_table(table, tmp_path / "items.parquet")
    catalogue, report = load_catalogue(tmp_path, "parquet", progress=False)
    assert [item.price for item in catalogue.items.values()] == expected
    assert report.num_unread_prices == 1
    assert f"{tmp_path}/items.parquet: row 2: field 'price': " in str(report.unread_price)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"title": pa.array([[1], [2]])}, r": row 1: field 'title': expected text, got \[1\]"),
        ({"title": pa.array([b"A", b"B"])}, r": row 1: field 'title': expected text, got b'A'"),
        ({"title": pa.array([{"en": "A"}, {"en": "B"}])}, r": row 1: field 'title': expected text, got {'en': 'A'}"),
        ({"item_id": pa.array([7.0, None])}, r": row 1: field 'item_id': expected an id, got 7\.0"),
        ({"item_id": pa.array(["a", None])}, r": row 2: field 'item_id': missing"),
        ({"categories": pa.array(["x", "y"])}, r": row 1: field 'categories': expected a list, got 'x'"),
        (
            {"title": pa.array([1, 2], pa.timestamp("ns"))},
            # where pandas is installed Arrow gives one of its types
            r": (row group 1, column 'title' of type timestamp\[ns\]: cannot|row 1: .* expected text, got Time)",
        ),
        (
            {"title": pa.array([b"A", b"\xff"]).view(pa.string())},
            r": row group 1, column 'title' of type string: cannot be read: 'utf-8' codec can't decode",
        ),
    ],
)
def test_a_column_of_another_type_is_named(tmp_path: Path, columns: dict[str, pa.Array], message: str) -> None:
    good = {"item_id": pa.array(["a", "b"]), "title": pa.array(["A", "B"])}
    with pytest.raises(CatalogueError, match=rf"items\.parquet{message}"):
        items_of(tmp_path / "items.parquet", pa.table(good | columns))


def test_columns_that_are_missing_or_there_twice(tmp_path: Path) -> None:
    advice = r"name the one that is meant in catalogue\.columns\.items\.item_id"
    with pytest.raises(CatalogueError, match=rf"a\.parquet: no column item_id; it has 'sku', 'title'; {advice}"):
        items_of(tmp_path / "a.parquet", pa.table({"sku": ["a"], "title": ["A"]}))
    with pytest.raises(CatalogueError, match=r"a\.parquet: no column title; it has 'item_id'; name the one"):
        items_of(tmp_path / "a.parquet", pa.table({"item_id": ["a"]}))
    twice = pa.table([pa.array(["a"]), pa.array(["A"]), pa.array(["B"])], names=["item_id", "title", "title"])
    with pytest.raises(CatalogueError, match=r"a\.parquet: column 'title' is there more than once"):
        items_of(tmp_path / "a.parquet", twice)


def test_a_time_is_not_taken_for_seconds(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["a"], "title": ["A"]}), tmp_path / "items.parquet")
    when = pa.array([datetime(2020, 1, 1, tzinfo=UTC)])
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["a"], "timestamp_s": when}), tmp_path / "events.parquet")
    with pytest.raises(CatalogueError, match=r"events\.parquet: row 1: field 'timestamp_s': expected a number"):
        load_catalogue(tmp_path, "parquet", progress=False)


def test_what_is_no_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    for data in (b"", b"PAR1", b"not parquet, but long enough to be looked at", b"PAR1" + bytes(100) + b"PAR1"):
        path.write_bytes(data)
        with pytest.raises(CatalogueError, match=r"items\.parquet: not a readable Parquet file"):
            load_catalogue(tmp_path, "parquet", progress=False)
    with pytest.raises(CatalogueError, match=r"none\.parquet: no such file"):
        load_catalogue(CataloguePaths(tmp_path / "none.parquet"), "parquet", progress=False)


def test_a_changed_byte_in_a_page_is_noticed(tmp_path: Path) -> None:
    """Pages that the project writes have checksums, so that "Lamp" does not become "Lamq"."""
    titles = [f"Lamp {n}" for n in range(100)]
    events = tuple(Event(f"i{n}", title, "Nice") for n, title in enumerate(titles))
    shop = Catalogue({f"i{n}": Item(f"i{n}", title) for n, title in enumerate(titles)}, {"u": User("u", events)})
    parquet.write_catalogue(shop, tmp_path)
    path = tmp_path / "items.parquet"
    data = bytearray(path.read_bytes())
    data[data.index(b"Lamp")] ^= 1
    path.write_bytes(data)
    with pytest.raises(CatalogueError, match=r"items\.parquet: row group 1, column 'title': cannot be read, damaged\?"):
        load_catalogue(tmp_path, "parquet", progress=False)


def test_rows_that_the_footer_has_and_the_file_has_not_are_missed(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    ids = [f"i{n}" for n in range(100)]
    pq.write_table(pa.table({"item_id": ids, "title": ids}), path)
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    # the footer's first 64-bit integer that is 100: in Thrift's compact protocol 200 as a varint
    num_rows, more_rows = b"\x16\xc8\x01", b"\x16\xca\x01"
    path.write_bytes(data[:footer] + data[footer:].replace(num_rows, more_rows, 1))
    with pytest.raises(CatalogueError, match=r"items\.parquet: damaged: 100 rows where its footer has 101"):
        load_catalogue(tmp_path, "parquet", progress=False)
