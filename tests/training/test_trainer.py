"""Runs of the trainer on a task that a tiny model can learn: whoever bought hats likes red."""

import gc
import json
from dataclasses import replace
from functools import cache
from itertools import count

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from full_disk import full_disk
from tiny_model import TEMPLATE, tiny_model

from rcjax.catalog.types import Event, Item
from rcjax.config import Lora, TrainSettings
from rcjax.disk import DiskError
from rcjax.model.scoring import Scorer
from rcjax.prompt import Layout, PromptBuilder, Scoring
from rcjax.prompt.template import load_template
from rcjax.training.collation import Collator
from rcjax.training.curve import CURVE, CurvePoint
from rcjax.training.examples import DrawnBuckets, Example
from rcjax.training.loss import candidate_scores
from rcjax.training.step import Trainee, new_optimizer
from rcjax.training.trainer import Trainer

SETTINGS = TrainSettings(
    num_steps=8,
    batch_size=8,
    num_candidates=3,
    learning_rate=3e-3,
    warmup_steps=2,
    validate_every=2,
    checkpoint_every=2,
)

UNCLIPPED = SETTINGS.model_copy(update={"max_grad_norm": 100.0})  # moments show the gradient's size
ONE = jax.devices()[:1]


def learning(num_steps, **changes):
    """Settings of a run that is validated and saved at its end alone."""
    at_the_end = dict.fromkeys(("num_steps", "validate_every", "checkpoint_every"), num_steps)
    return SETTINGS.model_copy(update=at_the_end | changes)


# A step takes seconds to compile. So the first of these learns on eight devices, where other tests take a step of it.
LEARNING = {
    "ranknet": learning(30, loss="ranknet", learning_rate=6e-3, tensor_parallel=2),
    "sequential": learning(60, layout=Layout.SEQUENTIAL, scoring=Scoring.LABEL),
    "lora": learning(50, lora=Lora(rank=4, alpha=32.0), learning_rate=1e-2),
    "bfloat16": learning(30, dtype="bfloat16", accumulate=2, learning_rate=6e-3),
}


@cache
def two_layers():
    """Of the tiny model: enough for the task, and each pass is shorter."""
    model = tiny_model()
    layers = {name: x[:2] for name, x in model.params["layers"].items()}
    return replace(model, config=replace(model.config, num_layers=2), params={**model.params, "layers": layers})


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
    return PromptBuilder(load_template(str(path)), two_layers().tokenizer, 3)


@pytest.fixture(scope="module")
def batch_of_eight(builder):
    """Eight examples, and one pass of them."""
    examples = Task().draw(np.random.default_rng(0), 8)
    return examples, Collator(builder, Layout.PARALLEL, Scoring.ANCHOR)(examples)


@pytest.fixture(scope="module")
def shared(builder):
    """One on a single device, for tests that need no settings of their own: it holds no state, only programs."""
    return new_trainee(builder, UNCLIPPED)


@pytest.fixture(scope="module")
def learners(builder):
    """A trainee of `LEARNING` by its name, made once."""
    return cache(lambda name: new_trainee(builder, LEARNING[name]))


def new_trainee(builder, settings=SETTINGS, devices=None):
    """On one device, or on all where its tensors are split."""
    model = two_layers()
    devices = devices or (ONE if settings.tensor_parallel == 1 else jax.devices())
    return Trainee(model.params, model.config, builder, settings, devices)


def trainer(builder, folder, settings=SETTINGS, identity="run", trainee=None, source=None):
    """Its clock goes on by a second whenever it is read."""
    trainee = trainee or new_trainee(builder, settings)
    validation = Task().draw(np.random.default_rng(99), 20)
    collator = Collator(builder, settings.layout, settings.scoring)
    return trainee, Trainer(
        trainee,
        collator,
        DrawnBuckets(source or Task()),
        validation,
        settings,
        folder,
        identity,
        count().__next__,
    )


def start(trainee):
    return trainee.initial_state(two_layers().params)


def leaves(state):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


class RecordedTask(Task):
    """Remembers the examples of each draw."""

    def __init__(self):
        self.draws = []

    def draw(self, rng, num_examples):
        self.draws.append(super().draw(rng, num_examples))
        return self.draws[-1]


class KilledError(Exception):
    pass


def kill_after(number):
    def on_pass(step, loss, ndcg):
        if step == number:
            raise KilledError

    return on_pass


