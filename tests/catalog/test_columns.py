"""Columns that settings name, in both formats that have them; and names that nothing would read."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rcjax.catalog import Catalogue, CatalogueError, CataloguePaths, Columns, Event, Item, User, load_catalogue

ITEMS = {"asin": ["a", "b"], "name": ["Lamp", "Rug"], "title": ["x", "y"], "store": ["Ada", None], "cost": [1.5, None]}
EVENTS = {"who": ["u", "u"], "asin": ["b", "a"], "stars": [4.0, 5.0], "at": [20, 10]}
COLUMNS = Columns(
    items={"item_id": "asin", "title": "name", "brand": "store", "price": "cost"},
    events={"user_id": "who", "item_id": "asin", "rating": "stars", "timestamp_s": "at"},
)
SHOP = Catalogue(
    {"a": Item("a", "Lamp", brand="Ada", price=1.5), "b": Item("b", "Rug")},
    {"u": User("u", (Event("a", "Lamp", rating=5.0, timestamp_s=10), Event("b", "Rug", rating=4.0, timestamp_s=20)))},
)
TYPES = {"asin": "token", "who": "token", "stars": "float", "at": "float", "cost": "float"}


def write_parquet(path: Path, table: dict[str, list[Any]]) -> None:
    pq.write_table(pa.table(table), path)


def write_recbole(path: Path, table: dict[str, list[Any]]) -> None:
    rows = [["" if value is None else str(value) for value in row] for row in zip(*table.values(), strict=True)]
    header = [f"{name}:{TYPES.get(name, 'token_seq')}" for name in table]
    path.write_text("".join("\t".join(row) + "\n" for row in [header, *rows]))


WRITERS = {"parquet": write_parquet, "recbole": write_recbole}


@pytest.fixture(params=list(WRITERS))
def files(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, CataloguePaths]:
    """The shop under names of its own, as a format, and the files' paths."""
    write, names = WRITERS[request.param], {"parquet": ("i.parquet", "e.parquet"), "recbole": ("s.item", "s.inter")}
    items, events = (tmp_path / name for name in names[request.param])
    write(items, ITEMS)
    write(events, EVENTS)
    return request.param, CataloguePaths(items, events)


def load(files: tuple[str, CataloguePaths], columns: Columns | None = None) -> Catalogue:
    return load_catalogue(files[1], files[0], progress=False, columns=columns)[0]


def test_named_columns_are_read_and_not_those_of_the_usual_name(files: tuple[str, CataloguePaths]) -> None:
    assert load(files, COLUMNS) == SHOP


def test_a_needed_column_that_is_not_there_lists_those_that_are(files: tuple[str, CataloguePaths]) -> None:
    with pytest.raises(CatalogueError, match=r"no column item_id; it has 'asin', 'name', .*columns\.items\.item_id"):
        load(files)
    with pytest.raises(CatalogueError, match=r"no column user_id; it has 'who', 'asin', .*columns\.events\.user_id"):
        load(files, Columns(items=COLUMNS.items))


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"brand": "maker"}, r"no column 'maker', which catalogue\.columns\.items\.brand names; it has 'asin', 'name'"),
        ({"brnd": "store"}, r"catalogue\.columns\.items: 'brnd' is no field of items; they have item_id, .*'cost'"),
        ({"text": "store"}, "'text' is no field of items"),
    ],
)
def test_names_that_nothing_reads(files: tuple[str, CataloguePaths], named: dict[str, str], message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        load(files, Columns(items={**COLUMNS.items, **named}, events=COLUMNS.events))


def test_an_error_in_a_row_has_the_field_and_the_column(files: tuple[str, CataloguePaths]) -> None:
    with pytest.raises(CatalogueError, match=r"field 'rating' \(column 'asin'\): expected a number, got 'b'"):
        load(files, Columns(items=COLUMNS.items, events={**COLUMNS.events, "rating": "asin"}))


def test_columns_without_a_file_or_a_format_that_has_them(tmp_path: Path) -> None:
    write_parquet(tmp_path / "items.parquet", ITEMS)
    with pytest.raises(CatalogueError, match="names columns, and the catalogue has no file of events"):
        load_catalogue(tmp_path, "parquet", progress=False, columns=COLUMNS)
    (tmp_path / "items.jsonl").write_text('{"item_id": "a", "title": "A"}\n')
    with pytest.raises(CatalogueError, match="is for parquet and recbole; jsonl has names of its own"):
        load_catalogue(tmp_path, "jsonl", progress=False, columns=COLUMNS)
