"""Passes whose tiles read pages for themselves: the same scores as without tiles, and as the whole prompt's."""

import pytest
from tiny_engine import ARMS, PAGE_TOKENS, TILED, close_to, event, item, recommend, restarted, together

from rcjax.catalog.types import User
from rcjax.prompt import Layout, Scoring
from rcjax.request import RecommendRequest

TILED_ARMS = ["parallel_anchor_blocks", "parallel_anchor_blocks_boundary"]
ARM = TILED_ARMS[0]
ITEMS = [item(i, num_words=1 + i % 4) for i in range(12)]  # 1 to 3 pages each
LONG = item(20, num_words=8)
EVENTS = tuple(event(i) for i in range(4))


@pytest.fixture
def stocked(compiled, settings):
    engine = restarted(compiled, settings)
    engine.put_items([*ITEMS, LONG])
    engine.put_user(User("u", EVENTS))
    return engine


@pytest.fixture
def ran(stocked):
    """The shapes of the passes that ranked, from now on."""
    shapes, rank = [], stocked.executor.rank
    stocked.executor.rank = lambda batch, shape: shapes.append(shape) or rank(batch, shape)
    return shapes


@pytest.fixture
def prefer(stocked, monkeypatch):
    """Makes shapes with tiles, or those without, the faster ones."""

    def prefer_tiles(are_fast: bool) -> None:
        monkeypatch.setattr(
            stocked.parts.rank_shapes, "seconds", lambda shape: 1.0 if bool(shape.tiles) == are_fast else 100.0
        )

    return prefer_tiles


def scores_of(result):
    return {ranked.item_id: ranked.score for ranked in result.ranking}


def ids(items):
    return [one.item_id for one in items]


def num_pages(oracle, one):
    return -(-len(oracle.item_ids(one)) // PAGE_TOKENS)


@pytest.mark.parametrize("arm", TILED_ARMS)
@pytest.mark.parametrize(
    "items",
    [
        pytest.param(ITEMS[:1], id="one item"),
        pytest.param(ITEMS[:8], id="as many as tiles"),
        pytest.param(ITEMS[:10], id="two more than tiles"),
        pytest.param([ITEMS[0], LONG, ITEMS[1]], id="one longer than a tile"),
    ],
)
def test_scores_are_those_of_the_whole_prompt_and_of_a_pass_without_tiles(stocked, oracle, prefer, ran, arm, items):
    prefer(True)
    tiled = recommend(stocked, ids(items), arm=arm)
    prefer(False)
    untiled = recommend(stocked, ids(items), arm=arm)
    assert [bool(shape.tiles) for shape in ran] == [True, False]
    assert scores_of(tiled) == close_to(scores_of(untiled))
    assert scores_of(tiled) == close_to(oracle.scores(EVENTS, items, Layout.PARALLEL, Scoring.ANCHOR))
    assert tiled.tokens == untiled.tokens


def test_the_items_are_of_all_lengths(oracle):
    lengths = {num_pages(oracle, one) for one in ITEMS}
    assert min(lengths) == 1
    assert max(lengths) <= TILED.tile_pages < num_pages(oracle, LONG)
    assert len(lengths) > 2


@pytest.mark.parametrize("arm", [arm for arm in ARMS if arm not in TILED_ARMS])
def test_arms_whose_tokens_read_all_items_or_move_them_score_as_without(stocked, prefer, ran, arm):
    prefer(False)
    untiled = recommend(stocked, ids(ITEMS[:2]), arm=arm)
    prefer(True)
    found = recommend(stocked, ids(ITEMS[:2]), arm=arm)
    assert scores_of(found) == close_to(scores_of(untiled))
    assert not ran[0].tiles
    if arm.startswith("sequential") and arm.endswith(("_blocks", "_boundary")):
        assert not ran[1].tiles, "a shape with tiles turns no keys"


def test_eight_requests_in_one_pass_score_as_each_alone(stocked, prefer, ran):
    """Of other lengths each, other users, with texts of their own, and with more items than tiles."""
    stocked.put_user(User("v", tuple(event(i) for i in range(20, 27))))
    requests = [
        RecommendRequest(tuple(ids(ITEMS[:8])), "u", arm=ARM),
        RecommendRequest(("i3",), "v", arm=ARM),
        RecommendRequest(("i4", LONG.item_id, "i2"), "v", arm=ARM),
        RecommendRequest(tuple(ids(ITEMS[2:12])), "u", arm=ARM),
        RecommendRequest((item(90, text="new"), "i1"), "u", arm=ARM),
        RecommendRequest(("i1", "i0"), history=(event(50),), arm=ARM),
        RecommendRequest(("i0", "i1"), history=(), arm=ARM),
        RecommendRequest(tuple(ids(ITEMS[7:])), "v", arm=ARM),
    ]
    prefer(False)
    alone = [stocked.recommend([request])[0] for request in requests]
    assert not any(shape.tiles for shape in ran)
    ran.clear()
    prefer(True)
    answers = together(stocked, requests)
    (shape,) = ran
    assert (shape.tiles, shape.batch) == (TILED.tiles, 8)
    for one, other in zip(answers, alone, strict=True):
        assert scores_of(one) == close_to(scores_of(other))


def test_two_requests_of_other_sizes_share_a_pass(stocked, oracle, prefer, ran):
    """Rows that are not filled, and the other's tiles, change nothing."""
    prefer(True)
    requests = [RecommendRequest(tuple(ids(some)), "u", arm=ARM) for some in (ITEMS[:7], [ITEMS[9]])]
    answers = together(stocked, requests)
    (shape,) = ran
    assert shape.tiles
    for answer, items in zip(answers, (ITEMS[:7], [ITEMS[9]]), strict=True):
        assert scores_of(answer) == close_to(oracle.scores(EVENTS, items, Layout.PARALLEL, Scoring.ANCHOR))
    assert answers[0].tokens.cached > answers[1].tokens.cached