def test_a_killed_run_continues_to_the_same_losses_and_weights(builder, shared, tmp_path):
    losses, trainee = {}, shared
    source = RecordedTask()
    _, whole = trainer(builder, tmp_path / "whole", trainee=trainee, source=source)
    expected = whole.run(start(trainee), lambda step, loss, ndcg: losses.setdefault(step, loss))
    _, first = trainer(builder, tmp_path / "killed", trainee=trainee)
    with pytest.raises(KilledError):
        first.run(start(trainee), kill_after(5))
    again, points = {}, []
    _, second = trainer(builder, tmp_path / "killed", trainee=trainee)
    state = second.run(start(trainee), lambda step, loss, ndcg: again.setdefault(step, loss), points.append)
    first_draw, second_draw = source.draws
    assert first_draw != second_draw, "the second bucket of passes repeats the first"
    assert again == {step: loss for step, loss in losses.items() if step > 4}  # the last checkpoint was at 4
    for ours, theirs in zip(leaves(state), leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    curves = [
        [json.loads(line) for line in (tmp_path / name / CURVE).read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert curves[0] == curves[1]
    assert points == [CurvePoint(**point) for point in curves[1][2:]]
    assert [point["step"] for point in curves[0]] == [2, 4, 6, 8]
    assert [point["train_s"] for point in curves[0]] == [1, 2, 3, 4], "two passes a point; validation is left out"
    assert [point["loss"] for point in curves[0]] == [(losses[step - 1] + losses[step]) / 2 for step in (2, 4, 6, 8)]


def emptied(checkpoint):
    """As a full disk leaves it: the files are there and hold nothing."""
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(b"")


def test_the_checkpoint_before_is_used_where_the_newest_is_damaged(builder, shared, tmp_path, caplog):
    _, first = trainer(builder, tmp_path, trainee=shared)
    losses = {}
    expected = first.run(start(shared), lambda step, loss, ndcg: losses.setdefault(step, loss))
    folder = tmp_path / "checkpoints"
    assert {path.name for path in folder.iterdir()} == {"6", "8"}
    emptied(folder / "8")
    _, second = trainer(builder, tmp_path, trainee=shared)
    again = {}
    state = second.run(start(shared), lambda step, loss, ndcg: again.setdefault(step, loss))
    assert again == {step: loss for step, loss in losses.items() if step > 6}
    assert f"checkpoint {folder / '8'} cannot be read" in caplog.text
    for ours, theirs in zip(leaves(state), leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for checkpoint in folder.iterdir():
        emptied(checkpoint)
    _, third = trainer(builder, tmp_path, trainee=shared)
    with pytest.raises(ValueError, match=r"no checkpoint can be read .*checkpoints/8.*checkpoints/6.*remove them"):
        third.run(start(shared))


# Orbax's threads each raise what the first has raised; the others' comes when nobody listens any more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_is_a_line_and_the_run_goes_on_once_there_is_room(builder, shared, tmp_path):
    losses, expected = {}, {}
    _, whole = trainer(builder, tmp_path / "whole", trainee=shared)
    whole.run(start(shared), lambda step, loss, ndcg: expected.setdefault(step, loss))
    _, first = trainer(builder, tmp_path / "full", trainee=shared)
    with full_disk(2**14), pytest.raises(DiskError, match=r"full/checkpoints cannot be written: File too large"):
        first.run(start(shared))
    assert not [path for path in (tmp_path / "full" / "checkpoints").iterdir() if path.name.isdigit()]
    _, second = trainer(builder, tmp_path / "full", trainee=shared)
    second.run(start(shared), lambda step, loss, ndcg: losses.setdefault(step, loss))
    assert losses == expected
    assert {path.name for path in (tmp_path / "full" / "checkpoints").iterdir()} == {"6", "8"}


# Of `sequential` less is reached: a label has to be tied to its item first.
@pytest.mark.parametrize(
    ("name", "reached"), [("ranknet", 0.98), ("sequential", 0.85), ("lora", 0.98), ("bfloat16", 0.98)]
)
def test_learns(builder, learners, tmp_path, name, reached):
    trainee, run = trainer(builder, tmp_path, LEARNING[name], trainee=learners(name))
    before = run.validation(start(trainee)).ndcg_at_10
    after = run.validation(run.run(start(trainee))).ndcg_at_10
    assert before < 0.8  # chance is .71
    assert after > reached


def test_accumulating_two_halves_is_one_whole(builder, shared, batch_of_eight):
    """Of a loss that is a mean over requests; the moments show the gradient's size, which Adam's step does not."""
    examples, whole_batch = batch_of_eight
    collate = Collator(builder, Layout.PARALLEL, Scoring.ANCHOR)
    halves = new_trainee(builder, UNCLIPPED.model_copy(update={"accumulate": 2}))
    state, _ = shared.step(start(shared), whole_batch)
    parts, _ = halves.step(start(halves), collate(examples[:4]))
    for ours, theirs in zip(leaves(parts.trained), leaves(start(halves).trained), strict=True):
        np.testing.assert_array_equal(ours, theirs, "half a batch has changed a weight")
    parts, _ = halves.step(parts, collate(examples[4:]))
    for moment in ("mu", "nu"):
        ours, theirs = (leaves(optax.tree_utils.tree_get(s.optimizer, moment)) for s in (parts, state))
        scale = np.sqrt(sum(np.square(x).sum() for x in theirs))
        for own, their in zip(ours, theirs, strict=True):
            assert np.linalg.norm(own - their) < 1e-4 * scale


def test_weights_decay_and_norms_do_not():
    """By the optimizer alone, of gradients that are zero."""
    settings = SETTINGS.model_copy(update={"weight_decay": 0.5, "learning_rate": 0.01, "warmup_steps": 1})
    optimizer, params = new_optimizer(settings), two_layers().params
    zeros = jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(optimizer.update)
    _, state = update(zeros, optimizer.init(params), params)  # the first step of the warm-up is of size 0
    updates, _ = update(zeros, state, params)
    layers = params["layers"]
    kept = {name: updates["layers"][name] for name in ("attn_norm", "mlp_norm", "q_norm", "k_norm")}
    for change in (updates["final_norm"], *kept.values()):
        assert not np.asarray(change).any()
    for name in layers.keys() - kept.keys():
        np.testing.assert_allclose(updates["layers"][name], -0.01 * 0.5 * layers[name], rtol=1e-5, err_msg=name)
    for name in params.keys() - {"layers", "final_norm"}:
        np.testing.assert_allclose(updates[name], -0.01 * 0.5 * params[name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("lora", [None, LEARNING["lora"].lora])
def test_no_weights_are_kept_beside_those_in_use(builder, lora):
    """Full fine-tuning: the weights and two moments. LoRA: the weights, and the adapters and theirs."""
    params = jax.tree.map(np.asarray, two_layers().params)
    before = live_bytes()
    trainee = new_trainee(builder, SETTINGS.model_copy(update={"lora": lora}))
    state = trainee.initial_state(params)
    needed = 3 * num_bytes(state.trained) + (num_bytes(params) if lora else 0)
    assert needed <= live_bytes() - before < needed + 100, "the optimizer counts its steps, and that is all"
    assert trainee.config.num_layers == 2  # it lives until here


def num_bytes(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def live_bytes():
    gc.collect()
    return num_bytes(jax.live_arrays())


@pytest.mark.parametrize("num_devices", [1, 8])
def test_a_step_ends_the_state_it_is_given_but_not_what_that_was_made_of(shared, learners, batch_of_eight, num_devices):
    """The checkpoint's weights, which others may hold, survive that their copy is donated."""
    params = two_layers().params
    trainee = shared if num_devices == 1 else learners("ranknet")
    assert num_devices_of(start(trainee)) == num_devices
    given = trainee.initial_state(params)
    trainee.step(given, batch_of_eight[1])
    assert all(x.is_deleted() for x in jax.tree.leaves(given))
    assert not any(x.is_deleted() for x in jax.tree.leaves(params))


def num_devices_of(state):
    return len(state.trained["layers"]["gate_proj"].sharding.device_set)


@pytest.fixture(scope="module")
def plain_scores(builder, batch_of_eight):
    """Of a plain pass on one device, without a trainee."""
    score = jax.jit(candidate_scores, static_argnames=("config", "scoring"))
    model, vocab_ids = two_layers(), jnp.asarray(Scorer.of(builder).vocab_ids)
    return np.asarray(score(model.params, model.config, batch_of_eight[1], vocab_ids, Scoring.ANCHOR))


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_sharded_over_eight_devices_equals_one(builder, learners, batch_of_eight, plain_scores, tensor_parallel):
    """The conftest makes eight devices."""
    trainee = learners("ranknet") if tensor_parallel == 2 else new_trainee(builder, SETTINGS, jax.devices())
    assert num_devices_of(start(trainee)) == 8
    np.testing.assert_allclose(trainee.scores(start(trainee), batch_of_eight[1]), plain_scores, atol=1e-5)
    layers = start(trainee).trained["layers"]
    assert len({str(shard.index) for shard in layers["gate_proj"].addressable_shards}) == tensor_parallel


@pytest.mark.parametrize("lora", [None, LEARNING["lora"].lora])
def test_a_step_leaves_the_state_where_it_was(builder, learners, batch_of_eight, lora):
    """Each weight's moments are split as it is; a step that moved them would be compiled once more."""
    split = SETTINGS.model_copy(update={"tensor_parallel": 2, "lora": lora})
    trainee = new_trainee(builder, split) if lora else learners("ranknet")
    state = start(trainee)
    placed = [x.sharding for x in jax.tree.leaves(state)]
    assert {len(sharding.device_set) for sharding in placed} == {8}
    num_split = sum(not sharding.is_fully_replicated for sharding in placed)
    num_split_weights = sum(not x.sharding.is_fully_replicated for x in jax.tree.leaves(state.trained))
    assert (num_split_weights > 0) == (lora is None)
    assert num_split >= 3 * num_split_weights  # and both moments
    state, _ = trainee.step(state, batch_of_eight[1])
    assert [x.sharding for x in jax.tree.leaves(state)] == placed


def test_another_run_s_folder_is_refused(builder, shared, tmp_path):
    trainer(builder, tmp_path, identity="one", trainee=shared)
    with pytest.raises(ValueError, match="run of other settings"):
        trainer(builder, tmp_path, identity="two", trainee=shared)


def test_a_loss_that_is_not_finite_ends_the_run(builder, shared, tmp_path):
    params = two_layers().params
    params = {**params, "final_norm": params["final_norm"] * np.nan}
    _, run = trainer(builder, tmp_path, trainee=shared)
    with pytest.raises(FloatingPointError, match="pass 1 is nan"):
        run.run(shared.initial_state(params))
