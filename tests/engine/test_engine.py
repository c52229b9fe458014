"""The engine's calls: what they answer, what they refuse, and that neither harms what comes after."""

import dataclasses

import numpy as np
import pytest
from driving import changed
from tiny_engine import ARMS, LIMITS, assert_idle, close_to, event, item, recommend, restarted, scores

from rcjax.catalog.types import Event, Item, User
from rcjax.errors import InvalidRequestError, NotFoundError, ResourceExhaustedError
from rcjax.prompt import BlockKind, Layout, Owner, Scoring
from rcjax.request import RecommendRequest

TOLERANCE = 1e-5
ITEMS = [item(i) for i in range(5)]
EVENTS = (event(0), event(1))
ALL = tuple(one.item_id for one in ITEMS)
ANCHOR = "parallel_anchor_blocks"
SPREAD = (ANCHOR, "parallel_label_blocks", "sequential_label_prefix", "sequential_label_none")


@pytest.fixture
def stocked(engine):
    engine.put_items(ITEMS)
    engine.put_user(User("u", EVENTS))
    return engine


class TestRanking:
    @pytest.mark.parametrize("arm", ARMS)
    def test_best_first_each_candidate_once(self, stocked, arm):
        ranking = recommend(stocked, ALL, arm=arm).ranking
        assert [ranked.rank for ranked in ranking] == [1, 2, 3, 4, 5]
        assert sorted(ranked.item_id for ranked in ranking) == sorted(ALL)
        found = [ranked.score for ranked in ranking]
        assert found == sorted(found, reverse=True)

    @pytest.mark.parametrize("arm", SPREAD)
    def test_equal_scores_keep_the_candidates_order(self, stocked, monkeypatch, arm):
        monkeypatch.setattr(stocked.executor, "rank", changed(stocked.executor.rank, np.zeros_like))
        shuffled = ("i3", "i0", "i4", "i1", "i2")
        assert [ranked.item_id for ranked in recommend(stocked, shuffled, arm=arm).ranking] == list(shuffled)

    @pytest.mark.parametrize("top_k", [1, 3, 5])
    def test_top_k(self, stocked, top_k):
        assert recommend(stocked, ALL, top_k=top_k).ranking == recommend(stocked, ALL).ranking[:top_k]

    def test_without_an_arm_the_default_serves(self, stocked):
        result = recommend(stocked, ALL, arm="")
        assert result.arm == stocked.info().default_arm == "sequential_label_blocks_boundary"
        assert result.ranking == recommend(stocked, ALL, arm=result.arm).ranking

    def test_inline_items_and_history_need_no_catalogue(self, engine, oracle):
        found = scores(engine, ITEMS, "", history=EVENTS)
        assert found == close_to(oracle.scores(EVENTS, ITEMS, Layout.PARALLEL, Scoring.ANCHOR))
        assert (engine.stats().num_items, engine.stats().num_users) == (0, 0)

    def test_mixed_arms_in_one_call(self, stocked):
        requests = [RecommendRequest(ALL[: 2 + i % 3], "u", arm=arm) for i, arm in enumerate(ARMS)]
        together = stocked.recommend(requests)
        for request, result in zip(requests, together, strict=True):
            assert result.arm == request.arm
            alone = scores(stocked, request.candidates, arm=request.arm)
            assert {r.item_id: r.score for r in result.ranking} == close_to(alone)

    def test_no_requests_no_results(self, engine):
        assert engine.recommend([]) == []

    def test_prompt_shows_what_is_ranked(self, stocked, oracle):
        prompt = stocked.prompt(RecommendRequest(ALL, "u", arm="sequential_label_none"))
        pieces = oracle.pieces(EVENTS, ITEMS, Layout.SEQUENTIAL, Scoring.LABEL)
        shown = np.concatenate([block.token_ids for block in prompt.blocks])
        assert shown.tolist() == np.concatenate([piece.ids for piece in pieces]).tolist()


BAD = {
    "no candidates": (RecommendRequest((), "u"), InvalidRequestError, "candidates", "100"),
    "too many": (RecommendRequest(tuple(map(str, range(101))), "u"), InvalidRequestError, "candidates", "100"),
    "twice": (RecommendRequest(("i1", "i0", "i1"), "u"), InvalidRequestError, "candidates[2].item_id", "'i1'"),
    "unknown item": (RecommendRequest(("i1", "x"), "u"), NotFoundError, "candidates[1].item_id", "'x'"),
    "unknown user": (RecommendRequest(("i1",), "x"), NotFoundError, "user_id", "'x'"),
    "nobody": (RecommendRequest(("i1",)), InvalidRequestError, "user_id", "history"),
    "unknown arm": (RecommendRequest(("i1",), "u", arm="x"), InvalidRequestError, "arm", "parallel_anchor_blocks"),
    "long item": (RecommendRequest((Item("n", "x" * 50),), "u"), InvalidRequestError, "candidates[0].item", "40"),
    "top_k below 0": (
        RecommendRequest(("i1",), "u", top_k=-1),
        InvalidRequestError,
        "top_k",
        "1, the number of candidates",
    ),
    "top_k above": (
        RecommendRequest(("i1",), "u", top_k=2),
        InvalidRequestError,
        "top_k",
        "1, the number of candidates",
    ),
    "long event": (
        RecommendRequest(("i1",), history=(Event("i", "x" * 99),)),
        InvalidRequestError,
        "history.events",
        "96",
    ),
}


