"""An engine whose pool is quantised: what it answers, beside the float64 oracle, and what it keeps bit for bit."""

import numpy as np
import pytest
from dense_oracle import cached_kv
from tiny_engine import (
    PAGE_TOKENS,
    assert_idle,
    compiled_parts,
    event,
    item,
    recommend,
    restarted,
    scores,
    tiny_settings,
)

from rcjax.catalog.types import User
from rcjax.config import ArmSettings, CacheSettings, SemanticSettings, ShapeSettings
from rcjax.errors import RcjaxError
from rcjax.evaluation.fidelity import kl_divergence
from rcjax.kernels.quantisation import dequantise
from rcjax.prompt import BlockKind, History, Layout, Owner, Scoring
from rcjax.serving.snapshots import restore, save

ITEMS = [item(i, num_words=1 + i) for i in range(6)]  # 1 to 4 pages each
IDS = [one.item_id for one in ITEMS]
EVENTS = tuple(event(i) for i in range(4))
PARALLEL = {"layout": Layout.PARALLEL, "scoring": Scoring.ANCHOR}
ARMS = {
    "parallel": ArmSettings(**PARALLEL),
    "lent": ArmSettings(history=History.SEMANTIC, **PARALLEL),
}
HALF_STEP = {"int8": 0.5, "fp8": 16}  # of the scale, at most
MAX_KL_NATS = {"int8": 1e-3, "fp8": 1e-2}  # random weights tell candidates apart by little


@pytest.fixture(scope="module", params=["int8", "fp8"])
def kv_dtype(request):
    return request.param


@pytest.fixture(scope="module")
def quantised(tmp_path_factory, kv_dtype):
    settings = tiny_settings(
        tmp_path_factory.mktemp(kv_dtype),
        arms=ARMS,
        default_arm="parallel",
        cache=CacheSettings(page_tokens=PAGE_TOKENS, kv_dtype=kv_dtype, pool_bytes=2**20),
        shapes=ShapeSettings(rank=((256, 64),), build=((48, 16), (128, 8))),
        semantic=SemanticSettings(min_similarity=0.6),
    )
    return compiled_parts(settings), settings


@pytest.fixture
def engine(quantised):
    """With pages that are poisoned where nothing was written."""
    engine = restarted(*quantised)
    engine.put_items(ITEMS)
    engine.put_user(User("u", EVENTS))
    return engine


def block(engine, kind, name):
    return engine.cache.directory.current(kind, Owner("", name))


def bits(engine, cached, num_tokens=None):
    """Of a block's values and scales, token by token."""
    pages = engine.executor.read_pages(cached.pages)
    arrays = (pages.k, pages.v, pages.k_scale, pages.v_scale)
    flat = [array.reshape(array.shape[0], -1, *array.shape[3:]) for array in arrays]
    return [array[:, : num_tokens or cached.num_tokens].tobytes() for array in flat]


def test_the_pool_holds_more_pages_in_the_same_bytes(engine, kv_dtype):
    of_pool = engine.executor.format
    assert of_pool.dtype == {"int8": "int8", "fp8": "float8_e4m3fn"}[kv_dtype]
    assert engine.executor.pool_bytes == engine.executor.pages.num_pages * of_pool.page_bytes <= 2**20
    float32_bytes = 2 * of_pool.num_layers * of_pool.page_tokens * of_pool.num_kv_heads * of_pool.head_dim * 4
    assert of_pool.page_bytes == float32_bytes * (of_pool.head_dim + 4) / (4 * of_pool.head_dim)


def test_a_cached_block_is_what_was_computed_within_half_a_step(engine, oracle, kv_dtype):
    """In the first layer; those above it attend to the instruction, which is rounded too."""
    cached = block(engine, BlockKind.ITEM, "i5")
    pages = engine.executor.read_pages(cached.pages)
    exact = cached_kv(oracle.model, oracle.instruction, oracle.item_ids(ITEMS[5]))
    for values, scale, expected in zip((pages.k, pages.v), (pages.k_scale, pages.v_scale), exact, strict=True):
        found = dequantise(values, scale)
        flat, step = (x.reshape(x.shape[0], -1, *x.shape[3:])[:, : cached.num_tokens] for x in (found, scale))
        error = np.abs(flat - expected)
        assert (error[0] <= HALF_STEP[kv_dtype] * step[0, ..., None] * (1 + 1e-4) + 1e-5).all()
        assert (error[1:] <= 3 * HALF_STEP[kv_dtype] * step[1:, ..., None]).all()
        assert error.max() > 1e-4, "nothing was rounded"


