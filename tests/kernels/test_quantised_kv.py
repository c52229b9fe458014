"""Quantised pages: the rounding against NumPy vector by vector, and every implementation that reads them."""

from dataclasses import replace

import jax
import ml_dtypes
import numpy as np
import pytest
from attention_oracle import mass_oracle, stored
from operator_runs import TOLERANCE, attend, case_of, checked_case, expected_of, mass, run

from rcjax.kernels.kv import KV_DTYPES, KVPages, quantise_pages
from rcjax.kernels.quantisation import dequantise, quantise
from rcjax.kernels.selective_attention import DENSE, REFERENCE
from rcjax.kernels.selective_attention.config import GpuTiling, TpuTiling
from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu
from rcjax.kernels.selective_attention.pallas_tpu import pallas_tpu

# Small, so that small cases have several blocks of queries and steps.
GPU = pallas_gpu(interpret=True, tiling=GpuTiling(queries=4, keys=16, splits=2))
TPU = pallas_tpu(interpret=True, tiling=TpuTiling(queries=4, keys=8))
EVERY = [REFERENCE, DENSE, *(pytest.param(kernel, marks=pytest.mark.interpreted) for kernel in (GPU, TPU))]
every_implementation = pytest.mark.parametrize("attention", EVERY, ids=lambda of: of.name)
every_dtype = pytest.mark.parametrize("dtype", [np.int8, ml_dtypes.float8_e4m3fn])
LARGEST = {np.int8: 127, ml_dtypes.float8_e4m3fn: 448}


