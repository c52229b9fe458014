"""The limits of items and histories, against the rule written out, and how much is tokenised for it."""

import numpy as np
import pytest
from char_encoder import CharEncoder, small_template
from hypothesis import given
from hypothesis import strategies as st

from rcjax.catalog.types import Event, Item
from rcjax.errors import InvalidRequestError
from rcjax.prompt import FittingTexts, PromptBuilder


class Spy(CharEncoder):
    """Remembers the texts of users and items that it was asked for."""

    def __init__(self):
        super().__init__(words=("+++",))  # one token of three characters
        self.seen = []

    def encode(self, text, *, allow_special=False):
        if not allow_special:
            self.seen.append(text)
        return super().encode(text, allow_special=allow_special)


def fitting(max_item_tokens=10, max_history_tokens=40, encoder=None, **history):
    template = small_template(history={"event": "{{ title }}", "open": "h:", "empty": "none"} | history)
    builder = PromptBuilder(template, encoder or Spy(), 8)
    return FittingTexts(builder, max_item_tokens, max_history_tokens), builder


def event(length):
    return Event("e", "x" * length)


def kept_by_the_rule(lengths, max_tokens, num_open, num_empty):
    """How many of the newest events stay: all that fit; else 3/4 of the limit less what an empty history says."""
    if num_open + (sum(lengths) if lengths else num_empty) <= max_tokens:
        return len(lengths)
    left, num = int(max_tokens * 0.75) - num_open - num_empty, 0
    for length in reversed(lengths):
        left -= length
        if left < 0:
            break
        num += 1
    if num == 0 and num_open + lengths[-1] > max_tokens:
        return None
    return max(num, 1)


LENGTHS = st.lists(st.integers(0, 45), max_size=12)


@given(LENGTHS, st.integers(32, 60), st.integers(0, 20), st.integers(0, 10), st.integers(0, 12))
def test_histories_are_cut_by_the_rule(lengths, max_tokens, num_open, num_empty, num_known):
    texts, builder = fitting(max_history_tokens=max_tokens, open="o" * num_open, empty="e" * num_empty)
    events = tuple(map(event, lengths))
    known = [builder.event_ids(one) for one in events[:num_known]]
    expected = kept_by_the_rule(lengths, max_tokens, num_open, num_empty)
    if expected is None:
        with pytest.raises(InvalidRequestError, match=f"the newest event alone .* a history may have {max_tokens}"):
            texts.history(events, "events", known)
        return
    fitted = texts.history(events, "events", known)
    assert fitted.events == events[len(events) - expected :]
    assert list(fitted.event_lens) == lengths[len(events) - expected :]
    assert fitted.token_ids.tolist() == builder.history_ids(fitted.events).tolist()
    assert not fitted.token_ids.flags.writeable


def test_only_the_newest_events_that_can_fit_are_tokenised():
    texts, builder = fitting(max_history_tokens=40)
    spy = builder._encoder
    spy.seen.clear()
    fitted = texts.history([event(7) for _ in range(1000)], "events")
    assert fitted.event_lens == (7,) * 3  # 30 are left after the cut, of which h: and none take 6
    assert len(spy.seen) == 6, "five fit, and the sixth shows that no more do"


def test_known_events_are_not_tokenised_again():
    texts, builder = fitting(max_history_tokens=40)
    spy, old = builder._encoder, [event(i) for i in (3, 4, 5)]
    known = [builder.event_ids(one) for one in old]
    spy.seen.clear()
    fitted = texts.history([*old, event(6)], "events", known)
    assert spy.seen == ["x" * 6]
    assert fitted.token_ids.tolist() == builder.history_ids([*old, event(6)]).tolist()


def test_what_is_too_long_by_its_characters_is_never_tokenised():
    texts, builder = fitting(max_item_tokens=10, max_history_tokens=40)
    spy = builder._encoder
    spy.seen.clear()
    with pytest.raises(InvalidRequestError, match=r"'i' has more than 10 tokens; 1 to 10") as caught:
        texts.item_ids(Item("i", "+++" * 10 + "+"), "items[2]")
    assert caught.value.field == "items[2]"
    with pytest.raises(InvalidRequestError, match=r"more than 40 tokens; a history may have 40") as caught:
        texts.history([event(1), event(121)], "user.events")
    assert caught.value.field == "user.events"
    assert texts.history([event(121), event(1)], "events").event_lens == (1,)
    assert spy.seen == ["x"]


def test_the_limit_of_an_item_is_inclusive_and_in_tokens():
    texts, _ = fitting(max_item_tokens=10)
    for title in ("x" * 10, "+++" * 10):
        assert len(texts.item_ids(Item("i", title), "item")) == 10
    for title, num in (("x" * 11, 11), ("+++" * 9 + "ab", 11), ("", 0)):
        with pytest.raises(InvalidRequestError, match=rf"'i' has {num} tokens; 1 to 10 are allowed") as caught:
            texts.item_ids(Item("i", title), "candidates[1].item")
        assert caught.value.field == "candidates[1].item"


def test_a_template_whose_empty_history_fits_no_history_is_refused_at_once():
    with pytest.raises(ValueError, match=r"an empty history has 41 tokens .*history.open.* over max_history_tokens=40"):
        fitting(max_history_tokens=40, open="o" * 37)


def test_a_history_of_nothing_has_no_tokens():
    texts, _ = fitting(open="", empty="")
    fitted = texts.history((), "events")
    assert (fitted.events, fitted.event_lens) == ((), ())
    assert fitted.token_ids.shape == (0,)
    assert fitted.token_ids.dtype == np.int32


def test_a_template_that_fails_on_a_text_is_an_error_with_its_field():
    failing = small_template(item="{{ '%d' % price }}", history={"event": "{{ '%d' % rating }}"})
    texts = FittingTexts(PromptBuilder(failing, CharEncoder(), 5), 10, 40)
    assert len(texts.item_ids(Item("a", "A", price=3.0), "items[0]")) == 1
    for call in (
        lambda: texts.item_ids(Item("x", "X"), "items[0]"),
        lambda: texts.history([Event("x", "X")], "items[0]"),
    ):
        with pytest.raises(InvalidRequestError, match=r"fails on 'x': TypeError: .*; mend the template") as caught:
            call()
        assert caught.value.field == "items[0]"
