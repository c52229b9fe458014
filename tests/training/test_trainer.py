"""Runs of the trainer on a task that a tiny model can learn: whoever bought hats likes red."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_engine import TEMPLATE, tiny_model

from rcjax.catalog.types import Event, Item
from rcjax.config import Lora, TrainSettings
from rcjax.prompt import Layout, PromptBuilder, Scoring
from rcjax.prompt.template import load_template
from rcjax.training.collation import Collator
from rcjax.training.examples import Example
from rcjax.training.step import Trainee
from rcjax.training.trainer import CURVE, Trainer

SETTINGS = TrainSettings(
    num_steps=8,
    batch_size=8,
    num_candidates=3,
    learning_rate=3e-3,
    warmup_steps=2,
    validate_every=2,
    checkpoint_every=2,
)

ONE = jax.devices()[:1]


class Task:
    """The target is the red item for one kind of history, the tin one for the other."""

    def draw(self, rng, num_examples):
        examples = []
        for _ in range(num_examples):
            kind = int(rng.integers(2))
            history = (Event("h", ("hat", "pan")[kind]),)
            items = [Item(name, name) for name in ("red", "tin", "oak")]
            order = rng.permutation(3)
            examples.append(Example(history, tuple(items[i] for i in order), (int(np.flatnonzero(order == kind)[0]),)))
        return examples


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "tiny.yaml"
    path.write_text(TEMPLATE, encoding="utf-8")
    return PromptBuilder(load_template(str(path)), tiny_model().tokenizer, 3)


def new_trainee(builder, settings=SETTINGS):
    model = tiny_model()
    return Trainee(model.params, model.config, builder, settings, ONE)


def trainer(builder, folder, settings=SETTINGS, identity="run", trainee=None):
    trainee = trainee or new_trainee(builder, settings)
    validation = Task().draw(np.random.default_rng(99), 20)
    collator = Collator(builder, settings.layout, settings.scoring)
    return trainee, Trainer(trainee, collator, Task(), validation, settings, folder, identity)


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


class KilledError(Exception):
    pass


def kill_after(number):
    def on_pass(step, loss, ndcg):
        if step == number:
            raise KilledError

    return on_pass


def test_a_killed_run_continues_to_the_same_losses_and_weights(builder, tmp_path):
    losses = {}
    trainee = new_trainee(builder)  # holds no state, only compiled programs
    _, whole = trainer(builder, tmp_path / "whole", trainee=trainee)
    expected = whole.run(lambda step, loss, ndcg: losses.setdefault(step, loss))
    _, first = trainer(builder, tmp_path / "killed", trainee=trainee)
    with pytest.raises(KilledError):
        first.run(kill_after(5))
    again = {}
    _, second = trainer(builder, tmp_path / "killed", trainee=trainee)
    state = second.run(lambda step, loss, ndcg: again.setdefault(step, loss))
    assert again == {step: loss for step, loss in losses.items() if step > 4}  # the last checkpoint was at 4
    for ours, theirs in zip(leaves(state), leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    curves = [(tmp_path / name / CURVE).read_text().splitlines() for name in ("whole", "killed")]
    without_time = [
        [{k: v for k, v in json.loads(line).items() if k != "train_s"} for line in curve] for curve in curves
    ]
    assert without_time[0][2:] == without_time[1][2:]
    assert [point["step"] for point in without_time[0]] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("changes", "reached"),
    [
        ({"loss": "ranknet"}, 0.98),
        ({"layout": Layout.SEQUENTIAL, "scoring": Scoring.LABEL}, 0.85),  # a label has to be tied to its item first
        (
            {
                "lora": Lora(rank=4, alpha=32.0),
                "learning_rate": 1e-2,
                "num_steps": 150,
                "validate_every": 150,
                "checkpoint_every": 150,
            },
            0.82,
        ),
        ({"dtype": "bfloat16", "accumulate": 2}, 0.98),
    ],
    ids=["ranknet", "sequential", "lora", "bfloat16"],
)
def test_learns(builder, tmp_path, changes, reached):
    settings = SETTINGS.model_copy(update={"num_steps": 60, "validate_every": 60, "checkpoint_every": 60} | changes)
    trainee, run = trainer(builder, tmp_path, settings)
    before = run.validation_ndcg(trainee.initial_state())
    after = run.validation_ndcg(run.run())
    assert before < 0.8  # chance is .71
    assert after > reached


def test_accumulating_two_halves_is_one_whole(builder, tmp_path):
    """Of a loss that is a mean over requests, whatever the optimizer makes of the gradient."""
    model, examples = tiny_model(), Task().draw(np.random.default_rng(0), 8)
    collate = Collator(builder, Layout.PARALLEL, Scoring.ANCHOR)
    whole = Trainee(model.params, model.config, builder, SETTINGS, ONE)
    state, _ = whole.step(whole.initial_state(), collate(examples))
    state, _ = whole.step(state, collate(examples))
    halves = Trainee(model.params, model.config, builder, SETTINGS.model_copy(update={"accumulate": 2}), ONE)
    parts = halves.initial_state()
    for half in (examples[:4], examples[4:]) * 2:
        parts, _ = halves.step(parts, collate(half))
    for ours, theirs in zip(leaves(parts.trained), leaves(state.trained), strict=True):
        # Adam divides by the gradient's size, so a gradient of about zero may turn out either way.
        np.testing.assert_allclose(ours, theirs, atol=3e-3)
        assert np.mean(np.abs(ours - theirs) > 1e-4) < 0.02


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_sharded_over_eight_devices_equals_one(builder, tensor_parallel):
    """The conftest makes eight devices; the unsharded loss comes from a plain pass."""
    from rcjax.model.scoring import Scorer
    from rcjax.training.loss import candidate_scores

    model, examples = tiny_model(), Task().draw(np.random.default_rng(0), 8)
    batch = Collator(builder, Layout.PARALLEL, Scoring.ANCHOR)(examples)
    settings = SETTINGS.model_copy(update={"tensor_parallel": tensor_parallel})
    trainee = Trainee(model.params, model.config, builder, settings, jax.devices())
    assert len(jax.devices()) == 8
    sharded = trainee.scores(trainee.initial_state(), batch)
    plain = candidate_scores(
        model.params, model.config, batch, jnp.asarray(Scorer.of(builder).vocab_ids), Scoring.ANCHOR
    )
    np.testing.assert_allclose(sharded, np.asarray(plain), atol=1e-5)
    layers = trainee.initial_state().trained["layers"]
    assert len({str(shard.index) for shard in layers["gate_proj"].addressable_shards}) == tensor_parallel


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_a_step_leaves_the_state_where_it_was(builder, lora):
    """Each weight's moments are split as it is; a step that moved them would be compiled once more."""
    model, examples = tiny_model(), Task().draw(np.random.default_rng(0), 8)
    batch = Collator(builder, Layout.PARALLEL, Scoring.ANCHOR)(examples)
    settings = SETTINGS.model_copy(update={"tensor_parallel": 2, "lora": lora})
    trainee = Trainee(model.params, model.config, builder, settings, jax.devices())
    state = trainee.initial_state()
    placed = [x.sharding for x in jax.tree.leaves(state)]
    num_split = sum(not sharding.is_fully_replicated for sharding in placed)
    num_split_weights = sum(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state.trained))
    assert (num_split_weights > 0) == (lora is None)
    assert num_split >= 3 * num_split_weights  # and both moments
    state, _ = trainee.step(state, batch)
    assert [x.sharding for x in jax.tree.leaves(state)] == placed


def test_another_run_s_folder_is_refused(builder, tmp_path):
    trainer(builder, tmp_path, identity="one")
    with pytest.raises(ValueError, match="run of other settings"):
        trainer(builder, tmp_path, identity="two")


def test_a_loss_that_is_not_finite_ends_the_run(builder, tmp_path):
    model = tiny_model()
    params = {**model.params, "final_norm": model.params["final_norm"] * np.nan}
    trainee = Trainee(params, model.config, builder, SETTINGS, ONE)
    collator = Collator(builder, SETTINGS.layout, SETTINGS.scoring)
    run = Trainer(trainee, collator, Task(), [], SETTINGS, tmp_path, "run")
    with pytest.raises(FloatingPointError, match="pass 1 is nan"):
        run.run()
