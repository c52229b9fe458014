"""The engine in any order of calls under a pool too small for all, against plain dicts and the arm that caches nothing.

The arms are exact, so whatever was evicted, grown, overtaken or never built, the scores must be those of a full
recompute over what the dicts say; and each refusal must be one that the dicts explain.
"""

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tiny_engine import assert_idle, close_all, event, item, restarted

from rcjax.catalog.types import User
from rcjax.errors import NotFoundError, ResourceExhaustedError
from rcjax.request import RecommendRequest

NUM_PAGES = 22  # the null page, 5 of the instruction, 16 for what takes some 30
ITEM_IDS, USER_IDS = ("i1", "i2", "i3", "i4", "i5"), ("u", "v")
EXACT = {  # cached arm: the same without a cache
    "parallel_anchor_blocks": "parallel_anchor_none",
    "parallel_label_blocks": "parallel_label_none",
    "sequential_label_prefix": "sequential_label_none",
    "sequential_anchor_blocks_selected": "sequential_anchor_none",
}

item_ids = st.sampled_from(ITEM_IDS)
user_ids = st.sampled_from(USER_IDS)
texts = st.sampled_from(["", "blue", "large and green"])
event_numbers = st.lists(st.integers(0, 5), max_size=2)
candidate_lists = st.lists(item_ids, min_size=1, max_size=4, unique=True)


def text_of(item_id, text):
    return item(int(item_id[1:]), text=text)


class EngineMachine(RuleBasedStateMachine):
    compiled, settings = None, None  # set by the test, which gets them from fixtures

    @initialize()
    def start(self):
        self.engine = restarted(self.compiled, self.settings, num_pages=NUM_PAGES)
        self.oracle = restarted(self.compiled, self.settings)  # asked only with inline content, and caching none
        self.items, self.events = {}, {}
        self.put_items(dict.fromkeys(ITEM_IDS, ""))
        self.put_user("u", [1])

    @rule(texts=st.dictionaries(item_ids, texts, min_size=1, max_size=5))
    def put_items(self, texts):
        items = [text_of(item_id, text) for item_id, text in texts.items()]
        self.engine.put_items(items)
        self.items |= {one.item_id: one for one in items}

    @rule(item_id=item_ids)
    def delete_item(self, item_id):
        assert self.engine.delete_items([item_id]) == (item_id in self.items)
        self.items.pop(item_id, None)

    @rule(user_id=user_ids, numbers=event_numbers)
    def put_user(self, user_id, numbers):
        self.events[user_id] = tuple(event(i) for i in numbers)
        self.engine.put_user(User(user_id, self.events[user_id]))

    @rule(user_id=user_ids, numbers=st.lists(st.integers(0, 5), min_size=1, max_size=2))
    def append_events(self, user_id, numbers):
        more = tuple(event(i) for i in numbers)
        if user_id not in self.events:
            with pytest.raises(NotFoundError):
                self.engine.append_events(user_id, more)
        elif len(self.events[user_id]) + len(more) <= 4:  # below the window, which test_library is about
            self.engine.append_events(user_id, more)
            self.events[user_id] += more

    @rule(user_id=user_ids)
    def delete_user(self, user_id):
        assert self.engine.delete_user(user_id) == (user_id in self.events)
        self.events.pop(user_id, None)

    @rule(
        requests=st.lists(st.tuples(candidate_lists, user_ids), min_size=1, max_size=3), arm=st.sampled_from([*EXACT])
    )
    def recommend(self, requests, arm):
        results = self.engine.recommend([RecommendRequest(tuple(ids), user_id, arm=arm) for ids, user_id in requests])
        for (ids, user_id), result in zip(requests, results, strict=True):
            self.check(ids, user_id, self.events.get(user_id), arm, result)

    @rule(ids=candidate_lists, text=texts, numbers=event_numbers, arm=st.sampled_from([*EXACT]))
    def recommend_inline(self, ids, text, numbers, arm):
        events = tuple(event(i) for i in numbers)
        first, rest = text_of(ids[0], text), ids[1:]
        request = RecommendRequest((first, *rest), history=events, arm=arm)
        (result,) = self.engine.recommend([request])
        stored = self.items.get(ids[0])
        self.items[ids[0]] = first
        self.check(ids, "", events, arm, result)
        if stored is None:
            del self.items[ids[0]]
        else:
            self.items[ids[0]] = stored

    def check(self, ids, user_id, events, arm, result):
        if events is None or not set(ids) <= set(self.items):
            assert isinstance(result, NotFoundError)
            return
        candidates = tuple(self.items[item_id] for item_id in ids)
        (expected,) = self.oracle.recommend([RecommendRequest(candidates, history=events, arm=EXACT[arm])])
        if isinstance(result, ResourceExhaustedError):
            owned = [self.oracle.builder.item_ids(one) for one in candidates]
            needed = sum(-(-len(ids) // 8) for ids in [*owned, self.oracle.builder.history_ids(events)])
            assert needed > NUM_PAGES - 6, "there was room"
            return
        found = {ranked.item_id: ranked.score for ranked in result.ranking}
        assert found == {r.item_id: pytest.approx(r.score, abs=1e-5) for r in expected.ranking}
        assert result.tokens.prompt_len == expected.tokens.fresh

    @invariant()
    def books_add_up(self):
        assert_idle(self.engine)
        stats = self.engine.stats()
        assert (stats.num_items, stats.num_users) == (len(self.items), len(self.events))

    def teardown(self):
        close_all()


def test_any_order_of_calls(compiled, settings):
    EngineMachine.compiled, EngineMachine.settings = compiled, settings
    run_state_machine_as_test(
        EngineMachine,
        settings=hypothesis_settings(
            max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
