"""Histories that borrow KV, against dense attention in float64 over what brute force says they borrow."""

import math
from concurrent.futures import Future

import numpy as np
import pytest
from dense_oracle import causal_kv
from driving import drain, held
from lending import DONOR_EVENTS, EVENTS, IDS, ITEMS, LENT, SELECTIONS, lending_settings, lent
from tiny_engine import (
    PAGE_TOKENS,
    assert_idle,
    close_to,
    compiled_parts,
    item,
    recommend,
    restarted,
    together,
    unstarted,
)

from rcjax.cache.semantic import Match
from rcjax.catalog.types import User
from rcjax.engine.compilation import CompilationCounter
from rcjax.engine.generation import Sampling
from rcjax.engine.state import RequestState, claim_of
from rcjax.errors import RcjaxError, ResourceExhaustedError
from rcjax.prompt import BlockKind, Layout, Owner, Scoring
from rcjax.request import PutUser, RecommendRequest

LAYOUTS = [layout.value for layout in Layout]


@pytest.fixture(scope="module")
def lending(tmp_path_factory):
    settings = lending_settings(tmp_path_factory.mktemp("lending"))
    return compiled_parts(settings), settings


@pytest.fixture
def engine(lending):
    """With a pool that one other user filled, and pages that are full of NaN where nothing was written."""
    engine = restarted(*lending)
    engine.put_items(ITEMS)
    engine.put_user(User("donor", DONOR_EVENTS))
    assert engine.build_semantic_pool() > 0
    return engine


@pytest.fixture(scope="module")
def ids(oracle):
    return oracle.history_ids(EVENTS)


@pytest.fixture(scope="module")
def borrowed(oracle, ids):
    """KV by offset, of most of the history's tokens that are not instance-specific but not of all."""
    found = lent(oracle, ids, oracle.history_ids(DONOR_EVENTS))
    own = lent(oracle, ids, ids)
    assert 0.5 * len(own) < len(found) < len(own)
    return found


def ask(engine, arm, user_id="", history=EVENTS):
    """The tokens and scores of a request that brings its history along."""
    result = recommend(engine, IDS, user_id, arm=arm, history=history)
    if isinstance(result, Exception):
        raise result
    return result.tokens, {ranked.item_id: ranked.score for ranked in result.ranking}


def dense_scores(oracle, layout, borrowed, events=EVENTS):
    """Items keep the KV that they have alone: in the parallel layout that is what the prompt gives them."""
    trusted = {i: range(len(oracle.item_ids(one))) for i, one in enumerate(ITEMS)}
    return oracle.scores(events, ITEMS, Layout(layout), Scoring.LABEL, trusted, borrowed)


def num_item_tokens(oracle):
    return sum(len(oracle.item_ids(one)) for one in ITEMS)


def know_user(engine, user_id, events):
    """Puts a user into the library of an engine whose threads are not started."""
    plan = engine.planner.plan_write(PutUser(User(user_id, events)))
    engine.library.swap(plan)
    engine.library.versions.end_write(plan.version)


