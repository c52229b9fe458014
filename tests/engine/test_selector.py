"""Policies that measure: their scores and choices against dense attention in float64, and their identities."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
from dense_oracle import rotate
from driving import drain, held
from probing import ARMS, EVENTS, IDS, ITEMS, POLICIES, Dense, best, know
from tiny_engine import TILED, compiled_parts, event, restarted, tiny_model, tiny_settings, together, unstarted

from rcjax.catalog.types import User
from rcjax.config import ShapeSettings
from rcjax.engine.compilation import CompilationCounter
from rcjax.engine.cost import Program
from rcjax.engine.generation import Sampling
from rcjax.engine.selector import PinnedPrompt
from rcjax.engine.shape import Shape
from rcjax.kernels.kv import KVPages
from rcjax.model.selection import Measure, Quantity
from rcjax.prompt import BlockKind, Layout, Owner, Scoring
from rcjax.request import PutItems, PutUser, RecommendRequest

TOLERANCE = 1e-5


@pytest.fixture
def engine(probing):
    """With pages that are full of NaN where nothing was written."""
    engine = restarted(*probing)
    know(engine)
    engine.choose_orders()
    return engine


@pytest.fixture
def still(probing):
    """The same before its threads start: a test runs the passes itself."""
    engine = unstarted(*probing)
    for write in (PutItems(tuple(ITEMS)), PutUser(User("u", EVENTS))):
        plan = engine.planner.plan_write(write)
        engine.library.swap(plan)
        engine.library.versions.end_write(plan.version)
    return engine


def compile_probe(engine, measure):
    """One that no arm of this engine has."""
    selector, programs = engine.worker._loop._ranker.selector, engine.parts.programs
    for shape in selector.shapes(measure):
        if not programs.has(Program("probe", shape, measure)):
            programs.compile_probe(Program("probe", shape, measure), *selector.probe_arrays([], [], shape))


@pytest.fixture(scope="module")
def prompt(oracle):
    return Dense(oracle)


def recommend(engine, arm, ids=IDS, user="u"):
    (result,) = engine.recommend([RecommendRequest(tuple(ids), user, arm=arm)])
    if isinstance(result, Exception):
        raise result
    return result


def scores(result):
    return {ranked.item_id: ranked.score for ranked in result.ranking}


def approx(expected):
    return {key: pytest.approx(value, abs=TOLERANCE) for key, value in expected.items()}


@contextmanager
def pinned(engine, arm):
    """The prompt over all items with its blocks pinned, and the selector of an engine that nothing else uses."""
    with engine.router.planned(RecommendRequest(IDS, "u", arm=arm)) as plan:
        blocks = [plan.prompt.blocks[index] for index in plan.cached]
        with held(engine.cache, blocks) as (cached, _):
            yield PinnedPrompt(plan.prompt, dict(zip(plan.cached, cached, strict=True)), engine.parts.page_tokens)


def measure(engine, measure, prompt, offsets):
    """What one probe says of the cached tokens, those at `offsets` of each block being computed."""
    selector = engine.worker._loop._ranker.selector
    (found,) = drain(engine.cache, selector.measure(measure, [prompt.row(offsets)], [prompt.table]))
    return found


def whole(prompt):
    return [np.arange(block.num_tokens) for block in prompt.cached.values()]


def of_items(prompt, values):
    kinds = np.repeat(
        [prompt.prompt.blocks[i].kind for i in prompt.cached], [b.num_tokens for b in prompt.cached.values()]
    )
    return values[..., kinds == BlockKind.ITEM]


def test_only_glue_and_task_ask(still):
    """In a pass that computes all: what other fresh tokens attend to says nothing of the question."""
    with pinned(still, "query") as pins:
        row = pins.row([np.arange(block.num_tokens) for block in pins.cached.values()])
        selector = still.worker._loop._ranker.selector
        _, _, asks = selector.probe_arrays([row], [pins.table], Shape(272, 0, 2))
    kinds = [block.kind for block in pins.prompt.blocks for _ in range(len(block))]
    assert set(kinds) == set(BlockKind)
    assert asks[0, : len(kinds)].tolist() == [kind in (BlockKind.GLUE, BlockKind.TASK) for kind in kinds]
    assert not asks[0, len(kinds) :].any()
    assert not asks[1].any()


class TestScores:
    @pytest.mark.parametrize("layer", [1, 2])
    def test_deviation_of_a_layer(self, still, prompt, layer):
        compile_probe(still, Measure(Quantity.DEVIATION, layer))
        with pinned(still, "deviation") as request:
            found = measure(still, Measure(Quantity.DEVIATION, layer), request, whole(request))
        expected = prompt.deviation(layer, prompt.all_items)
        assert expected.min() > 1e-3, "items depend on what comes before them"
        np.testing.assert_allclose(of_items(request, found), expected, rtol=1e-4, atol=1e-5)

    def test_deviation_of_survivors_only(self, still, prompt):
        fresh = np.random.default_rng(0).random(prompt.num_item_tokens) < 0.4
        offsets = [np.zeros(0, int)] * 2 + [np.array(part, int) for part in prompt.split(fresh)]
        with pinned(still, "narrowed") as request:
            found = measure(still, Measure(Quantity.DEVIATION, 2, is_whole=False), request, offsets)
        found = of_items(request, found)
        assert np.isneginf(found[~fresh]).all()
        np.testing.assert_allclose(found[fresh], prompt.deviation(2, fresh)[fresh], rtol=1e-4, atol=1e-5)

    def test_first_layer(self, still, prompt):
        """There KV depends on the token alone: nothing deviates."""
        with pinned(still, "heavy_hitter") as request:
            found = measure(still, Measure(Quantity.FIRST_LAYER), request, whole(request))
        attention, deviation = of_items(request, found)
        everyone = np.ones(len(prompt.ids), bool)
        np.testing.assert_allclose(attention, prompt.received(1, everyone, prompt.all_items), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(deviation, 0, atol=1e-4)

    def test_first_layer_of_other_cached_kv(self, still):
        """As a semantic history will have: pages changed by a known amount deviate by it."""
        with pinned(still, "heavy_hitter") as request:
            history = list(request.cached.values())[1]
            kv = still.executor.read_pages(history.pages)
            rng = np.random.default_rng(0)
            change = [rng.standard_normal(x.shape).astype(np.float32) for x in (kv.k, kv.v)]
            start = len(still.builder.instruction_ids)
            layers, _, _, *heads = kv.k.shape
            pos = start + np.arange(kv.k[0, ..., 0, 0].size)
            turned = rotate(change[0].reshape(layers, -1, *heads), pos, tiny_model().config).reshape(kv.k.shape)
            still.executor.write_pages(history.pages, KVPages(kv.k + turned.astype(np.float32), kv.v + change[1]))
            found = measure(still, Measure(Quantity.FIRST_LAYER), request, whole(request))
        expected = sum(np.abs(x[0]).reshape(-1, x[0][0, 0].size).sum(1) for x in change)[: history.num_tokens]
        np.testing.assert_allclose(found[1, start : start + history.num_tokens], expected, rtol=1e-4)

    @pytest.mark.parametrize(("layers", "arm"), [(3, "query"), (2, "query_two_layers")])
    def test_query_attention(self, still, prompt, layers, arm):
        asked = Measure(Quantity.QUERY_ATTENTION, 0 if layers == 3 else layers, is_whole=False)
        with pinned(still, arm) as request:
            found = measure(still, asked, request, [np.zeros(0, int) for _ in request.cached])
        expected = prompt.received(layers, prompt.asks, ~prompt.all_items)
        np.testing.assert_allclose(of_items(request, found), expected, rtol=1e-4, atol=1e-5)


def expected_choice(name, prompt, engine):
    """The offsets in each item that a policy should select, from dense scores."""
    num = prompt.num_item_tokens
    everyone = np.ones(len(prompt.ids), bool)
    if name == "deviation":
        return prompt.split(best(prompt.deviation(1, prompt.all_items), math.ceil(0.3 * num)))
    if name == "narrowed":
        survivors = best(prompt.deviation(1, prompt.all_items), math.ceil(0.5 * num))
        second = np.where(survivors, prompt.deviation(2, survivors), -1)
        return prompt.split(best(second, math.ceil(0.2 * num)))
    if name == "heavy_hitter":
        window = np.arange(num) >= num - 5
        attention = np.where(window, np.inf, prompt.received(1, everyone, prompt.all_items))
        return prompt.split(best(attention, 5 + math.ceil(0.2 * num)))
    if name == "query":
        return prompt.split(best(prompt.received(3, prompt.asks, ~prompt.all_items), math.ceil(0.3 * num)))
    if name == "query_two_layers":
        return prompt.split(best(prompt.received(2, prompt.asks, ~prompt.all_items), math.ceil(0.3 * num)))
    if name == "union":
        is_first = np.concatenate([np.arange(length) < 2 for length in prompt.lengths])
        return prompt.split(
            best(np.where(is_first, np.inf, prompt.deviation(1, prompt.all_items)), math.ceil(0.4 * num))
        )
    assert name == "offline"
    orders = [engine.cache.directory.current(BlockKind.ITEM, Owner("", item_id)).order for item_id in IDS]
    return [sorted(order[:3].tolist()) for order in orders]


CHOOSING = ("deviation", "narrowed", "heavy_hitter", "query", "query_two_layers", "union", "offline")


class TestChoices:
    @pytest.mark.parametrize("name", CHOOSING)
    def test_what_is_selected_is_what_scores_say_and_the_rest_is_trusted(self, engine, oracle, prompt, name):
        chosen = expected_choice(name, prompt, engine)
        trusted = {i: sorted(set(range(n)) - set(chosen[i])) for i, n in enumerate(prompt.lengths)}
        expected = oracle.scores(EVENTS, ITEMS, Layout.SEQUENTIAL, Scoring.LABEL, trusted=trusted)
        result = recommend(engine, name)
        assert result.tokens.selected == sum(map(len, chosen))
        assert scores(result) == approx(expected)
        assert expected != approx(oracle.scores(EVENTS, ITEMS, Layout.SEQUENTIAL, Scoring.LABEL))

    @pytest.mark.parametrize("name", [name for name in ARMS if name.startswith("all_")])
    def test_selecting_all_is_full_recompute(self, engine, oracle, prompt, name):
        result = recommend(engine, name)
        assert scores(result) == approx(oracle.scores(EVENTS, ITEMS, Layout.SEQUENTIAL, Scoring.LABEL))
        assert result.tokens.selected == prompt.num_item_tokens

    @pytest.mark.parametrize("name", [name for name in ARMS if name.startswith("no_")])
    def test_selecting_nothing_is_none(self, engine, name):
        result = recommend(engine, name)
        assert scores(result) == approx(scores(recommend(engine, "none")))
        assert result.tokens.selected == 0

    def test_anchor_scores_too(self, engine, oracle):
        prompt = Dense(oracle, Scoring.ANCHOR)
        chosen = prompt.split(
            best(prompt.received(3, prompt.asks, ~prompt.all_items), math.ceil(0.3 * prompt.num_item_tokens))
        )
        trusted = {i: sorted(set(range(n)) - set(chosen[i])) for i, n in enumerate(prompt.lengths)}
        expected = oracle.scores(EVENTS, ITEMS, Layout.SEQUENTIAL, Scoring.ANCHOR, trusted=trusted)
        assert scores(recommend(engine, "anchor_query")) == approx(expected)

    @pytest.mark.parametrize("name", POLICIES)
    def test_two_batched_requests_are_as_each_alone(self, engine, name):
        engine.put_user(User("v", (event(50),)))
        requests = [RecommendRequest(IDS[:3], "u", arm=name), RecommendRequest(IDS[::-2], "v", arm=name)]
        for request, result in zip(requests, together(engine, requests), strict=True):
            alone = recommend(engine, name, request.candidates, request.user_id)
            assert scores(result) == approx(scores(alone))
            assert result.tokens == alone.tokens

    def test_generation_continues_the_corrected_prompt(self, engine):
        sampling = Sampling(max_new_tokens=6)
        found = {arm: engine.generate(RecommendRequest(IDS, "u", arm=arm), sampling) for arm in ("all_query", "full")}
        assert found["all_query"] == found["full"]


class TestReporting:
    def test_probed_tokens_are_those_of_the_passes(self, engine, prompt):
        every, asks = len(prompt.ids), int(prompt.asks.sum())
        survivors = math.ceil(0.5 * prompt.num_item_tokens)
        expected = {"none": 0, "offline": 0, "deviation": every, "heavy_hitter": every, "union": every, "query": asks}
        expected["narrowed"] = every + survivors + asks
        found = {name: recommend(engine, name).tokens.probed for name in expected}
        assert found == expected
        assert engine.stats().tokens.probed == sum(expected.values())

    def test_only_a_probe_takes_probing_time(self, engine):
        for name in POLICIES:
            result = recommend(engine, name)
            assert (result.times.probe_ms > 0) == (result.tokens.probed > 0)
            times = result.times
            stages = (times.plan_ms, times.build_ms, times.probe_ms, times.extend_ms, times.readout_ms)
            assert times.queue_ms + sum(stages) == pytest.approx(times.ttft_ms, abs=1e-6)

    @pytest.mark.parametrize("name", ["prefix_deviation", "parallel_deviation"])
    def test_where_every_cached_block_is_exact_nothing_is_probed(self, engine, name):
        tokens = recommend(engine, name).tokens
        assert (tokens.selected, tokens.probed) == (0, 0)
        assert tokens.cached > 0


class TestStart:
    def test_nothing_is_compiled_after_it(self, probing):
        assert {"deviation", "query", "offline"} <= set(probing[1].arms)
        engine = restarted(*probing)
        count = CompilationCounter()
        know(engine)
        engine.choose_orders()
        for name in ARMS:
            for num in (1, 4):
                together(engine, [RecommendRequest(IDS[:num], "u", arm=name), RecommendRequest(IDS[2:], "u", arm=name)])
                recommend(engine, name, IDS[:num])
        assert count() == 0

    def test_a_model_with_too_few_layers_is_named_with_the_arm(self, probing, tmp_path):
        settings = probing[1]
        arms = {"deep": settings.arms["none"].model_copy(update={"selection": "deviation(layers=3)"})}
        deep = tiny_settings(tmp_path, arms=arms, default_arm="deep", shapes=settings.shapes)
        deep = deep.model_copy(update={"compilation_cache": settings.compilation_cache})
        with pytest.raises(ValueError, match=r"arm 'deep', selection 'deviation\(layers=3\)'.* 3 layers"):
            compiled_parts(deep)

    def test_probes_need_a_shape_without_tiles(self, probing, tmp_path):
        settings = probing[1]
        shapes = ShapeSettings(rank=(TILED,), build=((128, 8),))
        tiled = tiny_settings(tmp_path, arms={"it": settings.arms["deviation"]}, default_arm="it", shapes=shapes)
        with pytest.raises(ValueError, match=r"arm 'it', selection 'deviation\(r=0.3\)'.* without tiles"):
            compiled_parts(tiled)
