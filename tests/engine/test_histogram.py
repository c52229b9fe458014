"""Histograms against counting by hand, and tallies of passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcjax.engine.histogram import Histogram, HistogramCounts, merged
from rcjax.engine.pass_tally import PassTally
from rcjax.engine.shape import Shape

BOUNDS = (0.5, 1.0, 4.0)
VALUES = st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 10, width=32)), max_size=20)


def read(values: list[float]) -> HistogramCounts:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.add(value)
    return histogram.read()


@given(VALUES)
def test_a_value_is_in_the_first_bucket_whose_bound_it_does_not_exceed(values: list[float]) -> None:
    found = read(values)
    at_most = [sum(value <= bound for value in values) for bound in BOUNDS]
    assert [sum(found.counts[: index + 1]) for index in range(3)] == at_most
    assert found.num_values == len(values)
    assert found.total == pytest.approx(sum(values))


@given(VALUES, VALUES)
def test_merged_is_as_if_one_had_seen_all(one: list[float], other: list[float]) -> None:
    both, together = read(one + other), merged([read(one), read(other)])
    assert together is not None
    assert together.counts == both.counts
    assert together.total == pytest.approx(both.total)


def test_what_cannot_be_one_histogram_is_refused() -> None:
    with pytest.raises(ValueError, match="ascend"):
        Histogram((1.0, 1.0))
    with pytest.raises(ValueError, match="no sum"):
        merged([read([]), Histogram((1.0,)).read()])
    assert merged([]) is None


def test_passes_are_tallied_by_purpose() -> None:
    tally = PassTally()
    tally.add("rank", Shape(10, 4, batch=2), 1, 5, 0.5)
    tally.add("rank", Shape(10, 4, batch=2), 2, 20, 0.25)
    tally.add("build", Shape(8, 0), 1, 6, 2.0)
    found = tally.read()
    assert found.keys() == {"rank", "build"}
    assert (found["rank"].num_tokens, found["rank"].num_padding) == (25, 15)
    assert (found["build"].num_tokens, found["build"].num_padding) == (6, 2)
    assert (found["rank"].seconds.total, found["rank"].rows.total, found["rank"].padding.total) == (0.75, 3, 0.75)
    assert found["rank"].padding.counts[0] == 1  # the pass without any