class TestScores:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_what_is_borrowed_is_used(self, engine, oracle, borrowed, layout):
        found = ask(engine, f"{layout}_none")[1]
        assert found == close_to(dense_scores(oracle, layout, borrowed))
        assert found != close_to(dense_scores(oracle, layout, {}))

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_a_pool_of_the_same_history_is_exact(self, engine, oracle, ids, layout):
        engine.delete_user("donor")
        engine.put_user(User("u", EVENTS))
        engine.build_semantic_pool()
        tokens, found = ask(engine, f"{layout}_none")
        assert tokens.semantic == len(lent(oracle, ids, ids)) > 0
        assert found == close_to(dense_scores(oracle, layout, {}))

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_selecting_all_is_full_recompute(self, engine, oracle, layout):
        tokens, found = ask(engine, f"{layout}_all")
        assert tokens.semantic == tokens.cached == 0
        for expected in (
            oracle.scores(EVENTS, ITEMS, Layout(layout), Scoring.LABEL),
            ask(engine, f"{layout}_full")[1],
        ):
            assert found == {key: pytest.approx(value, abs=2e-5) for key, value in expected.items()}

    def test_deviation_corrects_the_borrowed_tokens_that_deviate_most(self, engine, oracle, ids, borrowed):
        k, v = causal_kv(oracle.model, oracle.instruction, ids)
        change = {t: (k[1, t] - near_k[1], v[1, t] - near_v[1]) for t, (near_k, near_v) in borrowed.items()}
        deviation = {t: np.square(parts).sum() for t, parts in change.items()}
        worst = sorted(deviation, key=deviation.__getitem__)[-math.ceil(0.3 * len(borrowed)) :]
        left = {t: kv for t, kv in borrowed.items() if t not in worst}
        assert ask(engine, "parallel_deviation")[1] == close_to(dense_scores(oracle, "parallel", left))

    def test_heavy_hitters_are_those_that_receive_most_attention(self, engine, oracle, borrowed):
        """Equal tokens have equal KV in the first layer, so that nothing deviates there."""
        received = oracle.received(EVENTS, ITEMS, Layout.PARALLEL, Scoring.LABEL)
        best = sorted(borrowed, key=received.__getitem__)[-math.ceil(0.4 * len(borrowed)) :]
        left = {t: kv for t, kv in borrowed.items() if t not in best}
        assert ask(engine, "parallel_heavy_hitter")[1] == close_to(dense_scores(oracle, "parallel", left))

    def test_generation_borrows_too(self, engine):
        request = RecommendRequest(IDS, history=EVENTS, arm="parallel_all")
        found = engine.generate(request, Sampling(max_new_tokens=5))
        history = engine.prompt(request).blocks[1]
        assert engine.directory.current(history.kind, history.owner) is None
        exact = RecommendRequest(IDS, history=EVENTS, arm="parallel_exact")
        assert found == engine.generate(exact, Sampling(max_new_tokens=5))
        assert_idle(engine)


class TestCounts:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_tokens_that_found_nothing_are_fresh(self, engine, oracle, ids, borrowed, layout):
        tokens = ask(engine, f"{layout}_none")[0]
        pieces = oracle.pieces(EVENTS, ITEMS, Layout(layout), Scoring.LABEL)
        glue = sum(len(piece.ids) for piece in pieces if piece.kind in ("before", "after", "task"))
        assert tokens.fresh == glue + len(ids) - len(borrowed)
        assert (tokens.semantic, tokens.selected, tokens.built) == (len(borrowed), 0, 0)
        assert tokens.cached == len(oracle.instruction) + len(borrowed) + num_item_tokens(oracle)
        assert engine.stats().tokens.semantic == len(borrowed)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("name", SELECTIONS)
    def test_policies_choose_among_the_borrowed(self, engine, oracle, borrowed, layout, name):
        history, items = len(borrowed), num_item_tokens(oracle)
        correctable = history + (items if layout == "sequential" else 0)
        per_kind = math.ceil(0.4 * history) + (math.ceil(0.2 * items) if layout == "sequential" else 0)
        expected = {
            "none": 0,
            "all": len(oracle.instruction) + history + items,
            "boundary": 2 + (2 * len(ITEMS) if layout == "sequential" else 0),
            "deviation": math.ceil(0.3 * correctable),
            "narrowed": math.ceil(0.2 * correctable),
            "heavy_hitter": per_kind,
            "query": math.ceil(0.3 * correctable),
        }[name]
        tokens = ask(engine, f"{layout}_{name}")[0]
        assert tokens.selected == expected
        if layout == "parallel" and name != "all":
            assert tokens.semantic == history - expected
        if name == "heavy_hitter":
            assert tokens.semantic == history - math.ceil(0.4 * history)

    def test_a_probe_over_cached_kv_computes_what_found_nothing(self, engine, borrowed):
        trusting = ask(engine, "parallel_none")[0]
        assert ask(engine, "parallel_query")[0].probed == trusting.fresh
        survivors = math.ceil(0.5 * len(borrowed))
        narrowed = ask(engine, "parallel_narrowed")[0]
        assert narrowed.probed == narrowed.prompt_len + survivors + trusting.fresh