class TestRefusing:
    @pytest.mark.parametrize("name", BAD)
    def test_the_error_names_field_and_limit_and_harms_nobody(self, stocked, name):
        request, kind, field, part = BAD[name]
        good = [RecommendRequest(ALL, "u", arm=ANCHOR), RecommendRequest(ALL[:2], "u", arm=request.arm and ANCHOR)]
        expected = [{r.item_id: r.score for r in result.ranking} for result in stocked.recommend(good)]
        before = stocked.stats()
        first, error, last = stocked.recommend([good[0], request, good[1]])
        assert type(error) is kind
        assert error.field == field
        assert part in error.message
        found = [{r.item_id: r.score for r in result.ranking} for result in (first, last)]
        assert found == [close_to(one) for one in expected]
        after = stocked.stats()
        assert (after.num_requests - before.num_requests, after.num_failed - before.num_failed) == (3, 1)
        assert after.num_misses == before.num_misses, "nothing is computed for a request that is refused"
        assert_idle(stocked)

    def test_a_prompt_that_fits_no_shape_names_the_sizes(self, stocked):
        stocked.put_items([item(i, num_words=6) for i in range(10, 40)])
        many = [f"i{i}" for i in range(10, 40)]
        good = RecommendRequest(ALL, "u", arm="sequential_label_none")
        error, result = stocked.recommend([dataclasses.replace(good, candidates=tuple(many)), good])
        assert isinstance(error, InvalidRequestError)
        for part in ("fresh_tokens=", "num_pages=0", "448 fresh tokens", "fewer candidates"):
            assert part in error.message
        assert len(result.ranking) == len(ALL)
        assert_idle(stocked)

    def test_a_pool_that_is_too_small(self, compiled, settings, oracle):
        engine = restarted(compiled, settings, num_pages=20)  # 14 pages for history and items
        engine.put_user(User("u", EVENTS))
        items = [item(i) for i in range(12)]
        small, large = (RecommendRequest(tuple(items[:n]), "u", arm=ANCHOR) for n in (2, 12))
        for requests in ([small, large, small], [large, small, large]):
            for request, result in zip(requests, engine.recommend(requests), strict=True):
                if request is large:
                    assert isinstance(result, ResourceExhaustedError)
                else:
                    expected = oracle.scores(EVENTS, items[:2], Layout.PARALLEL, Scoring.ANCHOR)
                    assert {r.item_id: r.score for r in result.ranking} == close_to(expected)
            assert_idle(engine)

    def test_a_catalogue_may_exceed_the_pool(self, compiled, settings, oracle):
        engine = restarted(compiled, settings, num_pages=20)
        items = [item(i) for i in range(40)]
        assert engine.put_items(items) == 40
        assert_idle(engine)
        engine.put_user(User("u", EVENTS))
        found = scores(engine, [one.item_id for one in items[:3]])
        assert found == close_to(oracle.scores(EVENTS, items[:3], Layout.PARALLEL, Scoring.ANCHOR))


