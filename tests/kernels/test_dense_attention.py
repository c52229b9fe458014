"""The derivatives of the implementation that training runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import oracle
from operator_runs import run

from rcjax.kernels.selective_attention import DENSE
from rcjax.kernels.selective_attention.cases import CASES

VARIABLES = ("q", "k_new", "v_new", "k_pages", "v_pages")


@pytest.mark.parametrize(
    "name",
    [
        "ragged_batch",
        "selected_scattered",
        "parallel_batch",
        "at_home",
        "tiles_with_room",
        "window",
        "grouped_query",
        "several_query_blocks",
    ],
)
def test_derivatives_are_finite_differences_of_the_oracle(name):
    """Of a random projection of the output, padding's too, in the direction of random changes of q, K and V."""
    case = CASES[name]
    inputs = case.inputs(0)
    # Poison marks what must not be read; a derivative of it would be NaN too.
    clean = inputs._replace(**{of: np.nan_to_num(getattr(inputs, of)) for of in VARIABLES})
    rng = np.random.default_rng(1)
    weights = rng.standard_normal(inputs.q.shape)

    def projected(variables):
        return (run(DENSE, clean._replace(**variables), case) * weights).sum()

    gradients = jax.jit(jax.grad(projected))({of: jnp.asarray(getattr(clean, of)) for of in VARIABLES})
    for of in VARIABLES:
        value = getattr(clean, of).astype(np.float64)
        direction = rng.standard_normal(value.shape)
        ends = [
            (oracle(clean._replace(**{of: value + step * direction}), case.rope, case.window) * weights).sum()
            for step in (1e-5, -1e-5)
        ]
        gradient = np.asarray(gradients[of], np.float64)
        scale = np.linalg.norm(gradient)
        assert scale > 0
        assert (gradient * direction).sum() == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-5 * scale)
