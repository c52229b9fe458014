"""The scheduler's choice, from plans that cost what they say."""

from dataclasses import dataclass

import pytest

from rcjax.serving.scheduler import LeastCompletionTime


@dataclass(frozen=True)
class Costing:
    cost_s: float


@pytest.mark.parametrize(
    ("loads_s", "chosen"),
    [([0.0], 0), ([0.3, 0.1, 0.2], 1), ([0.2, 0.1, 0.1], 1), ([0.0, 0.0], 0), ([1e-9, 0.0], 1)],
)
def test_the_slice_that_is_done_first_and_the_lowest_among_equals(loads_s: list[float], chosen: int) -> None:
    assert LeastCompletionTime().choose(Costing(0.05), loads_s) == chosen
