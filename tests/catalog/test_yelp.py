"""Yelp files, written here in their layout."""

import json
from pathlib import Path

import pytest

from rcjax.catalog import CatalogueError, Event, Item, load_catalogue, yelp
from rcjax.catalog.report import ReadLog

BUSINESS = {
    "business_id": "b1",
    "name": "Little Noodle Bar",
    "address": "12 Quay St",
    "city": "Tampa",
    "state": "FL",
    "stars": 4.5,
    "categories": "Noodles, Restaurants",
}
REVIEW = {"user_id": "u1", "business_id": "b1", "stars": 4.0, "text": "Good broth.", "date": "2016-03-09 20:56:38"}


def write(path: Path, *records: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_businesses_and_reviews(tmp_path: Path) -> None:
    closed = {"business_id": "b2", "name": "Shut", "city": "Tampa", "state": "FL", "categories": None}
    write(tmp_path / "yelp_academic_dataset_business.json", BUSINESS, closed)
    earlier = {**REVIEW, "business_id": "b2", "date": "2016-03-09 20:56:37"}
    write(tmp_path / "yelp_academic_dataset_review.json", REVIEW, earlier)
    catalogue, report = load_catalogue(tmp_path, "yelp", progress=False)
    assert catalogue.items == {
        "b1": Item("b1", "Little Noodle Bar", "12 Quay St, Tampa, FL", categories=("Noodles", "Restaurants")),
        "b2": Item("b2", "Shut", "Tampa, FL"),
    }
    assert [event.item_id for event in catalogue.users["u1"].events] == ["b2", "b1"]
    # 2016-03-09 20:56:38 UTC
    assert catalogue.users["u1"].events[1] == Event("b1", "Little Noodle Bar", "Good broth.", 4.0, 1457556998)
    assert (report.num_items, report.num_events, report.skipped) == (2, 2, {})


def test_bad_fields_are_named(tmp_path: Path) -> None:
    reviews = write(tmp_path / "review.json", REVIEW, {**REVIEW, "date": "yesterday"})
    with pytest.raises(CatalogueError, match=r"review\.json:2: field 'date': expected a date .* got 'yesterday'"):
        list(yelp.read_events(reviews, ReadLog()))
    reviews = write(tmp_path / "review.json", REVIEW, {**REVIEW, "stars": 5.5})
    with pytest.raises(CatalogueError, match=r"review\.json:2: field 'stars': expected a number from 0 to 5, got 5\.5"):
        list(yelp.read_events(reviews, ReadLog()))
    businesses = write(tmp_path / "business.json", {**BUSINESS, "categories": ["Noodles"]})
    with pytest.raises(CatalogueError, match=r"business\.json:1: field 'categories': expected text"):
        list(yelp.read_items(businesses, ReadLog()))


def test_a_date_with_a_zone_is_taken_at_its_word(tmp_path: Path) -> None:
    dates = ("2016-03-09T20:56:38", "2016-03-09T22:56:38+02:00", "2016-03-09T20:56:38Z")
    path = write(tmp_path / "review.json", *({**REVIEW, "date": date} for date in dates))
    assert [event.timestamp_s for event in yelp.read_events(path, ReadLog())] == [1457556998] * 3
