"""The attention that keys receive, against weights worked out one query and one key at a time in float64."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from attention_oracle import mass_oracle

from rcjax.kernels.selective_attention import attention_mass
from rcjax.kernels.selective_attention.cases import CASES

# Absolute, of sums of up to 600 queries' weights; bfloat16 keys and queries are exact in the oracle too.
TOLERANCE = 2e-4


@cache
def compiled(model):
    return jax.jit(lambda *args: attention_mass(*args, rope=model.rope, window=model.window))


def mass(case, inputs, counts):
    model = replace(case, name="", rows=(), pad_tokens=0, pad_pages=0)
    return compiled(model)(inputs.q, inputs.k_new, inputs.tokens, counts, inputs.k_pages, inputs.pages)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_oracle(name):
    """Padding and all that a query must not see is NaN in the cases."""
    case = CASES[name]
    inputs = case.inputs(0)
    counts = np.random.default_rng(1).random(inputs.tokens.pos.shape) < 0.7
    for found, expected in zip(
        mass(case, inputs, counts), mass_oracle(inputs, counts, case.rope, case.window), strict=True
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["sequential", "padded", "several_query_blocks", "over_512_cached"])
def test_each_query_that_counts_gives_one_per_head(name):
    case = CASES[name]
    inputs = case.inputs(0)
    counts = np.zeros(inputs.tokens.pos.shape, bool)
    counts[:, 1::2] = True
    slots, fresh = mass(case, inputs, counts)
    num_queries = (counts & (inputs.tokens.pos >= 0)).sum()
    assert float(slots.sum() + fresh.sum()) == pytest.approx(num_queries * inputs.q.shape[2], rel=1e-5)
