import numpy as np
import pytest
from char_encoder import CharEncoder, small_template
from hypothesis import given
from hypothesis import strategies as st

from rcjax.catalog.types import Event, Item
from rcjax.model.selection import (
    BoundarySelection,
    DeviationSelection,
    FullSelection,
    HeavyHitterSelection,
    NoSelection,
    OfflineSelection,
    QuerySelection,
    UnionSelection,
    parse_policy,
)
from rcjax.prompt import BlockKind, Layout, Owner, PromptBuilder, Scoring

CACHED = (BlockKind.INSTRUCTION, BlockKind.HISTORY, BlockKind.ITEM)


def cached_prompt(layout=Layout.SEQUENTIAL, titles=("abcdefgh", "xy", "pqrst")):
    build = PromptBuilder(small_template(), CharEncoder(), len(titles))
    history = build.history_block(build.history_ids([Event("e", "a")]), Owner("", "user"))
    items = [build.item_block(Item(str(i), title)) for i, title in enumerate(titles)]
    prompt = build.build(history, items, layout, Scoring.LABEL)
    return prompt, [block for block in prompt.blocks if block.kind in CACHED]


def offsets(policy, layout=Layout.SEQUENTIAL):
    chosen = policy.select(*cached_prompt(layout))
    assert all(part.dtype == np.int32 for part in chosen)
    return [part.tolist() for part in chosen]


def test_none_selects_nothing():
    assert offsets(NoSelection()) == [[]] * 5


def test_full_selects_every_token():
    assert [len(part) for part in offsets(FullSelection())] == [3, 4, 8, 2, 5]
    assert offsets(FullSelection())[2] == list(range(8))


def test_boundary_selects_the_ends_of_items_and_leaves_exact_blocks_alone():
    """Instruction and history come first: computed right after the instruction, they are exact in any layout."""
    assert offsets(BoundarySelection(first=3)) == [[], [], [0, 1, 2], [0, 1], [0, 1, 2]]
    assert offsets(BoundarySelection(first=0, last=1)) == [[], [], [7], [1], [4]]
    assert offsets(BoundarySelection(first=2, last=1)) == [[], [], [0, 1, 7], [0, 1], [0, 1, 4]]


def test_boundary_selects_nothing_in_the_parallel_layout():
    assert offsets(BoundarySelection(first=3, last=2), Layout.PARALLEL) == [[]] * 5


@given(st.integers(0, 9), st.integers(0, 9), st.lists(st.text("abc", min_size=1, max_size=12), min_size=1, max_size=4))
def test_boundary_takes_each_end_once(first, last, titles):
    if first + last == 0:
        return
    prompt, cached = cached_prompt(titles=titles)
    chosen = BoundarySelection(first, last).select(prompt, cached)
    for block, part in zip(cached[2:], chosen[2:], strict=True):
        assert part.tolist() == [i for i in range(len(block)) if i < first or i >= len(block) - last]


@pytest.mark.parametrize(("first", "last"), [(0, 0), (-1, 3), (3, -1)])
def test_an_empty_or_negative_boundary_is_refused(first, last):
    with pytest.raises(ValueError, match=rf"self.first={first} >= 0, self.last={last} >= 0 and one of them above 0"):
        BoundarySelection(first, last)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("none", NoSelection()),
        (" none ( ) ", NoSelection()),
        ("full", FullSelection()),
        ("full()", FullSelection()),
        ("boundary(first=4)", BoundarySelection(4, 0)),
        ("boundary(last=2)", BoundarySelection(0, 2)),
        ("boundary(first=4, last=2)", BoundarySelection(4, 2)),
        ("  boundary ( last = 2,first=4 ) ", BoundarySelection(4, 2)),
        ("offline(k=6)", OfflineSelection(6)),
        ("deviation", DeviationSelection(0.15, 1)),
        ("deviation(r=1, layers=2)", DeviationSelection(1.0, 2)),
        ("deviation(r=0.1, narrow=0.4)", DeviationSelection(0.1, 1, (0.4,))),
        ("deviation(r=.1, narrow=(.4, .2))", DeviationSelection(0.1, 1, (0.4, 0.2))),
        ("heavy_hitter(r_item=0.4, r_history=0.5)", HeavyHitterSelection(0.4, 0.5)),
        ("heavy_hitter(lam=0, window=0)", HeavyHitterSelection(0.3, 0.3, 0.0, 0)),
        ("query(r=0.2, layers=8)", QuerySelection(0.2, 8)),
        (
            "boundary(first=2)+offline(k=4) + deviation(r=0.3)",
            UnionSelection((BoundarySelection(2), OfflineSelection(4), DeviationSelection(0.3))),
        ),
    ],
)
def test_policies_by_name(text, policy):
    assert parse_policy(text) == policy


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_boundary_survives_its_own_text(first, last):
    assert parse_policy(f"boundary(first={first}, last={last})") == BoundarySelection(first, last)


@pytest.mark.parametrize(
    "text",
    ["", "nothing", "full(4)", "boundary(4)", "boundary(first=1) x", "boundary(first=1", "None", "none full",
     "boundary(first=1) - query(r=1)", "2 + query(r=1)", "policy.query(r=1)", "query(r=1)(r=1)", "\0"],
)  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="is none of: none, full, boundary") as caught:
        parse_policy(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("none(first=1)", "none takes nothing"),
        ("boundary(k=1)", "boundary takes first, last"),
        ("deviation(**r)", "deviation takes r, layers, narrow"),
        ("boundary(first=1, first=2)", "an argument of boundary occurs twice"),
        ("boundary", "boundary needs self.first=0"),
        ("boundary(first=0)", "boundary needs self.first=0"),
        ("boundary(first=-1)", "boundary needs self.first=-1"),
        ("boundary(first=1.5)", "first=1.5 must be a whole number"),
        ("boundary(first=True)", "first=True must be a whole number"),
        ("boundary(first=(1, 2))", r"first=\(1, 2\) must be a whole number"),
        ("boundary(first=k)", "first is not a number"),
        ("offline(k=-1)", "k=-1 must not be negative"),
        ("deviation(r='a')", "r='a' must be a number"),
        ("deviation(r=1.1)", "r=1.1 must be a share from 0 to 1"),
        ("deviation(layers=0)", "layers=0 must be at least 1"),
        ("deviation(r=0.3, narrow=0.2)", r"narrow=\(0.2,\) must fall from at most 1 to at least r=0.3"),
        ("deviation(r=0.1, narrow=(0.2, 0.4))", "must fall"),
        ("deviation(narrow=2)", "must fall"),
        ("query(r=-1)", "r=-1.0 must be a share"),
        ("query(layers=-1)", r"layers=-1 must be 0 \(all\) or more"),
        ("heavy_hitter(r_item=2)", "r_item=2.0 must be a share"),
        ("heavy_hitter(r_history=2)", "r_history=2.0 must be a share"),
        ("heavy_hitter(lam=2)", "lam=2.0 must be a share"),
        ("heavy_hitter(window=-1)", "window=-1 must not be negative"),
        ("none + query(r=0.1)", "none and full stand alone"),
        ("boundary(first=1) + full", "none and full stand alone"),
        ("query(r=0.1) + boundary(first=1)", "boundary and offline come first"),
        ("deviation(r=0.1) + heavy_hitter(r_item=0.2)", "then heavy_hitter, then deviation and query"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        parse_policy(text)
    assert repr(text) in str(caught.value)
