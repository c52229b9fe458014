import numpy as np
import pytest
from char_encoder import CharEncoder, small_template
from hypothesis import given
from hypothesis import strategies as st

from rcjax.catalog.types import Event, Item
from rcjax.model.selection import BoundarySelection, FullSelection, NoSelection, parse_policy
from rcjax.prompt import BlockKind, Layout, PromptBuilder, Scoring

CACHED = (BlockKind.INSTRUCTION, BlockKind.HISTORY, BlockKind.ITEM)


def cached_prompt(layout=Layout.SEQUENTIAL, titles=("abcdefgh", "xy", "pqrst")):
    build = PromptBuilder(small_template(), CharEncoder(), len(titles))
    history = build.history_block(build.history_ids([Event("e", "a")]), "user")
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
    ],
)
def test_policies_by_name(text, policy):
    assert parse_policy(text) == policy


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_boundary_survives_its_own_text(first, last):
    assert parse_policy(f"boundary(first={first}, last={last})") == BoundarySelection(first, last)


@pytest.mark.parametrize(
    "text",
    ["", "nothing", "none(first=1)", "full(4)", "boundary", "boundary()", "boundary(4)", "boundary(first=-1)",
     "boundary(first=1.5)", "boundary(first=1, first=2)", "boundary(first=1,)", "boundary(first=1) x", "boundary(k=1)",
     "boundary(first=1", "None", "none full"],
)  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(ValueError, match="is none of: none, full, boundary") as caught:
        parse_policy(text)
    assert repr(text) in str(caught.value)


def test_a_boundary_of_nothing_is_refused_by_name_too():
    with pytest.raises(ValueError, match="boundary needs"):
        parse_policy("boundary(first=0)")
