"""Negatives are drawn as their weights say, without replacement, and never from what is excluded."""

import itertools
from collections import Counter

import numpy as np
import pytest

from rcjax.catalog import Catalogue, Event, Item, User
from rcjax.catalog.negatives import Negatives, NegativeSampler

NUM_DRAWS = 6000
EVENTS = {"a": 6, "b": 3, "c": 1}  # "d" has none, which counts as one


def shop() -> Catalogue:
    items = {item_id: Item(item_id, f"Title of {item_id}") for item_id in "abcd"}
    users = {
        f"{item_id}{n}": User(f"{item_id}{n}", (Event(item_id, "bought"), Event("gone", "no longer sold")))
        for item_id, num_events in EVENTS.items()
        for n in range(num_events)
    }
    return Catalogue(items, users)


def successive_draws(weights: dict[str, float], num_items: int) -> dict[tuple[str, ...], float]:
    """The probability of each order of items drawn one after another, in proportion to the weights of the rest."""
    expected = {}
    for order in itertools.permutations(weights, num_items):
        probability, left = 1.0, sum(weights.values())
        for item_id in order:
            probability *= weights[item_id] / left
            left -= weights[item_id]
        expected[order] = probability
    return expected


@pytest.mark.parametrize(
    ("negatives", "weights"),
    [
        (Negatives.POPULARITY, {"a": 6.0, "b": 3.0, "c": 1.0, "d": 1.0}),
        (Negatives.UNIFORM, {"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}),
    ],
)
def test_every_order_is_as_likely_as_successive_draws_make_it(negatives, weights) -> None:
    sampler, rng = NegativeSampler(shop(), negatives), np.random.default_rng(0)
    counts = Counter(tuple(sampler.draw(rng, 2, exclude=())) for _ in range(NUM_DRAWS))
    for order, probability in successive_draws(weights, 2).items():
        deviation = np.sqrt(NUM_DRAWS * probability * (1 - probability))
        assert counts[order] == pytest.approx(NUM_DRAWS * probability, abs=5 * deviation), order
    assert sum(counts.values()) == NUM_DRAWS


def test_the_excluded_are_never_drawn_and_unknown_ids_among_them_do_not_matter() -> None:
    sampler, rng = NegativeSampler(shop(), Negatives.POPULARITY), np.random.default_rng(1)
    for _ in range(50):
        assert sorted(sampler.draw(rng, 2, exclude={"a", "d", "gone"})) == ["b", "c"]


def test_the_same_generator_draws_the_same() -> None:
    sampler = NegativeSampler(shop(), Negatives.POPULARITY)
    draws = [[sampler.draw(np.random.default_rng(seed), 3, exclude=()) for _ in range(2)] for seed in range(20)]
    assert all(first == second for first, second in draws)
    assert len({tuple(first) for first, _ in draws}) > 1


def test_more_than_there_are_is_refused() -> None:
    sampler = NegativeSampler(shop(), Negatives.UNIFORM)
    with pytest.raises(ValueError, match="num_items=4 exceeds the 3 items"):
        sampler.draw(np.random.default_rng(0), 4, exclude={"a"})
