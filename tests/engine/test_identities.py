"""The identities: every way to serve a prompt that should be exact is, against a dense oracle and a causal pass."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_engine import ARMS, LIMITS, arms, event, item, tiny_model, together

from rcjax.catalog.types import User
from rcjax.model.decoder import forward
from rcjax.prompt import Layout, Reuse, Scoring
from rcjax.request import RecommendRequest

TOLERANCE = 1e-5  # float32 against float64
ITEMS = [item(i, num_words=1 + i) for i in range(6)]  # 1 to 4 pages each
EVENTS = [event(i) for i in range(4)]
EXACT = [
    *arms(layout=Layout.PARALLEL),
    *(name for name in arms(layout=Layout.SEQUENTIAL) if ARMS[name].reuse is not Reuse.BLOCKS),
    *arms(layout=Layout.SEQUENTIAL, selection="full"),
]


@pytest.fixture
def stocked(engine):
    engine.put_items(ITEMS)
    engine.put_user(User("u", tuple(EVENTS)))
    return engine


def recommend(engine, arm, items=tuple(ITEMS), **fields):
    (result,) = engine.recommend([RecommendRequest(tuple(i.item_id for i in items), "u", arm=arm, **fields)])
    if isinstance(result, Exception):
        raise result
    return result


def scores(engine, arm, items=tuple(ITEMS)):
    return {ranked.item_id: ranked.score for ranked in recommend(engine, arm, items).ranking}


def assert_close(found, expected, tolerance=TOLERANCE):
    assert found == {key: pytest.approx(value, abs=tolerance) for key, value in expected.items()}


@pytest.mark.parametrize("arm", EXACT)
def test_exact_arms_score_as_the_whole_prompt_does(stocked, oracle, arm):
    """Full recompute, prefixes, every token selected, and in the parallel layout all cached blocks too."""
    expected = oracle.scores(EVENTS, ITEMS, ARMS[arm].layout, ARMS[arm].scoring)
    assert_close(scores(stocked, arm), expected)


def test_full_recompute_is_a_flat_causal_pass(stocked, oracle):
    model = tiny_model()
    pieces = oracle.pieces(EVENTS, ITEMS, Layout.SEQUENTIAL, Scoring.LABEL)
    flat = np.concatenate([piece.ids for piece in pieces])
    logits = np.asarray(forward(model.params, model.config, jnp.asarray(flat[None])))[0, -1]
    labels = logits[[model.tokenizer.encode(label)[0] for label in "ABCDEF"]].astype(np.float64)
    expected = labels - np.log(np.exp(labels).sum())
    assert_close(scores(stocked, "sequential_label_none"), dict(zip([i.item_id for i in ITEMS], expected, strict=True)))


@pytest.mark.parametrize(
    ("suffix", "trusted"),
    [("", lambda n: range(n)), ("_boundary", lambda n: range(2, n - 1))],  # first=2 and last=1 are computed again
)
@pytest.mark.parametrize("scoring", Scoring)
def test_sequential_blocks_trust_what_an_item_is_on_its_own(stocked, oracle, scoring, suffix, trusted):
    offsets = {i: trusted(len(oracle.item_ids(item))) for i, item in enumerate(ITEMS)}
    expected = oracle.scores(EVENTS, ITEMS, Layout.SEQUENTIAL, scoring, trusted=offsets)
    exact = oracle.scores(EVENTS, ITEMS, Layout.SEQUENTIAL, scoring)
    assert max(abs(expected[key] - exact[key]) for key in exact) > 1e-2, "the approximation must show"
    assert_close(scores(stocked, f"sequential_{scoring}_blocks{suffix}"), expected)


@pytest.mark.parametrize("arm", arms(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR))
def test_order_of_candidates_does_not_change_anchor_scores(stocked, arm):
    assert_close(scores(stocked, arm, ITEMS[::-1]), scores(stocked, arm))


@pytest.mark.parametrize("arm", arms(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR))
def test_other_candidates_do_not_change_anchor_scores(stocked, arm):
    together = scores(stocked, arm)
    for candidate in ITEMS:
        assert_close(scores(stocked, arm, [candidate]), {candidate.item_id: together[candidate.item_id]})


def test_an_empty_history_is_a_history_that_says_so(engine, oracle):
    engine.put_user(User("u"))
    engine.put_items(ITEMS)
    for arm in EXACT:
        assert_close(scores(engine, arm), oracle.scores([], ITEMS, ARMS[arm].layout, ARMS[arm].scoring))


@pytest.mark.parametrize("arm", ARMS)
def test_two_batched_requests_score_as_each_alone(stocked, monkeypatch, arm):
    stocked.put_user(User("v", (event(50),)))
    requests = [
        RecommendRequest(("i0", "i1", "i2"), "u", arm=arm),
        RecommendRequest(("i4", "i2"), "v", arm=arm),
        RecommendRequest(("i3",), "u", arm=arm),
    ]
    alone = [stocked.recommend([request])[0] for request in requests]
    calls = []
    rank = stocked.executor.rank
    stocked.executor.rank = lambda batch, shape: calls.append(shape.batch) or rank(batch, shape)
    # Those with tiles have tests of their own.
    monkeypatch.setattr(stocked.parts.rank_shapes, "seconds", lambda shape: 100.0 if shape.tiles else 1.0)
    answers = together(stocked, requests)
    assert calls[0] == 2, "the test is about a pass of two rows"
    assert len(calls) == 2
    for one, other in zip(answers, alone, strict=True):
        assert_close({r.item_id: r.score for r in one.ranking}, {r.item_id: r.score for r in other.ranking})
        assert one.tokens == other.tokens


@pytest.mark.parametrize("layout", Layout)
def test_a_hundred_candidates_are_labelled(engine, oracle, layout):
    items = [item(i, num_words=1) for i in range(100)]
    assert len(items) == LIMITS.max_candidates
    engine.put_items(items)
    engine.put_user(User("u", tuple(EVENTS)))
    arm = f"{layout}_label_blocks"
    result = recommend(engine, arm, items)
    assert sorted(ranked.item_id for ranked in result.ranking) == sorted(i.item_id for i in items)
    trusted = {i: range(len(oracle.item_ids(one))) for i, one in enumerate(items)}
    assert_close(scores(engine, arm, items), oracle.scores(EVENTS, items, layout, Scoring.LABEL, trusted=trusted))
    assert recommend(engine, arm, items, top_k=7).ranking == result.ranking[:7]


def test_a_hundred_anchors_are_read_in_one_pass(engine, oracle):
    items = [item(i, num_words=1) for i in range(100)]
    engine.put_items(items)
    engine.put_user(User("u"))
    found = scores(engine, "parallel_anchor_blocks", items[:80])  # 80 anchors fill the largest shape
    assert_close(found, oracle.scores([], items[:80], Layout.PARALLEL, Scoring.ANCHOR))
