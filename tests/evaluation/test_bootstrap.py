"""Resampled means against a plain loop, and intervals that cover as often as they say."""

import numpy as np
import pytest

from rcjax.evaluation import bootstrap
from rcjax.evaluation.bootstrap import interval, resampled_means


def test_means_are_those_of_rows_drawn_group_by_group() -> None:
    """Brute force over the same draws: list the rows of each drawn group as often as it was drawn, and average."""
    rng = np.random.default_rng(0)
    values, groups = rng.normal(size=(9, 2)), list("aabcccddd")
    means = resampled_means(values, groups, num_resamples=50, seed=3)
    draws = np.random.default_rng(3).multinomial(4, np.full(4, 0.25), size=50)
    members = {name: [row for row, group in enumerate(groups) if group == name] for name in "abcd"}
    for mean, counts in zip(means, draws, strict=True):
        rows = [row for name, times in zip("abcd", counts, strict=True) for row in members[name] * times]
        assert mean == pytest.approx(values[rows].mean(axis=0))


def test_the_spread_is_the_standard_error_of_the_mean() -> None:
    values = np.random.default_rng(1).exponential(size=(400, 1))
    means = resampled_means(values, [str(n) for n in range(400)], num_resamples=4000)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)
    assert means.mean() == pytest.approx(values.mean(), abs=0.01)


def test_requests_of_one_user_are_one_observation() -> None:
    """Each value 16 times: as independent rows the interval is 4 times too narrow; by user it is right."""
    once = np.random.default_rng(2).normal(size=(100, 1))
    values, users = np.repeat(once, 16, axis=0), [str(n // 16) for n in range(1600)]
    by_user = resampled_means(values, users, num_resamples=2000).std()
    by_row = resampled_means(values, [str(n) for n in range(1600)], num_resamples=2000).std()
    assert by_user == pytest.approx(once.std() / 10, rel=0.07)
    assert by_row == pytest.approx(by_user / 4, rel=0.1)


def test_paired_differences_are_differences_of_resampled_means() -> None:
    rng = np.random.default_rng(4)
    one = rng.normal(size=(200, 1))
    both = np.hstack([one, one + 0.1 + 0.01 * rng.normal(size=(200, 1))])
    users = [str(n) for n in range(200)]
    together = resampled_means(both, users, num_resamples=500, seed=5)
    alone = resampled_means(both[:, 1:] - both[:, :1], users, num_resamples=500, seed=5)
    assert together[:, 1] - together[:, 0] == pytest.approx(alone[:, 0])
    assert alone.std() < 0.02 * together[:, 0].std()


def test_the_interval_covers_the_true_mean_as_often_as_it_says() -> None:
    """600 experiments of 60 draws from a known distribution; 95% of intervals hold its mean, give or take."""
    rng, num_experiments = np.random.default_rng(6), 600
    values = rng.beta(0.5, 0.5, size=(60, num_experiments))  # mean 0.5, like NDCG mostly near 0 or 1
    low, high = interval(resampled_means(values, [str(n) for n in range(60)], num_resamples=1500))
    coverage = np.mean((low <= 0.5) & (high >= 0.5))
    # percentile intervals of 60 observations cover a little less than they say; four standard deviations either way
    assert coverage == pytest.approx(0.945, abs=4 * np.sqrt(0.95 * 0.05 / num_experiments))


def test_a_level_is_the_share_of_means_inside() -> None:
    means = np.arange(1001.0)[:, None]
    low, high = interval(means, level=0.9)
    assert (low[0], high[0]) == (pytest.approx(50.0), pytest.approx(950.0))


def test_the_seed_and_nothing_else_decides() -> None:
    values, users = np.random.default_rng(8).normal(size=(30, 1)), [str(n) for n in range(30)]
    first, again, other = (resampled_means(values, users, num_resamples=20, seed=seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_many_requests_are_resampled_in_chunks(monkeypatch) -> None:
    monkeypatch.setattr(bootstrap, "_CHUNK_VALUES", 100)
    values = np.random.default_rng(9).normal(size=(30, 1))
    means = resampled_means(values, [str(n) for n in range(30)], num_resamples=400)
    assert means.shape == (400, 1)
    assert len(np.unique(means)) == 400


def test_no_values_and_groups_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="0 groups for 0 values"):
        resampled_means(np.zeros((0, 1)), [])
    with pytest.raises(ValueError, match="2 groups for 3 values"):
        resampled_means(np.zeros((3, 1)), ["a", "b"])
