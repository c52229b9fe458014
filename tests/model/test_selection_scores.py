"""Policies that choose by scores: how many they take, which, and that no score changes the number.

The tokens are made by hand, so that a history can be inexact too, as one from a semantic pool is.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.model.selection import CachedTokens, HeavyHitterSelection, Quantity, parse_policy

INSTRUCTION, HISTORY, ITEM = range(3)


def tokens_of(*blocks):
    """From (kind, length, whether it is correctable) of each cached block."""
    lengths = np.array([length for _, length, _ in blocks])
    return CachedTokens(
        np.repeat(np.arange(len(blocks)), lengths),
        np.concatenate([np.arange(length) for length in lengths]),
        lengths,
        np.repeat([kind == ITEM for kind, _, _ in blocks], lengths),
        np.repeat([correctable for _, _, correctable in blocks], lengths),
    )


# 3 exact tokens, then 4 of a history and 10 of items that can be corrected
TOKENS = tokens_of((INSTRUCTION, 3, False), (HISTORY, 4, True), (ITEM, 6, True), (ITEM, 4, True))


def chosen(text, *measured, tokens=TOKENS):
    policy = parse_policy(text)
    assert len(measured) == len(policy.measures)
    taken = np.zeros(len(tokens), bool)
    policy.fill(tokens, [np.asarray(scores, np.float32) for scores in measured], taken)
    return np.flatnonzero(taken).tolist()


RISING = np.arange(17.0)


@pytest.mark.parametrize("name", ["deviation", "query"])
def test_the_largest_of_the_correctable_tokens(name):
    assert chosen(f"{name}(r=0.2)", RISING) == [14, 15, 16], "3 of 14, rounded up"
    assert chosen(f"{name}(r=0.2)", -RISING) == [3, 4, 5], "exact tokens are left alone"
    assert chosen(f"{name}(r=0.2)", np.zeros(17)) == [3, 4, 5], "the first win ties"
    assert chosen(f"{name}(r=0)", RISING) == []
    assert chosen(f"{name}(r=1)", RISING) == list(range(3, 17))


def test_a_share_that_is_whole_is_not_rounded_up():
    tokens = tokens_of((ITEM, 100, True))
    assert 0.07 * 100 > 7, "in floating point"
    assert len(chosen("query(r=0.07)", np.zeros(100), tokens=tokens)) == 7


def test_narrowing_probes_the_survivors_again_and_selects_by_the_last_probe():
    policy = parse_policy("deviation(r=0.1, layers=2, narrow=(0.5, 0.2))")
    assert [(m.quantity, m.layer, m.is_whole) for m in policy.measures] == [
        (Quantity.DEVIATION, 2, True),
        (Quantity.DEVIATION, 3, False),
        (Quantity.DEVIATION, 4, False),
    ]
    first = [RISING]
    assert np.flatnonzero(policy.probe_mask(TOKENS, first)).tolist() == [10, 11, 12, 13, 14, 15, 16]
    second = [RISING, np.where(RISING >= 10, -RISING, -np.inf)]
    assert np.flatnonzero(policy.probe_mask(TOKENS, second)).tolist() == [10, 11, 12]
    third = np.where((RISING >= 10) & (RISING <= 12), RISING, -np.inf)
    assert chosen("deviation(r=0.1, layers=2, narrow=(0.5, 0.2))", *second, third) == [11, 12]


class TestHeavyHitter:
    """Eq. 3 by hand: attention row, deviation row."""

    def test_only_attention_counts_for_items_and_both_for_history(self):
        attention = np.zeros(17)
        attention[[4, 8]] = 1.0
        deviation = np.zeros(17)
        deviation[[5, 9]] = 3.0
        scores = [attention, deviation]
        text = "heavy_hitter(r_item=0.1, r_history=0.25, window=0, lam={})"
        # History: 0.75 * 1 = 0.75 at 4 against 0.25 * 3 = 0.75 at 5: the first wins; then 0.6 against 1.2.
        assert chosen(text.format(0.25), scores) == [4, 8]
        assert chosen(text.format(0.4), scores) == [5, 8]
        assert chosen(text.format(0), scores) == [4, 8]
        assert chosen(text.format(1), scores) == [5, 7], "items have no term left and tie"

    def test_budgets_of_items_and_history_are_separate(self):
        scores = [RISING, np.zeros(17)]
        assert chosen("heavy_hitter(r_item=0.3, r_history=0.5, window=0)", scores) == [5, 6, 14, 15, 16]
        assert chosen("heavy_hitter(r_item=0, r_history=1, window=0)", scores) == [3, 4, 5, 6]

    def test_the_window_comes_on_top(self):
        falling = [-RISING, np.zeros(17)]
        assert chosen("heavy_hitter(r_item=0.2, r_history=0, window=3)", falling) == [7, 8, 14, 15, 16]
        assert chosen("heavy_hitter(r_item=0.8, r_history=0, window=3)", falling) == list(range(7, 17))
        assert chosen("heavy_hitter(r_item=0, r_history=0, window=12)", falling) == list(range(5, 17))
        assert chosen("heavy_hitter(r_item=0, r_history=0, window=99)", falling) == list(range(3, 17))

    def test_an_exact_history_has_nothing_to_correct(self):
        tokens = tokens_of((HISTORY, 4, False), (ITEM, 5, True))
        scores = np.ones((2, 9))
        assert chosen("heavy_hitter(r_item=0.2, r_history=1, window=0)", scores, tokens=tokens) == [4]

    def test_the_papers_defaults(self):
        assert HeavyHitterSelection() == HeavyHitterSelection(r_item=0.3, r_history=0.3, lam=0.5, window=16)


class TestOffline:
    def test_k_of_each_block(self):
        stored = np.concatenate([RISING[:3], -RISING[:4], RISING[:6], [0, 5, 1, 4]])
        assert chosen("offline(k=2)", stored) == [3, 4, 11, 12, 14, 16]
        assert chosen("offline(k=5)", stored) == [3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16]


class TestUnion:
    def test_earlier_parts_go_first_and_scores_fill_what_is_left(self):
        scores = np.where(np.isin(np.arange(17), [7, 9, 10]), 1.0, 0.0)
        assert chosen("boundary(first=1) + deviation(r=0.3)", scores) == [3, 7, 9, 10, 13], "5 of 14: 3 and 2 more"
        assert chosen("boundary(first=1) + deviation(r=0.1)", scores) == [3, 7, 13], "the boundaries alone are more"

    def test_two_fixed_parts_share_each_block(self):
        assert chosen("boundary(first=1) + offline(k=2)", RISING) == [3, 6, 7, 12, 13, 16]
        assert chosen("offline(k=1) + boundary(first=2)", RISING) == [3, 6, 7, 12, 13, 16]

    def test_each_part_gets_its_own_measures(self):
        text = "heavy_hitter(r_item=0.1, r_history=0, window=0) + deviation(r=0.1, narrow=0.2) + query(r=0.2)"
        attention = [np.eye(17)[9], np.zeros(17)]
        narrowed = np.where(RISING >= 14, RISING, -np.inf)
        assert chosen(text, attention, RISING, narrowed, -RISING) == [3, 9, 16]
        policy = parse_policy(text)
        mask = policy.probe_mask(TOKENS, [np.array(attention), RISING])
        assert np.flatnonzero(mask).tolist() == [14, 15, 16], "of the deviation's own first probe"


POLICIES = (
    "boundary(first=2, last=1)",
    "offline(k=3)",
    "heavy_hitter(r_item=0.3, r_history=0.6, window=4)",
    "deviation(r=0.4)",
    "deviation(r=0.2, narrow=(0.7, 0.3))",
    "query(r=0.33)",
    "boundary(first=1) + deviation(r=0.3)",
    "boundary(last=2) + offline(k=3) + query(r=0.5)",
    "offline(k=1) + heavy_hitter(r_item=0.2, r_history=0.2, window=6) + deviation(r=0.25, narrow=0.5)",
)
blocks = st.lists(st.tuples(st.sampled_from([HISTORY, ITEM]), st.integers(1, 9), st.booleans()), min_size=1, max_size=5)


@pytest.mark.parametrize("text", POLICIES)
@given(blocks, st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_number_selected_depends_on_lengths_alone(text, blocks, seed, other_seed):
    tokens = tokens_of(*blocks)

    def taken(seed):
        rng = np.random.default_rng(seed)
        policy, measured = parse_policy(text), []
        for measure in policy.measures:
            shape = (2, len(tokens)) if measure.quantity is Quantity.FIRST_LAYER else (len(tokens),)
            scores = rng.integers(0, 4, shape).astype(np.float32)  # with ties
            if not measure.is_whole:
                again = policy.probe_mask(tokens, measured)
                scores = np.where(again, scores, -np.inf) if measure.quantity is Quantity.DEVIATION else scores
            measured.append(scores)
        mask = np.zeros(len(tokens), bool)
        policy.fill(tokens, measured, mask)
        return mask

    first, other = taken(seed), taken(other_seed)
    assert first.sum() == other.sum()
    assert not first[~tokens.is_correctable].any()


@given(blocks, st.floats(0, 1), st.integers(0, 10**6))
def test_a_share_of_the_correctable_tokens(blocks, share, seed):
    tokens = tokens_of(*blocks)
    scores = np.random.default_rng(seed).permutation(len(tokens)).astype(np.float32)
    found = chosen(f"query(r={share:.6f})", scores, tokens=tokens)
    correctable = sorted(np.flatnonzero(tokens.is_correctable), key=lambda i: -scores[i])
    num = math.ceil(round(share, 6) * len(correctable) - 1e-9)
    assert found == sorted(correctable[:num])


def test_offsets_are_within_each_block():
    mask = np.zeros(17, bool)
    mask[[0, 2, 4, 12, 13, 16]] = True
    assert [part.tolist() for part in TOKENS.offsets(mask)] == [[0, 2], [1], [5], [0, 3]]
    assert all(part.dtype == np.int32 for part in TOKENS.offsets(mask))
    assert [part.tolist() for part in TOKENS.offsets(np.zeros(17, bool))] == [[], [], [], []]