def vectors(num=200, size=16):
    """Of many sizes; some all zeros, some with an outlier, some whose products with the scale are ties."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((num, size)) * 10.0 ** rng.integers(-6, 6, (num, 1))).astype(np.float32)
    x[::10] = x[2::10] = 0
    x[1::10, 3] *= 1000
    x[2::10, :3] = 127, 2.5, 3.5  # the scale of int8 is 1
    return x


@every_dtype
def test_each_vector_is_rounded_to_the_nearest_with_a_scale_of_its_own(dtype):
    x = vectors()
    values, scale = quantise(x, np.dtype(dtype))
    assert (values.dtype, scale.dtype) == (dtype, np.float32)
    for of, found, by in zip(x, values, scale, strict=True):
        if not of.any():
            assert by == 0
            assert not found.any()
            continue
        assert by == np.float32(np.abs(of).max() / np.float32(LARGEST[dtype]))
        exact = (of / by).clip(-LARGEST[dtype], LARGEST[dtype])
        expected = np.rint(exact) if dtype is np.int8 else exact
        np.testing.assert_array_equal(found, expected.astype(dtype))
        assert np.abs(found.astype(np.float64)).max() == LARGEST[dtype]
    assert (values[2, :3] == np.array([127, 2, 4], np.int8)).all() or dtype is not np.int8, "ties to even"


@every_dtype
def test_the_error_is_half_a_step_at_most(dtype):
    x = vectors()
    values, scale = quantise(x, np.dtype(dtype))
    error = np.abs(dequantise(values, scale).astype(np.float64) - x)
    if dtype is np.int8:
        assert (error <= scale[:, None] * (0.5 + 1e-5)).all()
    else:  # three bits after the first; below 2^-6, steps of 2^-9
        assert (error <= np.maximum(np.abs(x) * 2.0**-4, scale[:, None] * 2.0**-10) * (1 + 1e-5)).all()
    assert (error > 0).any()


@every_dtype
def test_a_program_rounds_as_the_host_does(dtype):
    x = vectors()
    host, device = quantise(x, np.dtype(dtype)), jax.jit(lambda x: quantise(x, np.dtype(dtype)))(x)
    np.testing.assert_allclose(device[1], host[1], rtol=2e-7)
    same = np.asarray(device[0]) == host[0]
    assert same.mean() > 0.999, "only a scale that differs in its last bit may move what is nearly a tie"


@every_dtype
@pytest.mark.parametrize("spoiled", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_shows_and_no_other_does(dtype, spoiled):
    x = np.ones((3, 4), np.float32)
    x[1, 2] = spoiled
    for values, scale in (quantise(x, np.dtype(dtype)), jax.jit(lambda x: quantise(x, np.dtype(dtype)))(x)):
        is_nan = np.isnan(dequantise(np.asarray(values), np.asarray(scale)))
        assert is_nan.all(1).tolist() == is_nan.any(1).tolist() == [False, True, False]


@every_dtype
def test_what_was_quantised_is_quantised_to_itself(dtype):
    values, scale = quantise(vectors(), np.dtype(dtype))
    again, scale_again = quantise(dequantise(values, scale), np.dtype(dtype))
    np.testing.assert_array_equal(again, values)
    np.testing.assert_allclose(scale_again, scale, rtol=2e-7)


@every_dtype
def test_pages_are_quantised_each_vector_by_itself(dtype):
    x = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 2, 8)).astype(np.float32)
    pages = quantise_pages(*x, np.dtype(dtype))
    for pool, scale, of in ((pages.k, pages.k_scale, x[0]), (pages.v, pages.v_scale, x[1])):
        for index in np.ndindex(*of.shape[:-1]):
            values, by = quantise(of[index], np.dtype(dtype))
            np.testing.assert_array_equal(pool[index], values)
            assert scale[index] == by
    restored = pages.dequantised()
    assert restored.k_scale is restored.v_scale is None
    np.testing.assert_array_equal(restored.k, pages.k.astype(np.float32) * pages.k_scale[..., None])
    np.testing.assert_array_equal(restored.v, pages.v.astype(np.float32) * pages.v_scale[..., None])
    assert restored.dequantised() is restored


def test_pages_join_with_their_scales():
    x = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 2, 8)).astype(np.float32)
    pages = quantise_pages(*x, np.dtype(np.int8))
    joined = pages.joined()
    assert joined.k.shape == (6, 4, 2, 8)
    np.testing.assert_array_equal(joined.k[1 * 3 + 2], pages.k[1, 2])
    np.testing.assert_array_equal(joined.v_scale[1 * 3 + 2], pages.v_scale[1, 2])
    assert KVPages(*x).joined().k_scale is None


@every_implementation
@pytest.mark.parametrize("name", ["int8_pages", "fp8_pages"])
def test_agrees_with_the_oracle(attention, name):
    """On what the pages stand for; padding, unused slots and all their scales are NaN in the cases."""
    _, inputs = case_of(name)
    assert np.isnan(inputs.k_scale).any()
    assert np.isnan(inputs.v_scale).any()
    checked_case(attention, name)


@every_implementation
@pytest.mark.parametrize("spoiled", ["k_scale", "v_scale"])
def test_a_visible_scale_of_nan_does_show(attention, spoiled):
    """As KV that was not finite has; otherwise the poison of the other tests would prove nothing."""
    case, inputs = case_of("int8_pages")
    scale = getattr(inputs, spoiled).copy()
    scale[inputs.pages.table[0, 0], 0] = np.nan
    assert np.isnan(attend(attention, inputs._replace(**{spoiled: scale}), case)[0]).any()


@every_implementation
def test_quantised_pages_may_be_counted_from_another_than_the_first(attention):
    case, inputs = case_of("int8_pages")
    pools = {
        of: np.concatenate([np.full_like(getattr(inputs, of), fill), getattr(inputs, of)])
        for of, fill in (("k_pages", 99), ("v_pages", 99), ("k_scale", np.nan), ("v_scale", np.nan))
    }
    out = attend(attention, inputs._replace(**pools), case, np.int32(len(inputs.k_pages)))
    np.testing.assert_allclose(out, expected_of("int8_pages"), rtol=0, atol=TOLERANCE[case.dtype])


@pytest.mark.parametrize("name", ["int8_pages", "fp8_pages"])
def test_mass_is_that_of_what_the_pages_stand_for(name):
    case, inputs = case_of(name)
    counts = inputs.tokens.pos >= 0
    found, expected = mass(REFERENCE, inputs, counts, case), mass_oracle(inputs, counts, case.rope, case.window)
    for of_keys, truth in zip(found, expected, strict=True):
        np.testing.assert_allclose(of_keys, truth, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("attention", [REFERENCE, DENSE, GPU, TPU], ids=lambda of: of.name)
def test_scales_of_one_pool_alone_are_refused(attention):
    case, inputs = case_of("int8_pages")
    with pytest.raises(ValueError, match="either both K and V of pages have scales, or neither"):
        jax.eval_shape(lambda x: run(attention, x, case), inputs._replace(v_scale=None))


@pytest.mark.parametrize("attention", [GPU, TPU], ids=lambda of: of.name)
def test_a_kernel_refuses_quantised_pages_without_scales(attention):
    case, inputs = case_of("int8_pages")
    with pytest.raises(NotImplementedError, match="k_pages of int8 is neither bfloat16 nor float32"):
        jax.eval_shape(lambda x: run(attention, x, case), inputs._replace(k_scale=None, v_scale=None))


def test_every_dtype_of_a_format_is_among_the_cases():
    dtypes = {case_of(name)[0].kv_dtype for name in ("int8_pages", "fp8_pages", "bfloat16_pages", "float32_pages")}
    assert dtypes == set(KV_DTYPES)
    case, inputs = case_of("int8_pages")
    plain = replace(case, kv_dtype=None).inputs(0)
    assert plain.k_scale is None
    assert stored(inputs.k_pages, inputs.k_scale).shape == plain.k_pages.shape
