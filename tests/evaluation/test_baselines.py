"""Word overlap and popularity, counted by hand."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from rcjax.catalog import (
    Catalogue,
    CataloguePaths,
    EmbeddedWorld,
    Event,
    Item,
    Request,
    User,
    load_catalogue,
)
from rcjax.catalog.holdout import NextItem, hold_out
from rcjax.config import Settings
from rcjax.evaluation.baselines import Popularity, WordOverlap, bounds
from rcjax.evaluation.bayes import bayes_optimal
from rcjax.evaluation.dataset import eval_dataset
from rcjax.evaluation.ranking import Rank, rank_of, ranking_quality

BEAUTY = Path(__file__).parents[3] / "shared" / "data" / "beauty"

ITEMS = {"mug": "Red Mug", "hat": "Wool hat, red", "pan": "Iron pan", "rug": "Rug"}
EVENTS = {"ann": ("mug", "pan"), "bob": ("mug", "hat"), "cat": ("mug", "hat", "hat"), "dan": ()}


def shop() -> Catalogue:
    items = {item_id: Item(item_id, title) for item_id, title in ITEMS.items()}
    users = {name: User(name, tuple(Event(i, ITEMS[i]) for i in bought)) for name, bought in EVENTS.items()}
    return Catalogue(items, users)


def scores(baseline, user_id: str) -> list[float]:
    return baseline.scores(Request(user_id, tuple(ITEMS))).tolist()


def test_word_overlap_counts_words_of_the_title_that_the_history_has() -> None:
    overlap = WordOverlap(shop())
    assert scores(overlap, "ann") == [2.0, 1.0, 2.0, 0.0]  # red mug; red; iron pan
    assert scores(overlap, "cat") == [2.0, 3.0, 0.0, 0.0]
    assert scores(overlap, "dan") == [0.0] * 4


def test_popularity_counts_the_events_of_others() -> None:
    popularity = Popularity(shop())
    assert scores(popularity, "dan") == [3.0, 3.0, 1.0, 0.0]
    assert scores(popularity, "ann") == [2.0, 3.0, 0.0, 0.0]
    assert scores(popularity, "cat") == [2.0, 1.0, 1.0, 0.0]
    assert scores(popularity, "somebody else") == scores(popularity, "dan")


def test_bounds_are_chance_and_what_the_shop_makes_possible() -> None:
    world = EmbeddedWorld(0)
    dataset = eval_dataset(Settings(), NextItem(num_candidates=6), num_requests=5)
    expected = bayes_optimal(world, list(world.requests(5, split="test", num_candidates=6)))
    found = bounds(dataset)
    assert found == {"chance": asdict(expected.chance), "best possible": asdict(expected.bayes)}
    assert found["chance"]["hit_at_3"] == 0.5
    assert list(bounds(replace(dataset, world=None))) == ["chance"]


@pytest.mark.skipif(not BEAUTY.is_dir(), reason="the Beauty data are not beside this checkout")
def test_word_overlap_on_real_purchases() -> None:
    """Amazon Beauty, 20 candidates by popularity, n = 1,500: chance .227 / .50, word overlap about .43 / .70."""
    paths = CataloguePaths(items=BEAUTY / "items.jsonl.gz", events=BEAUTY / "interactions.jsonl.gz")
    catalogue, _ = load_catalogue(paths, progress=False)
    asked = hold_out(catalogue, NextItem(), num_requests=1500)
    overlap = WordOverlap(asked)
    ranks = [rank_of(overlap.scores(r), r.candidates.index(r.target)) for r in asked.requests]
    found, chance = ranking_quality(ranks), ranking_quality([Rank(1, 20)] * 1500)
    # the standard errors are .009 and .010; the published figures are .425 and .724, of another sample
    assert found.ndcg_at_10 == pytest.approx(0.425, abs=0.03)
    assert found.hit_at_10 == pytest.approx(0.724, abs=0.03)
    assert (chance.ndcg_at_10, chance.hit_at_10) == (pytest.approx(0.227, abs=5e-4), pytest.approx(0.5))
    popularity = Popularity(catalogue)
    by_popularity = [rank_of(popularity.scores(r), r.candidates.index(r.target)) for r in asked.requests]
    assert abs(ranking_quality(by_popularity).ndcg_at_10 - 0.227) < 0.05
    assert np.mean([len(set(r.candidates)) for r in asked.requests]) == 20
