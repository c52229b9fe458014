"""What surrounds a training step: the optimizer by itself, the order of passes, and validation, on fakes."""

from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rcjax.catalog.types import Event, Item
from rcjax.config import TrainSettings
from rcjax.training.collation import Collator
from rcjax.training.examples import DrawnBuckets, Example
from rcjax.training.step import Trainee, TrainState, new_optimizer
from rcjax.training.trainer import Trainer

SETTINGS = TrainSettings(num_steps=12, batch_size=3, num_candidates=3, learning_rate=0.01, warmup_steps=4)


def optimizer(**changes):
    return new_optimizer(SETTINGS.model_copy(update={"weight_decay": 0.0} | changes))


def test_the_learning_rate_rises_and_falls_to_a_tenth():
    """Of a gradient that never changes Adam makes a step of 1, so the update is the learning rate."""
    tried = optimizer()
    params = {"w": jnp.zeros(3)}
    state, update = tried.init(params), jax.jit(tried.update)
    for step in range(16):
        updates, state = update({"w": jnp.full(3, 0.3)}, state, params)
        if step <= 4:
            expected = 0.01 * step / 4
        else:
            share = min((step - 4) / (12 - 4), 1)
            expected = 0.001 + 0.009 * (1 + np.cos(np.pi * share)) / 2
        np.testing.assert_allclose(updates["w"], -expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("size", "kept"), [(0.5, 0.5), (8.0, 2.0)])
def test_a_long_gradient_is_clipped_to_its_limit(size, kept):
    """Adam's first moment after one step is a tenth of the gradient that it was given."""
    tried = optimizer(max_grad_norm=2.0)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    gradient = {"a": jnp.array([0.0, 0.6]) * size, "b": jnp.array([0.8, 0.0]) * size}  # of this length in all
    _, state = jax.jit(tried.update)(gradient, tried.init(params), params)
    moment = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(moment["a"], [0, 0.06 * kept], rtol=1e-5)
    np.testing.assert_allclose(moment["b"], [0.08 * kept, 0], rtol=1e-5)


ITEMS = tuple(Item(name, name) for name in ("a", "b", "c"))


class Shuffled:
    """Examples whose histories have lengths of their own, in random order, and which are remembered."""

    def __init__(self):
        self.drawn = []

    def draw(self, rng, num_examples):
        lengths = rng.permutation(num_examples) + 1
        self.drawn.append([Example((Event("h", "x" * int(n)),), ITEMS, (0,)) for n in lengths])
        return self.drawn[-1]


def best_by_history(state, examples):
    """In place of a model: a history's only letter says which candidate is best."""
    best = ["abc".index(example.history[0].title) for example in examples]
    return np.eye(3, 5)[best]  # beside the candidates' there may be columns of labels that nobody has


def trainer(folder, source, validation=()):
    """Its batches are the examples themselves."""
    trainee, collator = Mock(spec=Trainee), Mock(spec=Collator, side_effect=list)
    trainee.scores = Mock(side_effect=best_by_history)
    return Trainer(trainee, collator, DrawnBuckets(source), validation, SETTINGS, folder, "run"), collator


def length(example):
    return len(example.history[0].title)


def test_passes_are_of_like_lengths_and_in_no_order_of_length(tmp_path):
    source = Shuffled()
    passes = list(trainer(tmp_path, source)[0]._passes(0))
    assert [number for number, _ in passes] == list(range(1, 13))
    orders = []
    for bucket, drawn in enumerate(source.drawn):
        examples = [of_pass for _, of_pass in passes[4 * bucket : 4 * bucket + 4]]
        assert sorted((e for of_pass in examples for e in of_pass), key=length) == sorted(drawn, key=length)
        for of_pass in examples:
            lengths = sorted(map(length, of_pass))
            assert lengths == list(range(lengths[0], lengths[0] + 3))
        orders.append([length(of_pass[0]) for of_pass in examples])
    assert len(set(map(tuple, orders))) == 3
    assert [number for number, _ in trainer(tmp_path, Shuffled())[0]._passes(10)] == [11, 12]


def test_validation_is_a_mean_over_all_examples_in_batches_of_one_size(tmp_path):
    """Five examples in batches of three: what fills the last one counts for nothing."""
    validation = [Example((Event("h", best),), ITEMS, (0,)) for best in "abbab"]
    run, collator = trainer(tmp_path, Shuffled(), validation)
    found = run.validation(Mock(spec=TrainState))
    second_of_two_tied = (1 / np.log2(3) + 1 / np.log2(4)) / 2  # where another is best, the two others are tied
    assert found.ndcg_at_10 == pytest.approx((2 + 3 * second_of_two_tied) / 5)
    assert [len(call.args[0]) for call in collator.call_args_list] == [3, 3]
