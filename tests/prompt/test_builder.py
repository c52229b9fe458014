"""Placement of blocks, against positions and masks written by hand."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from char_encoder import BOS, CharEncoder, small_template
from hypothesis import given
from hypothesis import strategies as st

from rcjax.catalog.types import Event, Item
from rcjax.prompt import BlockKind, Layout, Owner, PromptBuilder, Scoring
from rcjax.prompt.template import load_template

SEQUENTIAL, PARALLEL, LABEL, ANCHOR = Layout.SEQUENTIAL, Layout.PARALLEL, Scoring.LABEL, Scoring.ANCHOR
ENCODER = CharEncoder()


def builder(encoder=ENCODER, max_candidates=8, **changes):
    return PromptBuilder(small_template(**changes), encoder, max_candidates)


def prompt_of(build, events, titles, layout, scoring):
    history = build.history_block(build.history_ids([Event("e", title) for title in events]), Owner("", "user"))
    items = [build.item_block(Item(f"id{i}", title)) for i, title in enumerate(titles)]
    return build.build(history, items, layout, scoring)


def placed(prompt):
    """(kind, text, start, segment, horizon) of each block."""
    return [(str(b.kind), ENCODER.decode(b.token_ids), b.start, b.segment, b.horizon) for b in prompt.blocks]


def flat_text(prompt, encoder=ENCODER):
    return "".join(encoder.decode(block.token_ids) for block in prompt.blocks)


def sees(query, query_pos, key, key_pos):
    """The rule of the attention operator's docstring."""
    return key_pos <= query_pos and (key.segment < query.horizon or key.segment == query.segment)


def mask(prompt):
    """One string per token: '1' where it sees the token of that column."""
    tokens = [(block, pos) for block in prompt.blocks for pos in range(block.start, block.end)]
    return ["".join("1" if sees(*query, *key) else "." for key in tokens) for query in tokens]


def test_sequential_label():
    prompt = prompt_of(builder(), ["a"], ["xy", "pqrstu"], SEQUENTIAL, LABEL)
    assert placed(prompt) == [
        ("instruction", "INS", 0, 0, 0),
        ("history", "h:a;", 3, 0, 0),
        ("glue", "A=", 7, 0, 0),
        ("item", "xy", 9, 0, 0),  # no block for the empty after_item
        ("glue", "B=", 11, 0, 0),
        ("item", "pqrstu", 13, 0, 0),
        ("task", "?", 19, 0, 0),
    ]
    assert prompt.readouts == (6,)
    assert prompt.num_tokens == 20
    assert (prompt.layout, prompt.scoring) == (SEQUENTIAL, LABEL)


def test_sequential_anchor():
    """Every item's closing glue is read, and there is no task."""
    prompt = prompt_of(builder(), ["a"], ["xy", "pqrstu"], SEQUENTIAL, ANCHOR)
    assert placed(prompt) == [
        ("instruction", "INS", 0, 0, 0),
        ("history", "h:a;", 3, 0, 0),
        ("item", "xy", 7, 0, 0),
        ("glue", "~A", 9, 0, 0),
        ("item", "pqrstu", 11, 0, 0),
        ("glue", "~B", 17, 0, 0),
    ]
    assert prompt.readouts == (3, 5)


def test_parallel_label():
    """The surprises: an item's label starts where the longer of history and item ends; the task after everything."""
    prompt = prompt_of(builder(), ["a"], ["xy", "pqrstu"], PARALLEL, LABEL)
    assert placed(prompt) == [
        ("instruction", "INS", 0, 0, 0),
        ("history", "h:a;", 3, 1, 1),
        ("item", "xy", 3, 2, 1),
        ("glue", "#A", 7, 2, 2),  # the history ends at 7, the item at 5
        ("item", "pqrstu", 3, 3, 1),
        ("glue", "#B", 9, 3, 2),  # this item ends at 9
        ("task", "?!", 11, 4, 4),
    ]
    assert prompt.readouts == (6,)


