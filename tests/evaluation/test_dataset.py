"""Which requests are asked, wherever the catalogue comes from."""

import dataclasses
import json
from pathlib import Path

import pytest

from rcjax.catalog import EmbeddedWorld
from rcjax.catalog.holdout import NextItem, hold_out, split_users
from rcjax.catalog.jsonl import write_catalogue
from rcjax.catalog.negatives import NegativeSampler
from rcjax.config import CatalogueSettings, Settings, read_catalogue
from rcjax.evaluation.dataset import eval_dataset

TASK = NextItem(history_len=3, num_candidates=5)


def shop_settings(folder: Path, requests: list[dict] | None = None, num_users: int = 30) -> Settings:
    """Files of 20 items and users who bought five each."""
    lines = [{"item_id": f"i{n}", "title": f"Thing {n}"} for n in range(20)]
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, lines)))
    lines = [
        {"user_id": f"u{n}", "events": [{"item_id": f"i{(n + k) % 20}"} for k in range(5)]} for n in range(num_users)
    ]
    (folder / "users.jsonl").write_text("\n".join(map(json.dumps, lines)))
    if requests is not None:
        (folder / "requests.jsonl").write_text("\n".join(map(json.dumps, requests)))
    return Settings(catalogue=CatalogueSettings(format="jsonl", paths={"folder": folder}))


def test_the_embedded_shop_asks_each_user_once() -> None:
    dataset = eval_dataset(Settings(), dataclasses.replace(TASK, num_candidates=7), num_requests=4)
    assert dataset.asked.requests == tuple(EmbeddedWorld(0).requests(4, split="test", num_candidates=7))
    assert set(dataset.asked.users) == {request.user_id for request in dataset.asked.requests}
    assert dataset.world is not None
    assert not any(user_id.startswith("train") for user_id in dataset.asked.users)
    assert set(dataset.asked.users) < set(dataset.source.users)


def test_given_requests_are_asked_as_they_are(tmp_path) -> None:
    given = [{"user_id": f"u{n}", "candidates": ["i10", "i11"], "target": "i11"} for n in range(8)]
    settings = shop_settings(tmp_path, [*given, {"user_id": "u9", "candidates": ["i1"]}])
    dataset = eval_dataset(settings, TASK)
    assert [request.user_id for request in dataset.asked.requests] == [f"u{n}" for n in range(8)]
    assert all(len(user.events) == 5 for user in dataset.asked.users.values())
    assert "8 of the catalogue's 9 requests" in dataset.origin
    some = eval_dataset(settings, TASK, num_requests=3, seed=1).asked.requests
    assert len(some) == 3
    assert set(some) < set(dataset.asked.requests)
    assert any(eval_dataset(settings, TASK, num_requests=3, seed=s).asked.requests != some for s in (2, 3, 4))


def test_events_are_held_out_where_there_are_no_requests(tmp_path) -> None:
    settings = shop_settings(tmp_path)
    dataset = eval_dataset(settings, TASK, split="all")
    assert len(dataset.asked.requests) == 30
    assert all(len(user.events) == 3 for user in dataset.asked.users.values())
    assert all(len(user.events) == 5 for user in dataset.source.users.values())
    assert "30 of 30 targets" in dataset.origin
    two = dataclasses.replace(TASK, targets_per_user=2)
    assert len(eval_dataset(settings, two, num_requests=50, split="all").asked.requests) == 50


def test_only_the_split_s_users_are_asked(tmp_path) -> None:
    settings = shop_settings(tmp_path, num_users=200)
    catalogue = read_catalogue(settings.catalogue)
    expected = split_users(catalogue, {"train": 0.8, "validation": 0.1, "test": 0.1}, settings.catalogue.seed)
    for split in ("validation", "test"):
        dataset = eval_dataset(settings, TASK, split=split, seed=7)
        assert set(dataset.asked.users) == set(expected[split].users)
        assert len(dataset.source.users) == 200
        by_all = NegativeSampler(catalogue, TASK.negatives)  # popular is what is so with all users
        assert dataset.asked.requests == hold_out(expected[split], TASK, seed=7, sampler=by_all).requests


def test_a_written_catalogue_asks_what_it_was_written_with(tmp_path) -> None:
    shop = EmbeddedWorld(0).catalogue(num_users=3, num_requests=6)
    write_catalogue(shop, tmp_path)
    settings = Settings(catalogue=CatalogueSettings(format="jsonl", paths={"folder": tmp_path}))
    assert eval_dataset(settings, TASK).asked.requests == shop.requests


@pytest.mark.parametrize(
    ("requests", "options", "message"),
    [
        (None, {"num_requests": 31, "split": "all"}, "31 requests were asked for; there are 30 targets"),
        (None, {"split": "tests"}, "split='tests' is none of train, validation, test, all"),
        ([{"user_id": "u1", "candidates": ["i1"]}], {}, "none of the catalogue's 1 requests has a `target`"),
        ([{"user_id": "u1", "candidates": ["i9"], "target": "i9"}], {"num_requests": 2}, "there are 1 requests"),
    ],
)
def test_what_cannot_be_asked(tmp_path, requests, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        eval_dataset(shop_settings(tmp_path, requests), TASK, **options)


def test_histories_too_short_to_hold_anything_out(tmp_path) -> None:
    with pytest.raises(ValueError, match="none has a target after"):
        eval_dataset(shop_settings(tmp_path), NextItem(history_len=5), split="all")
