"""Draws are what their definitions say, and the same everywhere."""

import numpy as np
import pytest

from rcjax.catalog.draws import Draws


def test_a_stream_is_pinned() -> None:
    draws = Draws(0, 1)
    assert [draws.below(1000) for _ in range(6)] == [889, 557, 800, 956, 58, 236]
    assert Draws(0, 1).uniform() != Draws(0, 2).uniform()


def test_uniform_is_the_top_53_bits_of_the_raw_stream() -> None:
    raw = np.random.PCG64(np.random.SeedSequence((3, 4))).random_raw(100)
    draws = Draws(3, 4)
    assert [draws.uniform() for _ in range(100)] == [(int(bits) >> 11) / 2**53 for bits in raw]


def test_frequencies_follow_the_weights_and_zero_is_never_drawn() -> None:
    draws, weights = Draws(5), np.array([0.0, 1.0, 3.0, 0.0, 4.0, 0.0])
    counts = np.bincount([draws.weighted(weights) for _ in range(8000)], minlength=6)
    expected = 8000 * weights / weights.sum()
    # five standard deviations of a binomial
    assert np.all(np.abs(counts - expected) <= 5 * np.sqrt(expected * (1 - weights / weights.sum())))


def test_a_sample_is_distinct_and_any_order_is_as_likely() -> None:
    draws = Draws(6)
    samples = [tuple(draws.sample("abc", 2)) for _ in range(6000)]
    assert all(a != b for a, b in samples)
    counts = [samples.count(pair) for pair in sorted(set(samples))]
    assert len(counts) == 6
    assert counts == pytest.approx([1000] * 6, abs=5 * np.sqrt(1000 * 5 / 6))
