import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rcjax.model.contraction import contract

SHAPES = {
    "btd,df->btf": ((2, 3, 5), (5, 7)),
    "btd,dnh->btnh": ((2, 3, 5), (5, 4, 6)),
    "btnh,nhd->btd": ((2, 3, 4, 6), (4, 6, 5)),
}


def operands(subscripts, dtype):
    """Two operands and a cotangent. Drawn by NumPy: JAX would compile its random numbers for each shape."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape) for shape in SHAPES[subscripts])
    y = rng.standard_normal(np.einsum(subscripts, x, w).shape)
    return tuple(jnp.asarray(drawn, dtype) for drawn in (x, w, y))


@pytest.mark.parametrize("subscripts", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 2**-8)])
def test_derivative_is_einsum_s(subscripts, dtype, tolerance):
    x, w, cotangent = operands(subscripts, dtype)
    wide = [a.astype(jnp.float32) for a in (x, w, cotangent)]
    expected_y, pull = jax.vjp(lambda x, w: jnp.einsum(subscripts, x, w), *wide[:2])
    y, own_pull = jax.vjp(lambda x, w: contract(subscripts, x, w), x, w)
    for own, expected in zip((y, *own_pull(cotangent)), (expected_y, *pull(wide[2])), strict=True):
        assert own.dtype == dtype
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(own.astype(jnp.float32), expected, atol=tolerance * scale)


@pytest.mark.parametrize("subscripts", SHAPES)
def test_every_product_of_a_bfloat16_derivative_is_of_bfloat16(subscripts):
    x, w, cotangent = operands(subscripts, jnp.bfloat16)

    def pull(x, w, y):
        return jax.vjp(lambda x, w: contract(subscripts, x, w), x, w)[1](y)

    equations = jax.make_jaxpr(pull)(x, w, cotangent).jaxpr.eqns
    types = [[v.aval.dtype for v in e.invars] for e in equations if e.primitive.name == "dot_general"]
    assert len(types) == 3
    assert all(dtype == jnp.bfloat16 for operands in types for dtype in operands)
