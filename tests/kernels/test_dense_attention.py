"""The differentiable form: the same outputs as the operator, and the right derivatives."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import oracle

from rcjax.kernels.selective_attention import dense
from rcjax.kernels.selective_attention.cases import CASES

FLOAT32 = [name for name, case in CASES.items() if case.dtype == "float32"]


@pytest.mark.parametrize("name", FLOAT32)
def test_agrees_with_the_oracle(name):
    case = CASES[name]
    inputs = case.inputs(0)
    attend = jax.jit(partial(dense.selective_attention, rope=case.rope, window=case.window))
    expected = oracle(inputs, case.rope, case.window)
    np.testing.assert_allclose(np.asarray(attend(*inputs), np.float64), expected, rtol=0, atol=1e-5)


def test_derivatives_are_those_of_finite_differences():
    """Of a random projection of the output, in the direction of random changes of q, K and V, fresh and cached."""
    case = CASES["ragged_batch"]
    inputs = case.inputs(0)
    # Poison marks what must not be read; finite differences would read it.
    k_pages, v_pages = (jnp.nan_to_num(x) for x in (inputs.k_pages, inputs.v_pages))
    variables = tuple(map(jnp.asarray, (inputs.q, inputs.k_new, inputs.v_new, k_pages, v_pages)))
    variables = tuple(map(jnp.nan_to_num, variables))
    rng = np.random.default_rng(1)
    weights = jnp.asarray(rng.standard_normal(inputs.q.shape), jnp.float32)

    @jax.jit
    def projected(q, k_new, v_new, k_pages, v_pages):
        out = dense.selective_attention(
            q, k_new, v_new, inputs.tokens, k_pages, v_pages, inputs.pages, rope=case.rope, window=case.window
        )
        return (out * weights).sum()

    gradients = jax.grad(projected, argnums=tuple(range(5)))(*variables)
    for i, gradient in enumerate(gradients):
        assert float(jnp.abs(gradient).max()) > 0
        direction = jnp.asarray(rng.standard_normal(gradient.shape), jnp.float32)
        step = 1e-2
        ends = [
            projected(*variables[:i], variables[i] + sign * step * direction, *variables[i + 1 :]) for sign in (1, -1)
        ]
        numeric = float(ends[0] - ends[1]) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(numeric, rel=2e-2, abs=2e-2)
