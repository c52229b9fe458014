"""Scores in training are the scores of serving, and losses are their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_engine import ARMS, close_all, compiled_parts, event, item, restarted, scores, tiny_settings
from tiny_model import TEMPLATE, tiny_model

from rcjax.config import ArmSettings, ShapeSettings
from rcjax.model.scoring import Scorer
from rcjax.model.selection import parse_policy
from rcjax.prompt import Layout, PromptBuilder, Scoring
from rcjax.prompt.template import load_template
from rcjax.training.collation import PAGE_TOKENS, Collator
from rcjax.training.devices import TrainDevices
from rcjax.training.examples import Example
from rcjax.training.loss import candidate_scores, divergence_loss, listwise_loss, ranknet_loss
from rcjax.training.teacher import Teacher

SERVED = {Layout.SEQUENTIAL: "none", Layout.PARALLEL: "blocks"}  # the reuse under which no KV is approximate
SELECTIVE = {"none": "trusting", "boundary(first=2, last=1)": "boundary", "full": "correcting"}
EXAMPLES = [
    Example(tuple(event(i) for i in range(3)), tuple(item(i) for i in (1, 2, 3)), (1,)),
    Example(tuple(event(i) for i in range(6)), tuple(item(i, num_words=2 + i) for i in (3, 4, 1)), (0, 0, 2)),
    Example((), tuple(item(i) for i in (5, 2, 6)), (2,)),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """One shape for each purpose holds all that is asked here."""
    wanted = [f"{layout}_{scoring}_{reuse}" for layout, reuse in SERVED.items() for scoring in Scoring]
    selective = {arm: ArmSettings(scoring=Scoring.ANCHOR, selection=policy) for policy, arm in SELECTIVE.items()}
    settings = tiny_settings(
        tmp_path_factory.mktemp("served"),
        arms={name: ARMS[name] for name in wanted} | selective,
        default_arm=wanted[0],
        shapes=ShapeSettings(rank=((448, 64),), build=((128, 8),), generate=((1, 8),)),
    )
    yield restarted(compiled_parts(settings), settings)
    close_all()


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "tiny.yaml"
    path.write_text(TEMPLATE, encoding="utf-8")
    return PromptBuilder(load_template(str(path)), tiny_model().tokenizer, 100)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("scoring", Scoring)
def test_scores_are_those_that_the_engine_serves(engine, layout, scoring):
    """Under full recompute in `sequential`, from cached blocks in `parallel`, where blocks are exact."""
    model = tiny_model()
    batch = Collator(engine.builder, layout, scoring)(EXAMPLES)
    vocab_ids = jnp.asarray(Scorer.of(engine.builder).vocab_ids)
    trained = np.asarray(candidate_scores(model.params, model.config, batch, vocab_ids, scoring))
    for row, example in zip(trained, EXAMPLES, strict=True):
        served = scores(
            engine, example.candidates, user_id="", history=example.history, arm=f"{layout}_{scoring}_{SERVED[layout]}"
        )
        row = row[:3]
        if scoring is Scoring.LABEL:  # the engine reports log-probabilities among the candidates' labels
            row = row - np.log(np.exp(row).sum())
        assert row.tolist() == pytest.approx([served[i.item_id] for i in example.candidates], abs=2e-5)


@pytest.mark.parametrize("scoring", Scoring)
def test_a_teacher_says_what_full_recompute_serves(engine, scoring):
    """Of candidates shown in another order, in the example's own."""
    model = tiny_model()
    devices = TrainDevices(jax.devices()[:1], 1)
    teacher = Teacher(model.params, model.config, engine.builder, scoring, jnp.float32, devices)
    orders = [np.array(order) for order in ([2, 0, 1], [0, 2, 1], [1, 0])]
    examples = [*EXAMPLES[:2], Example(EXAMPLES[0].history, EXAMPLES[0].candidates[:2])]
    for example, order, found in zip(examples, orders, teacher.scores(examples, orders), strict=True):
        shown = [example.candidates[i] for i in order]
        served = scores(engine, shown, user_id="", history=example.history, arm=f"sequential_{scoring}_none")
        if scoring is Scoring.LABEL:
            found = found - np.log(np.exp(found).sum())
        assert found.tolist() == pytest.approx([served[i.item_id] for i in example.candidates], abs=2e-5)


@pytest.mark.parametrize("selection", ["none", "boundary(first=2, last=1)", "full"])
def test_with_a_selection_scores_are_those_of_cached_blocks(engine, selection):
    """Items of the `sequential` layout come from where they were computed; what is selected is computed again."""
    model = tiny_model()
    batch = Collator(engine.builder, Layout.SEQUENTIAL, Scoring.ANCHOR, parse_policy(selection))(EXAMPLES)
    vocab_ids = jnp.asarray(Scorer.of(engine.builder).vocab_ids)
    trained = np.asarray(candidate_scores(model.params, model.config, batch, vocab_ids, Scoring.ANCHOR))
    for row, example in zip(trained, EXAMPLES, strict=True):
        served = scores(engine, example.candidates, user_id="", history=example.history, arm=SELECTIVE[selection])
        assert row.tolist() == pytest.approx([served[i.item_id] for i in example.candidates], abs=2e-5)


