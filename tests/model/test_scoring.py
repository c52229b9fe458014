import itertools
import math

import numpy as np
import pytest
from char_encoder import CharEncoder, small_template
from hypothesis import given
from hypothesis import strategies as st

from rcjax.model.scoring import Scorer
from rcjax.prompt import PromptBuilder, Scoring

SCORER = Scorer.of(PromptBuilder(small_template(), CharEncoder(), 4))
LOGITS = st.lists(st.floats(-50, 50, width=32), min_size=6, max_size=6)


def test_the_vocabulary_is_the_labels_then_yes_then_no():
    assert SCORER.vocab_ids.dtype == np.int32
    assert SCORER.vocab_ids.tolist() == [ord(c) for c in "ABCDyn"]


@given(LOGITS, st.integers(1, 4))
def test_a_label_score_is_a_log_probability_among_the_candidates(logits, num_candidates):
    scores = SCORER.scores(np.array([logits], np.float32), Scoring.LABEL, num_candidates)
    odds = [math.exp(logit) for logit in logits[:num_candidates]]  # not those of unused labels, of yes or of no
    assert scores.shape == (num_candidates,)
    assert np.exp(scores.astype(np.float64)) == pytest.approx([odd / sum(odds) for odd in odds], rel=1e-4, abs=1e-12)


@given(st.lists(LOGITS, min_size=4, max_size=4), st.integers(1, 4))
def test_an_anchor_score_is_yes_against_no_of_the_candidates_own_row(logits, num_candidates):
    scores = SCORER.scores(np.array(logits, np.float32), Scoring.ANCHOR, num_candidates)
    assert scores.tolist() == pytest.approx([row[4] - row[5] for row in logits[:num_candidates]], abs=1e-4)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_label_scores_of_huge_logits_stay_finite(order):
    """Whichever candidate has them: e to the power of any of these is infinite or 0."""
    logits, expected = [1e4, 1e4, -1e4], [-math.log(2), -math.log(2), -2e4 - math.log(2)]
    row = [*(logits[i] for i in order), 0, 0, 0]
    scores = SCORER.scores(np.array([row], np.float32), Scoring.LABEL, 3)
    assert scores == pytest.approx([expected[i] for i in order])


def test_a_label_that_no_candidate_has_changes_nothing_however_far_above():
    """Against the largest logit of all, a candidate's probability would be 0 and its score -inf."""
    scores = SCORER.scores(np.array([[0, 1, 1e4, 1e4, 1e4, 1e4]], np.float32), Scoring.LABEL, 2)
    assert scores == pytest.approx([-math.log(1 + math.e), 1 - math.log(1 + math.e)])