def test_ranks_nearly_as_the_whole_prompt_in_float64(engine, oracle, kv_dtype):
    expected = oracle.scores(EVENTS, ITEMS, Layout.PARALLEL, Scoring.ANCHOR)
    found = scores(engine, IDS, arm="parallel")
    truth, values = (np.array([of[one] for one in IDS]) for of in (expected, found))
    assert 0 < kl_divergence(truth, values) < MAX_KL_NATS[kv_dtype]
    assert np.abs(truth - values).max() > 1e-4, "nothing was rounded"


def test_the_order_of_candidates_and_what_else_is_cached_change_nothing(engine):
    alone = scores(engine, IDS[:3], arm="parallel")
    assert scores(engine, IDS[2::-1], arm="parallel") == {key: pytest.approx(alone[key], abs=1e-5) for key in alone}
    engine.put_items([item(9)])
    assert scores(engine, IDS[:3], arm="parallel") == alone


def test_a_block_that_is_computed_anew_has_the_same_bits(engine):
    """Alone both times: float32 sums of a pass of other tokens may differ in their last bit."""
    found = []
    for _ in range(2):
        engine.delete_items(["i3"])
        engine.put_items([ITEMS[3]])
        found.append(bits(engine, block(engine, BlockKind.ITEM, "i3")))
    assert found[0] == found[1]


def test_a_history_that_grows_keeps_its_bits(engine):
    """Into its last page, which was partly filled."""
    engine.put_user(User("v", EVENTS[:2]))
    former = block(engine, BlockKind.HISTORY, "v")
    assert former.num_tokens % PAGE_TOKENS
    before, num_tokens, pages = bits(engine, former), former.num_tokens, former.pages
    engine.append_events("v", EVENTS[2:3])
    grown = block(engine, BlockKind.HISTORY, "v")
    assert grown.num_tokens > num_tokens
    assert grown.pages[: len(pages)] == pages
    assert bits(engine, grown, num_tokens) == before


def test_a_snapshot_gives_another_engine_the_same_answers(engine, quantised, tmp_path):
    expected, kept = scores(engine, IDS, arm="parallel"), bits(engine, block(engine, BlockKind.ITEM, "i4"))
    saved = save(engine, tmp_path)
    assert saved.num_bytes == sum(
        len(one.pages) * engine.executor.format.page_bytes
        for one in engine.directory.ready_blocks()
        if one.kind != BlockKind.INSTRUCTION
    )
    other = restarted(*quantised)
    assert restore(other, tmp_path) == saved
    assert bits(other, block(other, BlockKind.ITEM, "i4")) == kept
    other.put_items(ITEMS)
    other.put_user(User("u", EVENTS))
    assert scores(other, IDS, arm="parallel") == expected


def test_spoiled_kv_is_an_error_of_the_request_that_reads_it_alone(engine):
    expected = scores(engine, IDS[:3], arm="parallel")

    def spoil(worker):
        pages = block(engine, BlockKind.ITEM, "i5").pages
        values = worker.cache.executor.read_pages(pages)
        values.v_scale[1, 0, 0] = np.nan
        worker.cache.executor.write_pages(pages, values)

    engine.call_workers(spoil)
    answer = recommend(engine, IDS, arm="parallel")
    assert isinstance(answer, RcjaxError)
    assert "not finite" in str(answer)
    assert scores(engine, IDS[:3], arm="parallel") == expected
    assert_idle(engine)


def test_histories_are_lent_in_the_pool_s_own_format(engine, oracle, kv_dtype):
    """A user who borrows from the same history: the exact scores, but for rounding twice."""
    assert engine.build_semantic_pool() > 0
    answer = recommend(engine, IDS, "", arm="lent", history=EVENTS)
    assert answer.tokens.semantic > 0
    found = {ranked.item_id: ranked.score for ranked in answer.ranking}
    expected = oracle.scores(EVENTS, ITEMS, Layout.PARALLEL, Scoring.ANCHOR)
    truth, values = (np.array([of[one] for one in IDS]) for of in (expected, found))
    assert kl_divergence(truth, values) < 2 * MAX_KL_NATS[kv_dtype]


def test_a_whole_history_and_one_that_grew_rank_alike(quantised, kv_dtype):
    """Each token is quantised by itself, so that only float32's own rounding is between them."""
    grown, whole = restarted(*quantised), restarted(*quantised)
    for engine, events in ((grown, EVENTS[:2]), (whole, EVENTS)):
        engine.put_items(ITEMS)
        engine.put_user(User("u", events))
    grown.append_events("u", EVENTS[2:])
    found, expected = (scores(engine, IDS, arm="parallel") for engine in (grown, whole))
    tolerance = 1e-3 if kv_dtype == "int8" else 1e-2  # a value that is nearly a tie may go either way
    assert found == {key: pytest.approx(value, abs=tolerance) for key, value in expected.items()}
