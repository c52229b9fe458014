"""The tokens of a prompt's pieces: history, labels, and what users wrote."""

import numpy as np
import pytest
from char_encoder import CharEncoder, small_fields, small_template
from hypothesis import given
from hypothesis import strategies as st

from rcjax.catalog.types import Event, Item
from rcjax.prompt import Layout, Owner, PromptBuilder, Scoring, single_token_labels

ENCODER = CharEncoder()
WORDS = st.text("abc", min_size=1, max_size=6)


def builder(encoder=ENCODER, max_candidates=8, **changes):
    return PromptBuilder(small_template(**changes), encoder, max_candidates)


@given(st.lists(WORDS, min_size=1, max_size=4), st.lists(WORDS, max_size=3))
def test_appending_events_appends_tokens(events, more):
    build = builder()
    before = build.history_ids([Event("e", title) for title in events])
    after = build.history_ids([Event("e", title) for title in events + more])
    assert after[: len(before)].tolist() == before.tolist()
    assert ENCODER.decode(after) == "h:" + "".join(f"{title};" for title in events + more)


def test_an_empty_history_says_so():
    assert ENCODER.decode(builder().history_ids([])) == "h:none"


def test_user_text_is_not_a_template_and_never_special():
    seen = []

    class Spy(CharEncoder):
        def encode(self, text, *, allow_special=False):
            seen.append((text, allow_special))
            return super().encode(text, allow_special=allow_special)

    build = builder(Spy())
    history = build.history_block(build.history_ids([Event("e", "{{ label }}")]), Owner("", "user"))
    build.build(history, [build.item_block(Item("i", "{% if %}"))], Layout.SEQUENTIAL, Scoring.LABEL)
    assert ("{{ label }};", False) in seen
    assert ("{% if %}", False) in seen
    assert not any(special for text, special in seen if "{" in text)


def test_cached_tokens_cannot_be_changed():
    build = builder()
    item = build.item_block(Item("id", "xy"))
    with pytest.raises(ValueError, match="read-only"):
        item.token_ids[0] = 0


def test_labels_are_distinct_single_tokens():
    labels, ids = single_token_labels(ENCODER.encode, 52)
    assert labels[:3] == ("A", "B", "C")
    assert labels[26:28] == ("a", "b")  # pairs are two tokens each here
    assert len(set(ids.tolist())) == len(set(labels)) == 52
    assert all(ENCODER.encode(label).tolist() == [i] for label, i in zip(labels, ids, strict=True))


def test_two_letter_labels_come_before_small_letters():
    labels, _ = single_token_labels(CharEncoder(words=("AA", "BZ")).encode, 29)
    assert labels[25:] == ("Z", "AA", "BZ", "a")


def test_labels_that_share_a_token_are_used_once():
    """Here B and C are one token, D and E, and so on: the first of each pair is the label."""

    def encode(text):
        return np.array([ord(c.lower()) // 2 for c in text])

    labels, ids = single_token_labels(encode, 13)
    assert labels == tuple("ABDFHJLNPRTVX")
    assert len(set(ids.tolist())) == 13
    with pytest.raises(ValueError, match="num_labels=15 exceeds the 14 single-token labels"):
        single_token_labels(encode, 15)


def test_too_many_candidates_for_the_tokenizer():
    with pytest.raises(ValueError, match="num_labels=53 exceeds the 52 single-token labels that this tokenizer has"):
        builder(max_candidates=53)


@pytest.mark.parametrize("field", ["positive", "negative"])
def test_an_anchor_answer_of_two_tokens_is_refused(field):
    anchor = small_fields()["anchor"] | {field: "yo"}
    with pytest.raises(ValueError, match=rf"anchor\.{field}='yo' must be one token, but this tokenizer makes 2"):
        builder(anchor=anchor)
