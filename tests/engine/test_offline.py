"""Orders of correction: against mean deviations worked out densely, and who gets one when."""

import numpy as np
import pytest
from dense_oracle import causal_kv, dense
from probing import EVENTS, IDS, ITEMS, know
from tiny_engine import close_to, item, recommend, restarted

from rcjax.prompt import BlockKind, Layout, Owner, Scoring


@pytest.fixture
def engine(probing):
    engine = restarted(*probing)
    know(engine)
    engine.choose_orders()
    return engine


def mean_deviations(oracle, prompt):
    """Of each item of a sequential prompt, by id: averaged over layers."""
    ids = np.concatenate([block.token_ids for block in prompt.blocks])
    model = oracle.model
    _, k, v, _ = dense(model.params, model.config, ids, np.arange(len(ids)), np.tri(len(ids), dtype=bool))
    found = {}
    for block in prompt.blocks:
        if block.kind is BlockKind.ITEM:
            alone = causal_kv(model, oracle.instruction, block.token_ids)
            square = sum(
                ((new[:, block.start : block.end] - old) ** 2).sum((2, 3))
                for new, old in zip((k, v), alone, strict=True)
            )
            found[block.owner.id] = np.sqrt(square).mean(0)
    return found


def test_stored_orders_are_of_mean_deviation_in_the_sampled_prompts(probing, oracle, monkeypatch):
    engine = restarted(*probing)
    know(engine)
    prompts = []
    orders = engine.worker._orders
    sample = orders._prompt
    monkeypatch.setattr(orders, "_prompt", lambda *args: prompts.append(sample(*args)) or prompts[-1])
    assert engine.choose_orders() == len(ITEMS)
    assert len(prompts) == 4
    totals = {one.item_id: np.zeros(len(oracle.item_ids(one))) for one in ITEMS}
    for sampled in prompts:
        assert sampled.blocks[1].owner == Owner("", "u")
        assert sorted(b.owner.id for b in sampled.blocks if b.kind is BlockKind.ITEM) == sorted(IDS)
        for item_id, deviation in mean_deviations(oracle, sampled).items():
            totals[item_id] += deviation
    for item_id, total in totals.items():
        order = engine.cache.directory.current(BlockKind.ITEM, Owner("", item_id)).order
        assert sorted(order) == list(range(len(total)))
        assert (np.diff(total[order]) <= 1e-4).all(), "largest first"


def orders(engine):
    return {one.id: engine.cache.directory.current(BlockKind.ITEM, one).order for one in engine.library.item_owners}


def test_the_same_calls_and_seed_give_the_same_orders(probing, engine):
    other = restarted(*probing)
    know(other)
    other.choose_orders()
    assert {i: list(order) for i, order in orders(engine).items()} == {
        i: list(order) for i, order in orders(other).items()
    }


def test_items_put_later_get_one_and_others_keep_theirs(engine):
    before = orders(engine)
    engine.put_items([item(40), item(1, text="new")])
    after = orders(engine)
    assert len(after["i40"]) == engine.cache.directory.current(BlockKind.ITEM, Owner("", "i40")).num_tokens
    assert len(after["i1"]) > len(before["i1"])
    assert all(after[i].tolist() == before[i].tolist() for i in IDS if i != "i1")
    assert engine.choose_orders() == 0


@pytest.mark.parametrize("num_pages", [12, 16])
def test_where_the_pool_is_too_small_those_that_stay_get_one(probing, num_pages):
    engine = restarted(*probing, num_pages=num_pages)  # the null page and 5 of the instruction come off
    engine.put_items(ITEMS)
    num_chosen = engine.choose_orders()
    kept = [block for block in engine.cache.directory.ready_blocks() if block.kind == BlockKind.ITEM]
    assert 0 < len(kept) < len(ITEMS)
    assert [block.order is not None for block in kept] == [True] * num_chosen


def test_prompts_are_no_longer_than_a_shape_holds(probing, monkeypatch):
    engine = restarted(*probing)
    engine.put_items([item(i, num_words=6) for i in range(100, 112)])
    lengths = []
    selector = engine.worker._orders._selector
    measure = selector.measure
    monkeypatch.setattr(
        selector, "measure", lambda m, rows, tables: lengths.append(rows[0].num_fresh) or measure(m, rows, tables)
    )
    assert engine.choose_orders() == 12
    assert max(lengths) <= 272
    assert sum(lengths) > 4 * 272


def test_without_an_order_the_first_tokens_are_taken(probing, oracle):
    engine = restarted(*probing)
    know(engine)
    assert set(orders(engine).values()) == {None}
    trusted = {i: range(3, len(oracle.item_ids(one))) for i, one in enumerate(ITEMS)}
    expected = oracle.scores(EVENTS, ITEMS, Layout.SEQUENTIAL, Scoring.LABEL, trusted=trusted)
    found = recommend(engine, IDS, arm="offline").ranking
    assert {ranked.item_id: ranked.score for ranked in found} == close_to(expected)


def test_an_engine_without_the_policy_has_nothing_to_do(compiled, settings):
    engine = restarted(compiled, settings)
    know(engine)
    assert engine.choose_orders() == 0
    assert set(orders(engine).values()) == {None}
