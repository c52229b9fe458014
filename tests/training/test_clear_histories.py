"""Training on the embedded shop begins with users whose histories tell much of their taste."""

import numpy as np
import pytest

from rcjax.catalog import EmbeddedWorld
from rcjax.catalog.taste import HISTORY_SHARPNESS
from rcjax.config import ClearHistories, Settings, TrainSettings
from rcjax.training.examples import bucket_rng
from rcjax.training.sources import sources_of
from rcjax.training.trainer import BUCKETED_BATCHES

CLEAR = {"sharpness": 4.0, "num_steps": 2 * BUCKETED_BATCHES, "fading_steps": 3 * BUCKETED_BATCHES}


def buckets(**changes):
    train = TrainSettings(num_candidates=5, num_validation=4, seed=1, **changes)
    return sources_of(Settings(train=train), train).train


def drawn(buckets, number, num_examples=60):
    return buckets.bucket(number, num_examples, bucket_rng(1, number))


def mean_worth(examples):
    """What a bought item is worth to the profile that likes the history best, on average."""
    world = EmbeddedWorld(0)
    index = {item_id: i for i, item_id in enumerate(world.items)}
    bought = [world.tastes.utility[:, [index[event.item_id] for event in e.history]] for e in examples]
    return np.mean([worth.mean(axis=1).max() for worth in bought])


def test_the_sharpness_falls_by_one_factor_a_step_to_the_shop_s_own():
    clear = ClearHistories(sharpness=8.0, num_steps=10, fading_steps=4)
    found = [clear.sharpness_at(step, 0.5) for step in (0, 9, 10, 11, 12, 13, 14, 1000)]
    assert found == pytest.approx([8, 8, 8, 4, 2, 1, 0.5, 0.5])


def test_histories_are_clear_and_fade_to_those_of_the_shop():
    own, fading = buckets(), buckets(clear_histories=CLEAR)
    worths = [mean_worth(drawn(fading, number)) for number in (0, 4, 5)]
    assert worths[0] > worths[1] + 0.5
    assert worths[1] > worths[2] + 0.5
    for number in (5, 9):
        assert drawn(fading, number) == drawn(own, number)
    assert drawn(fading, 1) != drawn(own, 1)


def test_a_step_of_several_passes_is_one_step():
    always = buckets(clear_histories=CLEAR | {"num_steps": 1000})
    once, twice = (buckets(clear_histories=CLEAR, accumulate=passes) for passes in (1, 2))
    assert drawn(twice, 3) == drawn(always, 3) != drawn(once, 3)
    assert drawn(twice, 5) != drawn(always, 5)


def test_validation_is_of_the_shop_s_own_users():
    train = TrainSettings(num_candidates=5, num_validation=6)
    clear = train.changed(clear_histories=CLEAR)
    assert sources_of(Settings(), clear).validation == sources_of(Settings(), train).validation


def test_what_a_user_likes_does_not_depend_on_the_histories():
    world = EmbeddedWorld(0)
    clear = world.with_histories(3.0)
    assert clear.tastes.history_sharpness == 3.0
    assert world.tastes.history_sharpness == HISTORY_SHARPNESS
    shown = list(world.items)[:20]
    own, other = (w.choices("train-00007", shown, 50, np.random.default_rng(0)) for w in (world, clear))
    np.testing.assert_array_equal(own, other)
    assert world.user("train-00007") == EmbeddedWorld(0).user("train-00007") != clear.user("train-00007")
