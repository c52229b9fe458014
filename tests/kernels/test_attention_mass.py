"""The attention that keys receive, against weights worked out one query and one key at a time in float64."""

import numpy as np
import pytest
from attention_oracle import mass_oracle
from operator_runs import case_of, mass

from rcjax.kernels.selective_attention import DENSE, REFERENCE
from rcjax.kernels.selective_attention.cases import CASES, SERVING_CASES

# Absolute, of sums of up to 600 queries' weights; bfloat16 keys and queries are exact in the oracle too.
TOLERANCE = 2e-4


@pytest.mark.parametrize("name", CASES | SERVING_CASES)
def test_agrees_with_the_oracle(name):
    """Padding and all that a query must not see is NaN in the cases."""
    case, inputs, _ = case_of(name)
    counts = np.random.default_rng(1).random(inputs.tokens.pos.shape) < 0.7
    for found, expected in zip(
        mass(REFERENCE, inputs, counts, case), mass_oracle(inputs, counts, case.rope, case.window), strict=True
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["sequential", "padded", "at_home", "several_query_blocks", "many_cached"])
def test_each_query_that_counts_gives_one_per_head(name):
    case, inputs, _ = case_of(name)
    counts = np.zeros(inputs.tokens.pos.shape, bool)
    counts[:, 1::2] = True
    slots, fresh = mass(REFERENCE, inputs, counts, case)
    num_queries = (counts & (inputs.tokens.pos >= 0)).sum()
    assert float(slots.sum() + fresh.sum()) == pytest.approx(num_queries * inputs.q.shape[2], rel=1e-5)


def test_every_implementation_measures_alike():
    """Neither has a form of its own; one that gets one has to be in the tests above."""
    assert DENSE.measure is REFERENCE.measure
