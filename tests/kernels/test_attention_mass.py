"""The attention that keys receive, against weights worked out one query and one key at a time in float64."""

import jax
import numpy as np
import pytest
from attention_oracle import mass_oracle
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from operator_runs import case_of, mass

from rcjax.kernels.selective_attention import DENSE, REFERENCE
from rcjax.kernels.selective_attention.cases import CASES, SERVING_CASES, Case, sequential
from rcjax.kernels.selective_attention.config import GpuTiling, TpuTiling
from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu
from rcjax.kernels.selective_attention.pallas_tpu import pallas_tpu

# Small, so that small cases have several blocks of queries and steps.
INTERPRETED = {
    "gpu": pallas_gpu(interpret=True, tiling=GpuTiling(queries=4, keys=16, splits=2)),
    "tpu": pallas_tpu(interpret=True, tiling=TpuTiling(queries=4, keys=8)),
}
# Absolute, of sums of up to 600 queries' weights; bfloat16 keys and queries are exact in the oracle too.
TOLERANCE = 2e-4


@pytest.mark.parametrize("name", CASES | SERVING_CASES)
def test_agrees_with_the_oracle(name):
    """Padding and all that a query must not see is NaN in the cases."""
    case, inputs = case_of(name)
    counts = np.random.default_rng(1).random(inputs.tokens.pos.shape) < 0.7
    for found, expected in zip(
        mass(REFERENCE, inputs, counts, case), mass_oracle(inputs, counts, case.rope, case.window), strict=True
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["sequential", "padded", "at_home", "several_query_blocks", "many_cached"])
def test_each_query_that_counts_gives_one_per_head(name):
    case, inputs = case_of(name)
    counts = np.zeros(inputs.tokens.pos.shape, bool)
    counts[:, 1::2] = True
    slots, fresh = mass(REFERENCE, inputs, counts, case)
    num_queries = (counts & (inputs.tokens.pos >= 0)).sum()
    assert float(slots.sum() + fresh.sum()) == pytest.approx(num_queries * inputs.q.shape[2], rel=1e-5)


def test_plain_implementations_measure_alike():
    """Neither has a form of its own; one that gets one has to be in the tests here."""
    assert DENSE.measure is REFERENCE.measure


@pytest.mark.interpreted
@pytest.mark.parametrize("name", ["ragged_batch", "window_parallel", "int8_pages", "fp8_pages"])
@pytest.mark.parametrize("device", INTERPRETED)
def test_kernels_agree_with_the_oracle(device, name):
    """Padding, unused pages and all that a query must not see is NaN in the cases. Again, the bits are the same."""
    case, inputs = case_of(name)
    counts = np.random.default_rng(1).random(inputs.tokens.pos.shape) < 0.7
    expected = mass_oracle(inputs, counts, case.rope, case.window)
    once, again = (mass(INTERPRETED[device], inputs, counts, case) for _ in range(2))
    for found, same, right in zip(once, again, expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, right, rtol=2e-6, atol=2e-6)
        np.testing.assert_array_equal(found, same)


@pytest.mark.interpreted
@pytest.mark.parametrize("device", INTERPRETED)
def test_kernels_agree_with_the_oracle_in_bfloat16(device):
    """Keys that turn are rounded to the type of the queries, as in attention; rows fill a part of a tile."""
    case, inputs = case_of("bfloat16")
    counts = np.ones(inputs.tokens.pos.shape, bool)
    expected = mass_oracle(inputs, counts, case.rope, case.window)
    for found, right in zip(mass(INTERPRETED[device], inputs, counts, case), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=2e-2, atol=2e-2)


@pytest.mark.interpreted
@pytest.mark.parametrize("device", INTERPRETED)
def test_a_visible_nan_does_show(device):
    """Otherwise the poison of the other tests would prove nothing."""
    case, inputs = case_of("ragged_batch")
    pages = inputs.k_pages.copy()
    pages[inputs.pages.table[0, 0], 0] = np.nan
    counts = np.ones(inputs.tokens.pos.shape, bool)
    assert np.isnan(mass(INTERPRETED[device], inputs._replace(k_pages=pages), counts, case)[0][0]).any()


SERVED = {"num_heads": 8, "num_kv_heads": 2, "head_dim": 128, "page_tokens": 16}
DEVICES = {
    "cuda": (pallas_gpu(), "__gpu$xla.gpu.triton", "NVIDIA H100 80GB HBM3", 132),
    "tpu": (pallas_tpu(), "tpu_custom_call", "TPU v5 lite", 1),
}


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")  # from jax 0.11 on
@pytest.mark.parametrize("sizes", [{"dtype": "bfloat16", "kv_dtype": "int8"}, {"moved": False, "window": 50}])
@pytest.mark.parametrize("platform", DEVICES)
def test_lowers_for_the_hardware(platform, sizes):
    case = Case("", (sequential(40, 60, (33, 20), glue=2, task=8, selected=1),) * 2, **SERVED, **sizes)
    assert _lowered(platform, case).count(DEVICES[platform][1]) == 4, "totals and shares, of fresh keys and of pages"


def _measured(attention, inputs, case):
    counts = np.ones(inputs.tokens.pos.shape, bool)
    return attention.mass(
        inputs.q, inputs.k_new, inputs.tokens, counts, inputs.kv, inputs.pages, rope=case.rope, window=case.window
    )


def _lowered(platform, case):
    attention, _, kind, cores = DEVICES[platform]
    device = AbstractDevice(device_kind=kind, num_cores=cores, platform=platform)
    mesh = AbstractMesh((1,), ("_",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        exported = export.export(
            jax.jit(lambda inputs: _measured(attention, inputs, case)),
            platforms=[platform],
            disabled_checks=[export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")],
        )(case.inputs(0))
    return exported.mlir_module()
