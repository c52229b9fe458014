"""What the engine says of a request: where its tokens came from, where its time went, and what the pool holds."""

import pytest
from tiny_engine import ARMS, PAGE_TOKENS, event, item, recommend, together

from rcjax.catalog.types import User
from rcjax.prompt import Layout
from rcjax.request import RecommendRequest

ANCHOR = "parallel_anchor_blocks"
ITEMS = [item(i) for i in range(5)]
EVENTS = (event(0), event(1))
ALL = tuple(one.item_id for one in ITEMS)


@pytest.fixture
def stocked(engine):
    engine.put_items(ITEMS)
    engine.put_user(User("u", EVENTS))
    return engine


@pytest.mark.parametrize("arm", ARMS)
def test_tokens_add_up(stocked, oracle, arm):
    pieces = oracle.pieces(EVENTS, ITEMS, ARMS[arm].layout, ARMS[arm].scoring)
    length = {kind: sum(len(p.ids) for p in pieces if p.kind == kind) for kind in ("instruction", "history", "item")}
    kinds = {"none": 0, "instruction": 1, "prefix": 2, "blocks": 3}[ARMS[arm].reuse]
    reused = sum(list(length.values())[:kinds])
    selected = {"none": 0, "full": reused}.get(ARMS[arm].selection)
    if selected is None:
        selected = 3 * len(ITEMS) if ARMS[arm].layout is Layout.SEQUENTIAL else 0
    tokens = recommend(stocked, ALL, arm=arm).tokens
    assert tokens.prompt_len == sum(len(piece.ids) for piece in pieces)
    assert (tokens.cached, tokens.selected, tokens.built) == (reused - selected, selected, 0)


def test_misses_are_built_once(engine, oracle):
    num_items = sum(len(oracle.item_ids(one)) for one in ITEMS)
    num_history = len(oracle.history_ids(EVENTS))
    built = [recommend(engine, ITEMS, "", history=EVENTS).tokens.built for _ in range(2)]
    assert built == [num_items + num_history, 0]
    stats = engine.stats()
    assert (stats.num_misses, stats.num_hits) == (1 + 5, 1 + 7)  # the instruction is there from the start


def test_in_a_batch_a_miss_belongs_to_the_request_that_brought_it(engine, oracle):
    lengths = [len(oracle.item_ids(one)) for one in ITEMS]
    num_history = len(oracle.history_ids(EVENTS))
    requests = [RecommendRequest(tuple(ITEMS[at]), history=EVENTS, arm=ANCHOR) for at in (slice(0, 2), slice(1, 4))]
    built = [result.tokens.built for result in together(engine, requests)]
    assert built == [num_history + lengths[0] + lengths[1], lengths[2] + lengths[3]]
    assert engine.stats().tokens.built == sum(built)


def test_stats_sum_up_the_requests(stocked):
    before = stocked.stats().tokens
    tokens = [result.tokens for result in stocked.recommend([RecommendRequest(ALL, "u", arm=arm) for arm in ARMS])]
    after = stocked.stats().tokens
    for name in ("cached", "selected", "fresh", "built"):
        total = sum(getattr(one, name) for one in tokens)
        assert getattr(after, name) - getattr(before, name) == total


def test_times_are_stages_of_the_whole(stocked):
    times = recommend(stocked, ALL).times
    stages = [times.plan_ms, times.build_ms, times.probe_ms, times.extend_ms, times.readout_ms]
    assert all(stage >= 0 for stage in stages)
    assert sum(stages) <= times.ttft_ms + 1e-6


def test_cached_bytes_are_what_the_pages_hold(engine, settings):
    pages, config = engine.executor.pages, engine.parts.model.config
    page_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim * PAGE_TOKENS * 4
    budget = int(settings.cache.pool_bytes)
    assert engine.stats().pool_bytes == pages.num_bytes == (engine.stats().pages_total + 1) * page_bytes
    assert budget - page_bytes < pages.num_bytes <= budget
