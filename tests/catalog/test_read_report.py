"""What a load does about records that it cannot read, and what it tells of them."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rcjax.catalog import CatalogueError, load_catalogue


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines))
    return path


def item(item_id: object, **fields: object) -> str:
    return json.dumps({"item_id": item_id, "title": f"Item {item_id}", **fields})


def test_errors_are_skipped_on_demand_and_the_first_ten_are_told(tmp_path: Path) -> None:
    bad = ["{", "[]", item(None), item("b", title=7), item("b", title="\ud83d"), item("b", title="B")[:-3]]
    path = write(tmp_path / "items.jsonl", item("a"), *bad, *bad, item("z"))
    with pytest.raises(CatalogueError, match=r"items\.jsonl:2: not JSON"):
        load_catalogue(tmp_path, progress=False)
    catalogue, report = load_catalogue(tmp_path, progress=False, on_error="skip")
    assert list(catalogue.items) == ["a", "z"]
    assert report.num_errors == 12
    assert len(report.errors) == 10
    assert [error.split(": ")[0] for error in report.errors] == [f"{path}:{number}" for number in range(2, 12)]
    lines = report.lines()
    assert lines[0] == "left out 12 records with an error, the first 10 of them:"
    assert [line.strip() for line in lines[1:]] == list(report.errors)


def test_errors_of_all_files_are_skipped(tmp_path: Path) -> None:
    write(tmp_path / "items.jsonl", item("a"))
    write(tmp_path / "users.jsonl", '{"user_id": "u"}', '{"user_id": "v", "events": [{}]}')
    write(tmp_path / "events.jsonl", '{"user_id": "u", "item_id": "a"}', '{"user_id": "u"}')
    write(tmp_path / "requests.jsonl", '{"user_id": "u", "candidates": []}', '{"user_id": "u", "candidates": ["a"]}')
    catalogue, report = load_catalogue(tmp_path, progress=False, on_error="skip")
    assert (list(catalogue.users), len(catalogue.requests)) == (["u"], 1)
    places = [Path(error.split(": ")[0]).name for error in report.errors]
    assert places == ["users.jsonl:2", "events.jsonl:2", "requests.jsonl:1"]


def test_rows_of_parquet_are_skipped_too(tmp_path: Path) -> None:
    pq.write_table(pa.table({"item_id": ["a", None, "c"], "title": ["A", "B", "C"]}), tmp_path / "items.parquet")
    catalogue, report = load_catalogue(tmp_path, "parquet", progress=False, on_error="skip")
    assert list(catalogue.items) == ["a", "c"]
    assert report.errors == (f"{tmp_path}/items.parquet: row 2: field 'item_id': missing",)


def test_a_file_that_is_wrong_as_a_whole_is_not_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "items.jsonl", *[item("a")[:-1]] * 10)
    assert load_catalogue(tmp_path, progress=False, on_error="skip")[1].num_errors == 10
    write(path, *[item("a")[:-1]] * 11)
    with pytest.raises(CatalogueError, match=r"items\.jsonl: none of its 11 records can be read; the first: .*:1: not"):
        load_catalogue(tmp_path, progress=False, on_error="skip")
    path.write_bytes(gzip.compress(b"".join(item(n).encode() + b"\n" for n in range(1000)))[:-9])
    with pytest.raises(CatalogueError, match=r"items\.jsonl:1001: damaged or truncated gzip data"):
        load_catalogue(tmp_path, progress=False, on_error="skip")


def test_prices_that_are_not_clear_are_left_out_and_told(tmp_path: Path) -> None:
    prices = (12.5, "12,50", None, "", "ask us", float("nan"), -1)
    path = write(tmp_path / "items.jsonl", *(item(n, price=price) for n, price in enumerate(prices)))
    catalogue, report = load_catalogue(tmp_path, progress=False)
    assert [item.price for item in catalogue.items.values()] == [12.5, 12.5, *[None] * 5]
    assert report.num_unread_prices == 3
    assert report.lines() == (
        f"left out 3 prices that are not clear, such as {path}:5: field 'price': 'ask us' (not a price)",
    )


def test_a_load_without_a_fault_has_nothing_to_tell(tmp_path: Path) -> None:
    write(tmp_path / "items.jsonl", item("a", price=3))
    assert load_catalogue(tmp_path, progress=False)[1].lines() == ()