class TestPages:
    @pytest.mark.parametrize("arm", LENT)
    def test_nothing_is_left_behind(self, engine, arm):
        ask(engine, arm)
        before = engine.stats()
        ask(engine, arm)
        after = engine.stats()
        assert (after.pages_used, after.num_misses) == (before.pages_used, before.num_misses)
        assert_idle(engine)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_the_exact_key_still_misses_and_is_computed_when_put(self, engine, oracle, layout):
        engine.put_user(User("u", EVENTS))
        engine.call_workers(lambda worker: worker.cache.directory.drop(BlockKind.HISTORY, Owner("", "u")))
        assert ask(engine, f"{layout}_none", "u", None)[0].semantic > 0
        assert engine.directory.current(BlockKind.HISTORY, Owner("", "u")) is None
        engine.put_user(User("u", EVENTS))
        tokens, found = ask(engine, f"{layout}_none", "u", None)
        assert tokens.semantic == 0
        for expected in (dense_scores(oracle, layout, {}), ask(engine, f"{layout}_exact")[1]):
            assert found == close_to(expected)

    def test_cached_and_borrowed_histories_in_one_pass(self, engine):
        requests = [
            RecommendRequest(IDS, "donor", arm="sequential_deviation"),
            RecommendRequest(IDS[:2], history=EVENTS, arm="sequential_deviation"),
        ]
        both = together(engine, requests)
        assert [result.tokens.semantic > 0 for result in both] == [False, True]
        for request, result in zip(requests, both, strict=True):
            (alone,) = engine.recommend([request])
            assert result.tokens == alone.tokens
            assert {r.item_id: r.score for r in result.ranking} == close_to({r.item_id: r.score for r in alone.ranking})

    @pytest.mark.parametrize("step", ["rank", "probe", "write_pages"])
    def test_an_error_gives_pages_back(self, engine, monkeypatch, step):
        def fail(*args, **kwargs):
            raise RuntimeError("broken")

        ask(engine, "sequential_exact", history=())
        before = engine.stats().pages_used
        monkeypatch.setattr(engine.executor, step, fail)
        with pytest.raises(RcjaxError, match="internal error"):
            ask(engine, "sequential_deviation")
        assert engine.stats().pages_used == before
        assert_idle(engine)

    def test_a_loan_that_found_no_pages_is_forgotten_once_the_history_is_cached(self, lending, oracle, ids):
        """A request that waits for pages is looked at again at each try; batches count what its loan leaves fresh."""
        engine = unstarted(*lending)
        for user_id, events in (("donor", DONOR_EVENTS), ("u", EVENTS)):
            know_user(engine, user_id, events)
        semantic = engine.worker.semantic
        drain(engine.cache, semantic.build(0))
        with engine.router.planned(RecommendRequest((item(1),), "u", arm="parallel_none")) as plan:
            engine.directory.drop(BlockKind.HISTORY, Owner("", "u"), plan.version)
            state = RequestState(plan, 0.0, None, Future(), claim_of(plan))
        wanted = state.claim.wanted
        semantic.borrow(state)
        assert state.loan is not None
        assert state.claim.num_scratch_pages > 0
        num_lent = len(lent(oracle, ids, ids))  # the pool has its own KV
        assert state.size.fresh_tokens == plan.size.fresh_tokens + len(ids) - num_lent
        history = next(block for block in plan.prompt.blocks if block.kind is BlockKind.HISTORY)
        with held(engine.cache, [history], version=plan.version):
            semantic.borrow(state)
        assert (state.loan, state.extra_fresh, state.claim.num_scratch_pages) == (None, 0, 0)
        assert [one.key for one in state.claim.wanted] == [one.key for one in wanted]
        other = engine.builder.history_block(engine.builder.history_ids(DONOR_EVENTS), Owner("", "u"))
        with held(engine.cache, [other], version=plan.version):  # the user's, and of other content
            semantic.borrow(state)
        assert state.loan is not None

    @pytest.mark.parametrize("num_spare", [0, -1])
    def test_without_room_the_request_is_refused(self, lending, oracle, ids, num_spare):
        blocks = [oracle.instruction, ids, *map(oracle.item_ids, ITEMS)]
        num_pages = sum(-(-len(block) // PAGE_TOKENS) for block in blocks)
        engine = restarted(*lending, num_pages=1 + num_pages + num_spare)
        engine.put_user(User("donor", DONOR_EVENTS[:1]))
        engine.build_semantic_pool()
        (result,) = engine.recommend([RecommendRequest(tuple(ITEMS), history=EVENTS, arm="parallel_none")])
        if num_spare:
            assert isinstance(result, ResourceExhaustedError)
        else:
            assert result.tokens.semantic > 0
        assert_idle(engine)


class TestWithoutAMatch:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_without_a_pool_the_history_is_computed(self, lending, oracle, ids, layout):
        engine = restarted(*lending)
        assert engine.build_semantic_pool() == 0, "there are no users"
        engine.put_items(ITEMS)
        tokens, found = ask(engine, f"{layout}_none")
        assert (tokens.semantic, tokens.built) == (0, len(ids))
        assert found == close_to(dense_scores(oracle, layout, {}))

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_a_history_that_finds_nothing_is_fresh(self, engine, oracle, ids, monkeypatch, layout):
        nothing = Match(np.full(len(ids), -1), np.zeros(len(ids), np.float32), np.zeros(len(ids), bool))
        fresh = ask(engine, f"{layout}_none")[0]
        monkeypatch.setattr(engine.worker.semantic._pool, "lookup", lambda token_ids, min_similarity: nothing)
        for name in SELECTIONS:
            tokens, found = ask(engine, f"{layout}_{name}")
            assert tokens.semantic == 0
            if name == "none":
                assert tokens.fresh == fresh.fresh + fresh.semantic
                assert found == close_to(dense_scores(oracle, layout, {}))

    @pytest.mark.parametrize("arm", LENT)
    def test_an_empty_history(self, engine, arm):
        tokens, found = ask(engine, arm, history=())
        assert tokens.prompt_len == ask(engine, f"{arm.partition('_')[0]}_full", history=())[0].prompt_len
        assert np.isfinite(list(found.values())).all()


class TestPool:
    def test_it_is_drawn_by_seed(self, lending):
        engine = restarted(*lending)
        for n, one in enumerate(DONOR_EVENTS):
            engine.put_user(User(f"donor{n}", (one,)))
        engine.worker.semantic._num_sampled_users = 2
        engine.put_items(ITEMS)

        def found(seed):
            engine.build_semantic_pool(seed)
            return ask(engine, "parallel_none")[1]

        assert found(0) == found(0)
        assert any(found(seed) != found(0) for seed in range(1, 4))

    def test_what_a_user_lends_goes_with_the_last_who_has_that_history(self, engine):
        engine.put_user(User("twin", DONOR_EVENTS))
        engine.put_user(User("other", (DONOR_EVENTS[0],)))
        engine.build_semantic_pool()
        former = ask(engine, "parallel_none")[0].semantic
        assert engine.delete_user("twin")
        assert ask(engine, "parallel_none")[0].semantic == former, "the donor has the same history"
        assert engine.delete_user("donor")
        left = ask(engine, "parallel_none")[0].semantic
        assert 0 < left < former
        engine.build_semantic_pool()
        assert ask(engine, "parallel_none")[0].semantic >= left
        assert engine.delete_user("other")
        assert ask(engine, "parallel_none")[0].semantic == 0
        assert engine.worker.semantic._pool is None
        assert engine.build_semantic_pool() == 0

    def test_nothing_is_compiled_for_it(self, lending):
        engine = restarted(*lending)
        count = CompilationCounter()
        engine.put_items(ITEMS)
        engine.put_user(User("donor", DONOR_EVENTS))
        engine.build_semantic_pool()
        for arm in LENT:
            ask(engine, arm)
        assert count() == 0

    def test_an_engine_whose_arms_do_not_borrow_has_none(self, compiled, settings):
        engine = restarted(compiled, settings)
        engine.put_user(User("donor", DONOR_EVENTS))
        assert engine.build_semantic_pool() == 0