def test_parallel_anchor():
    prompt = prompt_of(builder(), ["a"], ["pqrstu", "xy"], PARALLEL, ANCHOR)
    assert placed(prompt) == [
        ("instruction", "INS", 0, 0, 0),
        ("history", "h:a;", 3, 1, 1),
        ("item", "pqrstu", 3, 2, 1),
        ("glue", "~", 9, 2, 2),
        ("item", "xy", 3, 3, 1),
        ("glue", "~", 7, 3, 2),
    ]
    assert prompt.readouts == (3, 5)


def test_a_task_comes_after_the_longest_item_wherever_that_is():
    prompt = prompt_of(builder(), ["a"], ["pqrstu", "xy"], PARALLEL, LABEL)
    assert placed(prompt)[2:] == [
        ("item", "pqrstu", 3, 2, 1),
        ("glue", "#A", 9, 2, 2),
        ("item", "xy", 3, 3, 1),
        ("glue", "#B", 7, 3, 2),
        ("task", "?!", 11, 4, 4),
    ]


def test_a_task_comes_after_a_history_longer_than_all_items():
    prompt = prompt_of(builder(), ["abcdefgh"], ["xy"], PARALLEL, LABEL)
    assert placed(prompt)[1:] == [
        ("history", "h:abcdefgh;", 3, 1, 1),
        ("item", "xy", 3, 2, 1),
        ("glue", "#A", 14, 2, 2),
        ("task", "?!", 16, 3, 3),
    ]


TINY = {"instruction": "I", "history": {"open": "h", "event": "{{ title }}", "empty": ""}}


def test_parallel_visibility():
    """History h, items x and yz. Items see the instruction and themselves; only the task sees both items."""
    prompt = prompt_of(builder(**TINY), [], ["x", "yz"], PARALLEL, LABEL)
    assert flat_text(prompt) == "Ihx#Ayz#B?!"
    assert mask(prompt) == [
        "1..........",  # I
        "11.........",  # h
        "1.1........",  # x: not the history, though that stands at the same position
        "1111.......",  # #: the history, its own item
        "11111......",  # A
        "1....1.....",  # y: not the first item
        "1....11....",  # z
        "11...111...",  # #: the history, its own item, not the first one's label
        "11...1111..",  # B
        "1111111111.",  # ?: everything
        "11111111111",  # !
    ]


def test_parallel_anchor_visibility():
    prompt = prompt_of(builder(**TINY), ["gg"], ["x", "yz"], PARALLEL, ANCHOR)
    assert flat_text(prompt) == "Ihggx~yz~"
    assert mask(prompt) == [
        "1........",  # I
        "11.......",  # h
        "111......",  # g
        "1111.....",  # g
        "1...1....",  # x
        "111111...",  # ~: starts after the history, so it sees all of it
        "1.....1..",  # y
        "1.....11.",  # z
        "1111..111",  # ~
    ]


def test_sequential_visibility_is_causal():
    prompt = prompt_of(builder(**TINY), [], ["x", "yz"], SEQUENTIAL, LABEL)
    assert flat_text(prompt) == "IhA=xB=yz?"
    assert mask(prompt) == [
        "1.........",
        "11........",
        "111.......",
        "1111......",
        "11111.....",
        "111111....",
        "1111111...",
        "11111111..",
        "111111111.",
        "1111111111",
    ]


WORDS = st.text("abc", min_size=1, max_size=6)


