"""Runs of the operator that tests share: each program is compiled, and each case's truth worked out, once."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
from attention_oracle import oracle, untiled

from rcjax.kernels.selective_attention.cases import CASES, SERVING_CASES

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}  # absolute; outputs are averages of standard normals
EVERY_CASE = CASES | SERVING_CASES


@cache
def _compiled(attention, model):
    return jax.jit(lambda inputs, first_page: run(attention, inputs, model, first_page))


@cache
def _compiled_mass(attention, model):
    return jax.jit(lambda *args: attention.mass(*args, rope=model.rope, window=model.window))


def _model(case):
    return replace(case, name="", rows=(), pad_tokens=0, pad_pages=0, moved=True, tiles=None)


def run(attention, inputs, model, first_page=0):
    """The operator with the rope and window of `model`, which is a case or has the like."""
    view = attention.view(inputs.tokens, inputs.pages, inputs.tiles, rope=model.rope, window=model.window)
    return attention(view, inputs.q, inputs.k_new, inputs.v_new, inputs.kv, first_page)


def attend(attention, inputs, case, first_page=0):
    return np.asarray(_compiled(attention, _model(case))(inputs, first_page))


def mass(attention, inputs, counts, case):
    """Over all pages, those of tiles last."""
    inputs = untiled(inputs)
    return _compiled_mass(attention, _model(case))(
        inputs.q, inputs.k_new, inputs.tokens, counts, inputs.kv, inputs.pages
    )


def checked(attention, inputs, case):
    """What the operator gives, after it was held against the oracle."""
    return _checked(attention, inputs, case, oracle(inputs, case.rope, case.window))


@cache
def case_of(name):
    """A named case with its inputs; not to be written to."""
    case = EVERY_CASE[name]
    return case, case.inputs(0)


@cache
def expected_of(name):
    """What the oracle says of a named case; not to be written to."""
    case, inputs = case_of(name)
    return oracle(inputs, case.rope, case.window)


def checked_case(attention, name):
    case, inputs = case_of(name)
    return inputs, _checked(attention, inputs, case, expected_of(name))


def _checked(attention, inputs, case, expected):
    assert np.isfinite(expected).all(), "the oracle read poison: the case is wrong"
    out = attend(attention, inputs, case)
    assert out.dtype == inputs.q.dtype
    np.testing.assert_allclose(out.astype(np.float64), expected, rtol=0, atol=TOLERANCE[case.dtype])
    return out