def test_a_policy_that_needs_a_probe_is_refused(builder):
    with pytest.raises(ValueError, match="asks for a probe"):
        Collator(builder, Layout.SEQUENTIAL, Scoring.ANCHOR, parse_policy("query(r=0.1)"))


@pytest.mark.parametrize("scoring", Scoring)
def test_requests_with_fewer_candidates_have_columns_that_are_none(engine, scoring):
    """Their scores are those that they have in a pass of their own."""
    model = tiny_model()
    short = Example(EXAMPLES[0].history, EXAMPLES[0].candidates[:2], (1,))
    collate = Collator(engine.builder, Layout.SEQUENTIAL, scoring)
    vocab_ids = jnp.asarray(Scorer.of(engine.builder).vocab_ids)
    together, alone = (
        np.asarray(candidate_scores(model.params, model.config, collate(examples), vocab_ids, scoring))
        for examples in ([short, EXAMPLES[1]], [short])
    )
    np.testing.assert_allclose(together[0, :2], alone[0, :2], atol=2e-5)
    batch = collate([short, EXAMPLES[1]])
    assert batch.is_candidate.sum(axis=1).tolist() == [2, 3]
    assert batch.target_shares.shape == batch.is_candidate.shape == (2, len(engine.builder.labels))


def test_blocks_that_requests_share_are_computed_once(builder):
    collate = Collator(builder, Layout.PARALLEL, Scoring.ANCHOR)
    once, thrice = collate(EXAMPLES[:1]), collate(EXAMPLES[:1] * 3)
    assert (once.build.tokens.pos >= 0).sum() == (thrice.build.tokens.pos >= 0).sum()
    assert thrice.rank.pages.table.shape[0] == 3


@pytest.mark.parametrize("layout", Layout)
def test_passes_have_few_shapes_and_little_padding(builder, layout):
    """Each shape is a program to compile: 15 s for six layers of SmolLM2."""
    collate = Collator(builder, layout, Scoring.ANCHOR)
    rng = np.random.default_rng(0)
    shapes = set()
    for _ in range(60):
        histories = [tuple(event(int(i)) for i in rng.permutation(30)[: rng.integers(1, 12)]) for _ in range(6)]
        candidates = tuple(item(int(i)) for i in rng.permutation(30)[:6])
        batch = collate([Example(history, candidates, (0,)) for history in histories for _ in range(2)])
        build, rank = batch.build.tokens.pos, batch.rank.tokens.pos
        shapes.add((build.shape, rank.shape, batch.rank.pages.table.shape))
        unused_rows = int((build < 0).all(axis=1).sum()) * build.shape[1]
        assert unused_rows <= (build.size + rank.size) / 8
        num_keys = batch.rank.pages.drop[0].size + rank.shape[1]
        most_used = int((batch.rank.pages.len > 0).sum(axis=1).max())
        assert (batch.rank.pages.len.shape[1] - most_used) * PAGE_TOKENS <= num_keys / 8
    assert len(shapes) <= 8, len(shapes)


def test_the_loss_counts_every_choice(builder):
    batch = Collator(builder, Layout.PARALLEL, Scoring.ANCHOR)(EXAMPLES)
    np.testing.assert_allclose(batch.target_shares, [[0, 1, 0], [2 / 3, 0, 1 / 3], [0, 0, 1]], rtol=1e-6)


def test_losses_are_their_formulas():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4, 5)).astype(np.float32)
    choices = [(0, 1), (4, 4), (2, 3), (2, 2)]  # each request was asked twice
    shares = np.array([np.bincount(of_one, minlength=5) / 2 for of_one in choices], np.float32)
    flat = [(b, t) for b, of_one in enumerate(choices) for t in of_one]
    listwise = np.mean([-values[b, t] + np.log(np.exp(values[b]).sum()) for b, t in flat])
    pairs = [np.log1p(np.exp(values[b, j] - values[b, t])) for b, t in flat for j in range(5) if j != t]
    given = [jnp.asarray(x) for x in (values, shares, np.ones((4, 5), bool))]
    assert float(listwise_loss(*given)) == pytest.approx(listwise, rel=1e-5)
    assert float(ranknet_loss(*given)) == pytest.approx(np.mean(pairs), rel=1e-5)
    softmax = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    divergence = np.mean(
        [sum(p * np.log(p / q) for p, q in zip(*of, strict=True) if p) for of in zip(shares, softmax, strict=True)]
    )
    assert float(divergence_loss(*given)) == pytest.approx(divergence, rel=1e-5)


@pytest.mark.parametrize("loss", [listwise_loss, divergence_loss, ranknet_loss])
def test_a_column_that_is_no_candidate_changes_nothing(loss):
    """Whatever its score: neither the loss of the requests that have fewer, nor its gradient."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 3)).astype(np.float32)
    shares = np.array([[0.5, 0.5, 0], [0, 0.2, 0.8]], np.float32)
    expected = loss(jnp.asarray(values), jnp.asarray(shares), jnp.ones((2, 3), bool))
    more = np.concatenate([values, np.full((2, 2), 50, np.float32)], axis=1)
    mask = jnp.asarray(np.arange(5) < np.array([[3], [3]]))
    value, gradient = jax.value_and_grad(loss)(jnp.asarray(more), jnp.asarray(np.pad(shares, ((0, 0), (0, 2)))), mask)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[:, 3:].any()
    assert np.abs(np.asarray(gradient)[:, :3]).sum() > 0.1
