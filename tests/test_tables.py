"""Tables: what pandas has of items and events becomes what the JSONL readers make of the same records."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import rcjax
from rcjax.catalog import CatalogueError, load_catalogue
from rcjax.catalog.types import Event, Item, User
from rcjax.evaluation.fidelity import Fidelity
from rcjax.evaluation.frame import summary_rows
from rcjax.evaluation.summary import ArmSummary, BaselineSummary, Estimate, TokenShares
from rcjax.request import RankedItem, RecommendResult, StageTimes, TokenCounts
from rcjax.tables import frame_of, items_from_pandas, users_from_pandas

ITEMS = [
    {"item_id": "a", "title": "Mug", "description": "Holds 350 ml.", "brand": "Farn", "price": 12.5},
    {"item_id": "b", "title": "Pot", "categories": ["Kitchen", "Tea"]},
    {"item_id": "c", "title": "Rug", "price": 80},
]
EVENTS = [
    {"user_id": "u", "item_id": "a", "rating": 4, "timestamp_s": 20},
    {"user_id": "v", "item_id": "b", "title": "Old pot", "text": "leaks"},
    {"user_id": "u", "item_id": "b", "timestamp_s": 10},
    {"user_id": "u", "item_id": "c"},
    {"user_id": "u", "item_id": "c", "timestamp_s": 20, "rating": 1.5},
]


def read(folder: Path) -> rcjax.Catalogue:
    """The same records, by the readers of files."""
    for name, records in (("items", ITEMS), ("events", EVENTS)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return load_catalogue(folder)[0]


def test_a_table_says_what_a_file_says(tmp_path: Path) -> None:
    expected = read(tmp_path)
    items = items_from_pandas(pd.DataFrame(ITEMS))
    assert {item.item_id: item for item in items} == expected.items
    users = users_from_pandas(pd.DataFrame(EVENTS), expected.items)
    assert {user.user_id: user for user in users} == expected.users


def test_what_comes_out_goes_in_again(tmp_path: Path) -> None:
    shop = read(tmp_path)
    assert items_from_pandas(pd.DataFrame(map(asdict, shop.items.values()))) == list(shop.items.values())
    rows = [{"user_id": user.user_id, **asdict(event)} for user in shop.users.values() for event in user.events]
    assert users_from_pandas(pd.DataFrame(rows)) == list(shop.users.values())


@pytest.mark.parametrize(
    "times",
    [pd.to_datetime(["1970-01-02", None]), pd.to_datetime(["1970-01-02", None], utc=True), np.array([86400.0, np.nan])],
)
def test_times_are_seconds_or_datetimes(times: object) -> None:
    table = pd.DataFrame({"user_id": ["u", "u"], "item_id": [7, 8], "title": ["x", "y"], "timestamp_s": times})
    assert users_from_pandas(table) == [User("u", (Event("8", "y"), Event("7", "x", timestamp_s=86400)))]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_what_is_missing_is_left_out(missing: object) -> None:
    cells = {"description": missing, "brand": missing, "price": missing, "categories": missing}
    table = pd.DataFrame([{"item_id": "a", "title": "Mug", **cells}]).astype(object)
    assert items_from_pandas(table) == [Item("a", "Mug")]


def test_nullable_and_numpy_types_are_read() -> None:
    table = pd.DataFrame(
        {
            "item_id": pd.array([1, 2], "Int64"),
            "title": pd.array(["Mug", "Pot"], "string"),
            "price": pd.array([2.5, None], "Float64"),
            "categories": [np.array(["Tea"]), ("Tea", "Pots")],
        }
    )
    expected = [Item("1", "Mug", categories=("Tea",), price=2.5), Item("2", "Pot", categories=("Tea", "Pots"))]
    assert items_from_pandas(table) == expected


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ({"item_id": ["a"]}, "no column title, only item_id"),
        ({"item_id": ["a"], "title": ["x"], "Price": [1]}, "Price is none of item_id, title"),
        ({"item_id": ["a", "b"], "title": ["x", ""]}, "row 1: field 'title': missing"),
        ({"item_id": ["a", None], "title": ["x", "y"]}, "row 1: field 'item_id': missing"),
        ({"item_id": ["a", "a"], "title": ["x", "y"]}, "row 1: field 'item_id': 'a' stands twice"),
        ({"item_id": ["a"], "title": [5]}, "row 0: field 'title': expected text, got 5"),
        ({"item_id": ["a"], "title": ["x"], "price": ["cheap"]}, "row 0: field 'price': 'cheap'"),
        ({"item_id": ["a"], "title": ["x"], "categories": ["Tea"]}, "row 0: field 'categories': expected a list"),
    ],
)
def test_a_wrong_item_is_named(cells: dict, problem: str) -> None:
    with pytest.raises(CatalogueError, match=problem):
        items_from_pandas(pd.DataFrame(cells))


@pytest.mark.parametrize(
    ("cells", "problem"),
    [
        ({"user_id": ["u"], "item_id": ["x"]}, "row 0: field 'title': missing, and item 'x' is not known"),
        ({"user_id": ["u"], "item_id": ["a"], "rating": ["good"]}, "row 0: field 'rating': expected a number"),
        ({"user_id": ["u"], "item_id": ["a"], "timestamp_s": [1e12]}, "row 0: field 'timestamp_s': expected a time"),
        ({"user": ["u"], "item_id": ["a"]}, "no column user_id"),
    ],
)
def test_a_wrong_event_is_named(cells: dict, problem: str) -> None:
    with pytest.raises(CatalogueError, match=problem):
        users_from_pandas(pd.DataFrame(cells), {"a": Item("a", "Mug")})


def test_an_empty_table_has_nothing() -> None:
    assert items_from_pandas(pd.DataFrame(columns=["item_id", "title"])) == []
    assert users_from_pandas(pd.DataFrame(columns=["user_id", "item_id"])) == []


def test_a_ranking() -> None:
    ranking = (RankedItem("b", 1.5, 1), RankedItem("x", -2.0, 2))
    result = RecommendResult(ranking, TokenCounts(), StageTimes(), "arm")
    expected = pd.DataFrame({"rank": [1, 2], "item_id": ["b", "x"], "score": [1.5, -2.0]})
    pd.testing.assert_frame_equal(result.to_pandas(), expected)
    titled = result.to_pandas({"b": Item("b", "Pot")})
    assert titled.columns.tolist() == ["rank", "item_id", "score", "title"]
    assert titled["title"][0] == "Pot"
    assert pd.isna(titled["title"][1])
    assert RecommendResult((), TokenCounts(), StageTimes(), "arm").to_pandas().columns.tolist() == list(expected)


def test_an_evaluation() -> None:
    half = {"mrr": Estimate(0.5, 0.4, 0.6)}
    arm = ArmSummary(
        "full",
        1,
        half,
        {"mrr": Estimate(-0.01, -0.02, 0.0)},
        Fidelity(9, 0.1, 0.9, 0.8, 2.0),
        TokenShares(0.2, 0.0, 0.1, 0.0, 0.0),
        {"p50": 12.0},
        None,
        (),
    )
    rows = list(summary_rows({"rcjax": arm}, {"words": BaselineSummary(half, ())}, {"chance": {"mrr": 0.2}}))
    table = frame_of(rows).set_index("name")
    assert table["kind"].tolist() == ["arm", "baseline", "bound"]
    assert table["mrr"].tolist() == [0.5, 0.5, 0.2]
    named = {
        "mrr_low": 0.4,
        "mrr_high": 0.6,
        "mrr_difference": -0.01,
        "mrr_difference_low": -0.02,
        "mrr_difference_high": 0.0,
        "kl_nats": 0.1,
        "kendall_tau": 0.8,
        "fresh_share": 0.2,
        "ttft_p50_ms": 12.0,
        "num_invalid": 1.0,
    }
    assert table.loc["rcjax", list(named)].to_dict() == named
    assert table.loc["chance", list(named)].isna().all()


def test_without_pandas_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"rcjax\[notebook\]"):
        RecommendResult((), TokenCounts(), StageTimes(), "arm").to_pandas()
