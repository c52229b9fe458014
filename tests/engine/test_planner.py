"""The planner: prompts as the oracle spells them, what a plan says of itself, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from planning_kit import (
    ALL,
    EVENTS,
    ITEMS,
    SHAPES,
    new_planner,
    planned,
    prompt_oracle,
    stock,
    token_ids,
    write_to,
)
from tiny_engine import ARMS, LIMITS, PAGE_TOKENS, TEMPLATE, event, item

from rcjax.catalog.types import User
from rcjax.config import ArmSettings
from rcjax.engine.shape import Shape
from rcjax.prompt import NOBODY, BlockKind, History, Layout, Owner, Reuse, Scoring
from rcjax.prompt.template import Template
from rcjax.request import AppendEvents, DeleteItems, DeleteUser, PutItems, PutUser, RecommendRequest

ORACLE = prompt_oracle()
KEYS = new_planner().keys


@pytest.fixture
def stocked():
    return stock(new_planner())


class TestPrompts:
    @pytest.mark.parametrize("arm", ARMS)
    @pytest.mark.parametrize("is_inline", [False, True])
    def test_the_prompt_is_what_the_oracle_says(self, stocked, arm, is_inline):
        items = [ITEMS[i] for i in (3, 0, 4)]
        request = RecommendRequest(tuple(one.item_id for one in items), "u", arm=arm)
        if is_inline:
            request = RecommendRequest(tuple(items), history=EVENTS, arm=arm)
        plan = planned(stocked, request)
        pieces = ORACLE.pieces(EVENTS, items, ARMS[arm].layout, ARMS[arm].scoring)
        assert token_ids(plan.prompt) == np.concatenate([piece.ids for piece in pieces]).tolist()
        positions = [pos for block in plan.prompt.blocks for pos in range(block.start, block.end)]
        assert positions == [pos for piece in pieces for pos in range(piece.start, piece.start + len(piece.ids))]
        assert plan.item_ids == ("i3", "i0", "i4")
        assert (plan.request.arm, plan.arm.layout) == (arm, ARMS[arm].layout)

    def test_without_an_arm_the_default_serves(self, stocked):
        plan = planned(stocked, RecommendRequest(ALL, "u"))
        assert plan.request == RecommendRequest(ALL, "u", arm="parallel_anchor_blocks")

    @pytest.mark.parametrize("layout", Layout)
    @pytest.mark.parametrize("scoring", Scoring)
    def test_an_empty_history_without_words_is_no_block(self, layout, scoring):
        text = TEMPLATE.replace('  open: "Bought:\\n"\n', "").replace('  empty: "- none\\n"\n', "")
        assert "open" not in text
        planner = new_planner(template=template_of(text))
        write_to(planner, PutItems(tuple(ITEMS)))
        plan, _ = write_to(planner, PutUser(User("u")))
        assert (plan.build, plan.drop) == ((), ((BlockKind.HISTORY, Owner("", "u")),))
        arm = f"{layout}_{scoring}_blocks"
        for request in (RecommendRequest(ALL, "u", arm=arm), RecommendRequest(ALL, history=(), arm=arm)):
            plan = planned(planner, request)
            kinds = [block.kind for block in plan.prompt.blocks]
            assert BlockKind.HISTORY not in kinds
            assert len(plan.keys) == len(plan.cached) == 1 + len(ALL)
            pieces = [p for p in ORACLE.pieces((), ITEMS, layout, scoring) if p.kind != "history"]
            assert token_ids(plan.prompt) == np.concatenate([piece.ids for piece in pieces]).tolist()
        plan, _ = write_to(planner, AppendEvents("u", EVENTS))
        assert plan.grow_from is None
        assert len(plan.build) == 1
        assert BlockKind.HISTORY in [b.kind for b in planned(planner, RecommendRequest(ALL, "u")).prompt.blocks]


def template_of(text):
    return Template.model_validate(yaml.safe_load(text))


class TestOwners:
    def owners(self, planner, request):
        return [block.owner for block in planned(planner, request).prompt.blocks if block.owner != NOBODY]

    def test_what_is_the_librarys_is_its_block_however_it_comes(self, stocked):
        expected = [Owner("", name) for name in ("u", "i0", "i1")]
        for candidates in (("i0", "i1"), tuple(ITEMS[:2]), ("i0", ITEMS[1])):
            for history in (None, EVENTS, tuple(replace(one, timestamp_s=7) for one in EVENTS)):
                assert self.owners(stocked, RecommendRequest(candidates, "u", history)) == expected

    def test_other_inline_content_has_another_owner_than_the_librarys(self, stocked):
        requests = [
            RecommendRequest((item(1, text="new"),), "u", history=()),
            RecommendRequest((item(1, text="newer"),), "", history=()),
            RecommendRequest((item(9, text="new"),), "v", history=EVENTS),
            RecommendRequest((item(8),), "w", history=EVENTS[:1]),
        ]
        owners = [owner for request in requests for owner in self.owners(stocked, request)]
        assert len(set(owners)) == len(owners) == 8
        assert all(owner.is_inline for owner in owners)

    def test_the_same_content_of_the_same_name_is_one_block(self, stocked):
        request = RecommendRequest((item(9),), "v", history=EVENTS)
        assert planned(stocked, request).keys == planned(stocked, request).keys

    def test_a_library_user_may_send_a_history_of_their_own(self, stocked):
        """All that one sends has one owner, with which a deletion takes it away, and each its own key."""
        requests = [RecommendRequest(("i0",), "u", one) for one in (EVENTS[:1], (), tuple(reversed(EVENTS)))]
        owners = {self.owners(stocked, request)[0] for request in requests}
        assert len(owners) == 1
        assert all(owner.is_inline and owner[:2] == ("", "u") for owner in owners)
        assert len({planned(stocked, request).keys[1] for request in requests}) == 3
        plan, _ = write_to(stocked, DeleteUser("u"))
        assert plan.drop == ((BlockKind.HISTORY, Owner("", "u")), (BlockKind.HISTORY, *owners))


# How many of the items' tokens each selects; of an exact history and the instruction, none.
POLICIES = {
    "offline(k=3)": lambda lengths: sum(min(3, n) for n in lengths),
    "deviation(r=0.3)": lambda lengths: -(-3 * sum(lengths) // 10),
    "query(r=1)": sum,
    "heavy_hitter(r_item=0.3, window=4)": lambda lengths: 4 + -(-3 * sum(lengths) // 10),
    "boundary(first=2) + deviation(r=0.3)": lambda lengths: max(2 * len(lengths), -(-3 * sum(lengths) // 10)),
}


class TestWhatAPlanSays:
    def is_read_item(self, plan, index):
        return plan.prompt.blocks[index].kind is BlockKind.ITEM and plan.row.sources[index].is_read

    def own_sizes(self, plan):
        """In `parallel`: of each item that is read, unless a task reads all of them, its glue and its pages."""
        if plan.arm.scoring is Scoring.LABEL:
            return ()
        blocks = plan.prompt.blocks
        items = [i for i in plan.cached if self.is_read_item(plan, i)]
        return tuple((len(blocks[i + 1]), -(-len(blocks[i]) // PAGE_TOKENS)) for i in items)

    @pytest.mark.parametrize("arm", ARMS)
    def test_counts_and_keys(self, stocked, arm):
        plan = planned(stocked, RecommendRequest(ALL, "u", arm=arm))
        kinds = ARMS[arm].reuse.kinds
        blocks = plan.prompt.blocks
        assert plan.cached == tuple(i for i, block in enumerate(blocks) if block.kind in kinds)
        assert plan.keys == tuple(
            stocked.keys.key(blocks[i].kind, blocks[i].owner, blocks[i].token_ids) for i in plan.cached
        )
        assert plan.block_pages == sum(-(-len(blocks[i]) // PAGE_TOKENS) for i in plan.cached)
        is_sequential = ARMS[arm].layout is Layout.SEQUENTIAL
        num_selected = num_pages = 0
        for i in plan.cached:
            num, length = 0, len(blocks[i])
            if arm.endswith("_selected"):
                num = length
            elif arm.endswith("_boundary") and is_sequential and blocks[i].kind is BlockKind.ITEM:
                num = min(length, 3)
            num_selected += num
            num_pages += 0 if num == length else -(-length // PAGE_TOKENS)
            assert len(plan.row.sources[i].selected) == num
        assert list(plan.row.sources) == list(plan.cached)
        fresh = sum(len(block) for i, block in enumerate(blocks) if i not in plan.cached)
        assert plan.size == plan.row.size
        assert plan.size.fresh_tokens == fresh + num_selected
        assert plan.size.num_pages == num_pages
        if not is_sequential:
            assert plan.size.own == self.own_sizes(plan)
        assert plan.size.is_moved == (is_sequential and any(self.is_read_item(plan, i) for i in plan.cached))
        holding = [s for s in SHAPES if s.fresh_tokens >= fresh + num_selected and s.num_pages >= num_pages]
        assert plan.cost_s == min(s.fresh_tokens + s.num_pages / 1024 for s in holding)

    def test_a_shape_with_tiles_serves_what_has_pages_of_its_own_and_stands_at_home(self):
        tiled = Shape(64, 14, tiles=5, tile_tokens=5, tile_pages=2, at_home=True)
        shapes = (tiled, *SHAPES)
        planner = stock(new_planner(shapes=shapes, cost_of=lambda shape: 1.0 if shape == tiled else 2.0))
        cost_s = {arm: planned(planner, RecommendRequest(ALL, "u", arm=arm)).cost_s for arm in ARMS}
        fast = {arm for arm in ARMS if cost_s[arm] == 1.0}
        assert fast == {"parallel_anchor_blocks", "parallel_anchor_blocks_boundary"}

    @pytest.mark.parametrize("policy", POLICIES)
    def test_what_a_measure_decides_is_counted_before_it_is_measured(self, policy):
        arm = ArmSettings(selection=policy)
        planner = stock(new_planner(arms={"it": arm}, default_arm="it"))
        plan = planned(planner, RecommendRequest(ALL, "u"))
        assert plan.row is None
        lengths = [len(block) for block in plan.prompt.blocks if block.kind is BlockKind.ITEM]
        fresh = sum(len(block) for i, block in enumerate(plan.prompt.blocks) if i not in plan.cached)
        assert plan.size.fresh_tokens == fresh + POLICIES[policy](lengths)
        unread = sum(-(-n // PAGE_TOKENS) for n in lengths) if policy == "query(r=1)" else 0
        assert plan.size.num_pages == plan.block_pages - unread

    def test_where_a_history_may_be_borrowed_the_row_is_not_known_yet(self):
        arm = ArmSettings(history=History.SEMANTIC, selection="boundary(first=2)")
        planner = stock(
            new_planner(arms={"it": arm, "exact": ArmSettings(selection="boundary(first=2)")}, default_arm="it")
        )
        plan, exact = (planned(planner, RecommendRequest(ALL, "u", arm=name)) for name in ("it", "exact"))
        assert plan.row is None
        assert plan.size == exact.size

    def test_a_plan_is_older_than_the_writes_it_may_not_have_seen(self, stocked):
        versions = stocked.library.versions
        before = stocked.plan(RecommendRequest(ALL, "u"))
        write = stocked.plan_write(PutItems((item(0, text="new"),)))
        during = stocked.plan(RecommendRequest(ALL, "u"))
        stocked.library.swap(write)
        versions.end_write(write.version)
        after = stocked.plan(RecommendRequest(ALL, "u"))
        assert before.version == during.version < write.version == after.version
        assert before.keys == during.keys != after.keys
        assert versions.oldest == before.version
        for plan in (before, during, after):
            versions.end_read(plan.version)
        assert versions.oldest == write.version


class TestWrites:
    def test_what_is_to_be_computed_and_dropped(self, stocked):
        plan, _ = write_to(stocked, PutItems((item(0), item(1, text="new"))))
        assert [block.block.owner for block in plan.build] == [Owner("", "i0"), Owner("", "i1")]
        assert [block.key for block in plan.build] == list(
            planned(stocked, RecommendRequest(("i0", "i1"), "u")).keys[2:]
        )
        assert (plan.grow_from, plan.drop) == (None, ())
        plan, _ = write_to(stocked, DeleteItems(("i0", "x")))
        assert (plan.build, plan.drop) == ((), ((BlockKind.ITEM, Owner("", "i0")), (BlockKind.ITEM, Owner("", "x"))))

    def test_planning_a_write_changes_nothing(self, stocked):
        before = planned(stocked, RecommendRequest(ALL, "u")).keys
        for write in (PutItems((item(0, text="new"),)), PutUser(User("u")), AppendEvents("u", (event(9),))):
            plan = stocked.plan_write(write)
            assert planned(stocked, RecommendRequest(ALL, "u")).keys == before
            stocked.library.versions.end_write(plan.version)

    def test_users_keep_their_newest_events(self, stocked):
        events = tuple(event(i) for i in range(40))
        write_to(stocked, PutUser(User("v", events)))
        kept = stocked.library.user("", "v").content
        assert kept == events[-len(kept) :]
        used = len(ORACLE.history_ids(kept))
        assert LIMITS.max_history_tokens / 2 < used <= 0.75 * LIMITS.max_history_tokens

    def test_appending_drops_the_oldest_only_when_it_must(self, stocked):
        write_to(stocked, PutUser(User("v")))
        former, num_shifts = (), 0
        for i in range(30):
            plan, _ = write_to(stocked, AppendEvents("v", (event(i),)))
            kept = stocked.library.user("", "v").content
            assert kept[-1] == event(i)
            ids = ORACLE.history_ids(kept).tolist()
            assert len(ids) <= LIMITS.max_history_tokens
            assert plan.build[0].block.token_ids.tolist() == ids
            is_shifted = kept[: len(former)] != former
            assert (plan.grow_from is None) == (is_shifted or not former)
            num_shifts += is_shifted
            former = kept
        assert 0 < num_shifts < 10, "a cut leaves room for several events"


def test_reuse_decides_which_keys_a_plan_has(stocked):
    for reuse, num in ((Reuse.NONE, 0), (Reuse.INSTRUCTION, 1), (Reuse.PREFIX, 2), (Reuse.BLOCKS, 7)):
        assert len(planned(stocked, RecommendRequest(ALL, "u", arm=f"parallel_label_{reuse}")).keys) == num