@given(
    st.lists(WORDS, max_size=4),
    st.lists(WORDS, min_size=1, max_size=5),
    st.sampled_from(Layout),
    st.sampled_from(Scoring),
)
def test_tokens_see_only_what_comes_before_and_what_is_read_sees_its_own(events, titles, layout, scoring):
    prompt = prompt_of(builder(), events, titles, layout, scoring)
    rows = mask(prompt)
    assert all("1" not in row[i + 1 :] and row[i] == "1" for i, row in enumerate(rows))
    ends = np.cumsum([len(block) for block in prompt.blocks])
    assert len(prompt.readouts) == (len(titles) if scoring is ANCHOR else 1)
    for index in prompt.readouts:
        last = rows[ends[index] - 1]
        if scoring is LABEL:
            assert set(last) == {"1"}
        elif layout is PARALLEL:
            own = prompt.blocks[index].segment
            wanted = [b.segment in (0, 1, own) for b in prompt.blocks for _ in range(len(b))]
            assert [c == "1" for c in last] == wanted


@given(st.permutations(range(4)))
def test_in_parallel_an_item_stands_the_same_in_any_order(order):
    titles = ["xy", "p", "rstuvw", "q"]
    build = builder()

    def by_owner(prompt):
        anchors = dict(zip([b.owner for b in prompt.blocks if b.kind is BlockKind.ITEM], prompt.readouts, strict=True))
        return {owner: (prompt.blocks[i].start, prompt.blocks[i].token_ids.tolist()) for owner, i in anchors.items()}

    history = build.history_block(build.history_ids([]), Owner("", "user"))
    items = [build.item_block(Item(title, title)) for title in titles]
    straight = build.build(history, items, PARALLEL, ANCHOR)
    shuffled = build.build(history, [items[i] for i in order], PARALLEL, ANCHOR)
    assert by_owner(shuffled) == by_owner(straight)


def test_labels_go_by_place_and_owners_by_item():
    build = builder()
    history = build.history_block(build.history_ids([]), Owner("", "user"))
    items = [build.item_block(Item(title, title)) for title in ("xy", "p", "rs")]
    prompt = build.build(history, [items[2], items[0], items[1]], SEQUENTIAL, LABEL)
    assert flat_text(prompt) == "INSh:noneA=rsB=xyC=p?"
    assert [b.owner.id for b in prompt.blocks] == ["", "user", "", "rs", "", "xy", "", "p", ""]


def test_only_a_sequential_item_is_inexact():
    for layout, exact in ((SEQUENTIAL, False), (PARALLEL, True)):
        prompt = prompt_of(builder(), ["a"], ["xy"], layout, LABEL)
        by_kind = {block.kind: prompt.is_exact(block) for block in prompt.blocks}
        assert by_kind.pop(BlockKind.ITEM) is exact
        assert set(by_kind.values()) == {True}


def test_cached_blocks_stand_right_after_the_instruction():
    build = builder()
    assert (build.instruction_block().start, build.instruction_block().end) == (0, 3)
    item = build.item_block(Item("id", "xy"))
    assert (item.start, item.end, len(item), item.owner) == (3, 5, 2, Owner("", "id"))
    assert build.item_block(Item("id", "xy"), owner=Owner("t", "other")).owner == Owner("t", "other")
    assert build.history_block(build.history_ids([])).start == 3


def test_a_bos_and_the_chat_frame_surround_the_prompt():
    build = builder(CharEncoder(bos_ids=np.array([BOS], np.int32)), chat=True)
    prompt = prompt_of(build, ["a"], ["xy"], SEQUENTIAL, LABEL)
    assert flat_text(prompt) == "\x01<s>INS</s><u>h:a;A=xy?</u><a>"
    assert prompt.blocks[1].start == len("_<s>INS</s><u>")
    assert flat_text(prompt_of(build, ["a"], ["xy"], PARALLEL, ANCHOR)).endswith("h:a;xy~")


