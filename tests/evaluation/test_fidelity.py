"""Fidelity against values written out by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.evaluation.fidelity import fidelity, kl_divergence

SCORES = st.lists(st.integers(-3, 3).map(float), min_size=4, max_size=4).map(np.array)


def tau_b(one: np.ndarray, other: np.ndarray) -> float | None:
    """Kendall's tau-b by counting pairs; None where one of them ties all."""
    concordant = discordant = untied_one = untied_other = 0
    for i, j in itertools.combinations(range(len(one)), 2):
        product = (one[i] - one[j]) * (other[i] - other[j])
        concordant += product > 0
        discordant += product < 0
        untied_one += one[i] != one[j]
        untied_other += other[i] != other[j]
    both = untied_one * untied_other
    return (concordant - discordant) / math.sqrt(both) if both else None


@given(SCORES, SCORES)
def test_one_request_against_definitions(reference: np.ndarray, scores: np.ndarray) -> None:
    found = fidelity([(reference, scores)])
    p = [math.exp(s) for s in reference]
    q = [math.exp(s) for s in scores]
    kl = sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    assert found.kl_nats == pytest.approx(kl, abs=1e-9)
    assert found.top1_agreement == (list(reference).index(max(reference)) == list(scores).index(max(scores)))
    assert found.max_score_difference == max(abs(a - b) for a, b in zip(reference, scores, strict=True))
    expected = tau_b(reference, scores)
    assert math.isnan(found.kendall_tau) if expected is None else found.kendall_tau == pytest.approx(expected)


def test_known_values() -> None:
    reference, swapped = np.log([0.5, 0.25, 0.25]), np.log([0.25, 0.5, 0.25])
    # KL = 0.5 ln 2 + 0.25 ln 0.5
    assert kl_divergence(reference, swapped) == pytest.approx(0.25 * math.log(2))
    assert kl_divergence(reference, reference + 7.0) == pytest.approx(0.0, abs=1e-12)  # softmax knows no offset


def test_means_are_over_requests_and_leave_out_taus_that_do_not_exist() -> None:
    up, down, flat = np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0]), np.zeros(3)
    found = fidelity([(up, up), (up, down), (up, up), (flat, flat)])
    assert found.num_requests == 4
    assert found.top1_agreement == 0.75
    assert found.kendall_tau == pytest.approx(1 / 3)
    assert found.max_score_difference == 2.0
    assert found.kl_nats == pytest.approx(kl_divergence(up, down) / 4)


def test_scores_far_apart_do_not_overflow() -> None:
    assert kl_divergence(np.array([0.0, -1e4]), np.array([-1e4, 0.0])) == pytest.approx(1e4)


def test_nothing_to_compare() -> None:
    found = fidelity([])
    assert found.num_requests == 0
    assert math.isnan(found.kl_nats)