class TestChanging:
    def test_failed_changes_change_nothing(self, stocked):
        stocked.put_user(User("v"))
        before, expected = stocked.stats(), scores(stocked, ALL)
        long = Item("new", "x" * LIMITS.max_item_tokens)
        story = Event("i", "x" * LIMITS.max_history_tokens)
        for call, error, field in [
            (lambda: stocked.put_items([item(9), item(0, text="changed"), long]), InvalidRequestError, "items[2]"),
            (lambda: stocked.put_items([item(9), Item("", "mug")]), InvalidRequestError, "items[1].item_id"),
            (lambda: stocked.put_user(User("u", (event(7), story))), InvalidRequestError, "user.events"),
            (lambda: stocked.put_user(User("", (event(7),))), InvalidRequestError, "user.user_id"),
            (lambda: stocked.append_events("u", [event(7), story]), InvalidRequestError, "events"),
            (lambda: stocked.append_events("nobody", [event(7)]), NotFoundError, "user_id"),
        ]:
            with pytest.raises(error) as caught:
                call()
            assert caught.value.field == field
        now = stocked.stats()
        assert (now.num_items, now.num_users, now.pages_used) == (before.num_items, before.num_users, before.pages_used)
        assert scores(stocked, ALL) == expected
        assert isinstance(recommend(stocked, ["i9"]), NotFoundError)
        assert_idle(stocked)

    def test_changes_that_find_no_room_change_nothing(self, compiled, settings, oracle):
        engine = restarted(compiled, settings, num_pages=10)  # four pages for users and items
        engine.put_user(User("u", (event(1),)))
        wide, long = item(1, num_words=7, text="abcdefg"), tuple(event(i) for i in range(5))
        for call in (
            lambda: engine.append_events("u", long),
            lambda: engine.put_user(User("u", long)),
            lambda: engine.put_user(User("v", long)),
            lambda: engine.put_items([item(2), wide]),
        ):
            with pytest.raises(ResourceExhaustedError):
                call()
            assert (engine.stats().num_items, engine.stats().num_users) == (0, 1)
            assert_idle(engine)
        found = scores(engine, [item(2)], arm="parallel_anchor_prefix")
        assert found == close_to(oracle.scores((event(1),), [item(2)], Layout.PARALLEL, Scoring.ANCHOR))

    def test_put_items_counts_what_it_computes(self, engine):
        assert engine.put_items(ITEMS) == 5
        assert engine.put_items(ITEMS) == 0
        assert engine.put_items([item(0, text="new"), *ITEMS[1:], item(7)]) == 2
        assert engine.stats().num_items == 6

    def test_delete_counts_what_existed_and_frees_pages(self, engine):
        used = engine.stats().pages_used
        engine.put_items(ITEMS)
        engine.put_user(User("u", EVENTS))
        assert engine.delete_items(["i0", "x", "i1"]) == 2
        assert isinstance(recommend(engine, ["i0"]), NotFoundError)
        assert engine.delete_items(ALL) == 3
        assert engine.delete_user("u")
        assert not engine.delete_user("u")
        assert isinstance(recommend(engine, ITEMS), NotFoundError)
        assert (engine.stats().num_items, engine.stats().num_users) == (0, 0)
        assert engine.stats().pages_used == used
        assert_idle(engine)

    def test_nothing_stale_is_read(self, stocked, oracle):
        """After every change the scores are those of the new texts, in all arms."""
        shelf, events = {one.item_id: one for one in ITEMS}, EVENTS

        def check():
            for arm in SPREAD:
                expected = oracle.scores(events, list(shelf.values()), ARMS[arm].layout, ARMS[arm].scoring)
                assert scores(stocked, shelf, arm=arm) == close_to(expected)

        check()
        for text in ("blue", "", "blue", "green"):  # new, back to the first, and new again
            shelf["i2"] = item(2, text=text)
            stocked.put_items([shelf["i2"]])
            check()
        stocked.delete_items(["i2"])
        shelf["i2"] = item(2, text="reborn")
        stocked.put_items([shelf["i2"]])
        check()
        for events in ((event(3),), (event(3), event(4)), (), EVENTS):
            stocked.put_user(User("u", events))
            check()
        stocked.delete_user("u")
        events = (event(5),)
        stocked.put_user(User("u", events))
        check()

    def test_inline_content_does_not_displace_what_is_stored(self, stocked, oracle):
        kept = {
            kind: stocked.cache.directory.current(*kind)
            for kind in [(BlockKind.ITEM, Owner("", "i1")), (BlockKind.HISTORY, Owner("", "u"))]
        }
        other, events = item(1, text="in disguise"), (event(8),)
        found = scores(stocked, ["i0", other], history=events)
        assert found == close_to(oracle.scores(events, [ITEMS[0], other], Layout.PARALLEL, Scoring.ANCHOR))
        for (kind, owner), block in kept.items():
            assert stocked.cache.directory.current(kind, owner) is block
        before = stocked.stats().num_misses
        found = scores(stocked, ["i0", "i1"])
        assert found == close_to(oracle.scores(EVENTS, ITEMS[:2], Layout.PARALLEL, Scoring.ANCHOR))
        assert stocked.stats().num_misses == before

    def test_inline_content_equal_to_what_is_stored_is_a_hit(self, stocked):
        result = recommend(stocked, ITEMS, history=EVENTS)
        assert result.tokens.built == 0
        assert result.ranking == recommend(stocked, ALL).ranking

    @pytest.mark.parametrize("steps", [[1], [2, 1, 1], [1] * 14, [9, 9]])
    def test_appending_equals_putting_the_longer_history(self, engine, compiled, settings, steps):
        """From an empty history, over page borders and beyond the window."""
        engine.put_user(User("u"))
        engine.put_items(ITEMS)
        number = 0
        for step in steps:
            engine.append_events("u", [event(number + i) for i in range(step)])
            number += step
            other = restarted(compiled, settings)
            other.put_user(User("u", engine.library.user("", "u").content))
            pages = []
            for one in (engine, other):
                block = one.cache.directory.current(BlockKind.HISTORY, Owner("", "u"))
                kv = one.executor.read_pages(block.pages)
                pages.append([x.reshape(x.shape[0], -1, *x.shape[3:])[:, : block.num_tokens] for x in (kv.k, kv.v)])
            np.testing.assert_allclose(pages[0], pages[1], atol=TOLERANCE, rtol=TOLERANCE)
        before = engine.stats().num_misses
        scores(engine, ALL)
        assert engine.stats().num_misses == before