def test_the_shop_template_reads_as_one_text():
    encoder = CharEncoder(words=(" yes", " no"))
    template = load_template("shop")
    build = PromptBuilder(template, encoder, 4)
    events = [Event("1", "Lamp", "too dim", 2.0), Event("2", "Desk")]
    items = [Item("3", "Acme Chair", "Folds.", "Acme", price=20.0), Item("4", "Mug", brand="Kiln")]
    history = build.history_block(build.history_ids(events), Owner("", "user"))
    blocks = [build.item_block(item) for item in items]
    head = f"<s>{template.instruction}</s><u>My purchases:\n- Lamp (2/5): too dim\n- Desk\n"
    question = "\nWhich one do I buy next? Answer with its label only.</u><a>"
    chair, mug = " Acme Chair. $20.00. Folds.", " Mug by Kiln."
    expected = {
        (SEQUENTIAL, LABEL): f"{head}\nA:{chair}\nB:{mug}{question}",
        (PARALLEL, LABEL): f"{head}{chair}\n(A){mug}\n(B){question}",
        (SEQUENTIAL, ANCHOR): f"{head}{chair}\nBuy:{mug}\nBuy:",
        (PARALLEL, ANCHOR): f"{head}{chair}?{mug}?",
    }
    for (layout, scoring), text in expected.items():
        assert flat_text(build.build(history, blocks, layout, scoring), encoder) == text


SILENT = {"history": {"event": "{{ title }};"}}  # `open` and `empty` are nothing unless given


@pytest.mark.parametrize("scoring", Scoring)
def test_a_history_without_tokens_is_no_block_and_moves_nothing(scoring):
    sequential = prompt_of(builder(**SILENT), [], ["xy", "pqr"], SEQUENTIAL, scoring)
    parallel = prompt_of(builder(**SILENT), [], ["xy", "pqr"], PARALLEL, scoring)
    expected = {
        LABEL: [
            [("glue", "A=", 3, 0, 0), ("item", "xy", 5, 0, 0), ("glue", "B=", 7, 0, 0), ("item", "pqr", 9, 0, 0)],
            [("item", "xy", 3, 2, 1), ("glue", "#A", 5, 2, 2), ("item", "pqr", 3, 3, 1), ("glue", "#B", 6, 3, 2)],
        ],
        ANCHOR: [
            [("item", "xy", 3, 0, 0), ("glue", "~A", 5, 0, 0), ("item", "pqr", 7, 0, 0), ("glue", "~B", 10, 0, 0)],
            [("item", "xy", 3, 2, 1), ("glue", "~", 5, 2, 2), ("item", "pqr", 3, 3, 1), ("glue", "~", 6, 3, 2)],
        ],
    }[scoring]
    for prompt, blocks in zip((sequential, parallel), expected, strict=True):
        assert placed(prompt)[0] == ("instruction", "INS", 0, 0, 0)
        assert placed(prompt)[1:5] == blocks
        assert [b.kind for b in prompt.blocks[5:]] == ([BlockKind.TASK] if scoring is LABEL else [])
    if scoring is LABEL:
        assert (sequential.blocks[-1].start, parallel.blocks[-1].start) == (12, 8)
    else:
        assert (sequential.readouts, parallel.readouts) == ((2, 4), (2, 4))


def test_a_history_of_events_follows_the_instruction_where_there_is_no_opening():
    prompt = prompt_of(builder(**SILENT), ["a"], ["xy"], PARALLEL, ANCHOR)
    assert placed(prompt)[1] == ("history", "a;", 3, 1, 1)


def test_nothing_of_items_and_events_is_kept():
    build = builder()
    ids = [build.item_ids(Item("i", "mug")), build.history_ids([Event("e", "cup")]), build.event_ids(Event("e", "cup"))]
    gone = [weakref.ref(one) for one in ids]
    ids.clear()
    gc.collect()
    assert all(one() is None for one in gone)


def test_more_items_than_labels_are_refused():
    with pytest.raises(ValueError, match=r"len\(items\)=3 exceeds max_candidates=2"):
        prompt_of(builder(max_candidates=2), [], ["x", "y", "z"], PARALLEL, LABEL)


def test_blocks_know_where_they_end():
    block = builder().item_block(Item("id", "xyz"))
    assert replace(block, start=10).end == 13
