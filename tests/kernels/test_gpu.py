"""The GPU kernel as a GPU runs it: compiled, against the float64 oracle; what the interpreter cannot show.

    JAX_PLATFORMS=cuda RCJAX_TEST_OPTIMIZED=1 python -m pytest -m gpu tests/kernels

Elsewhere these are skipped: tests/kernels/test_pallas_gpu.py has the same kernel, interpreted.
"""

import jax
import numpy as np
import pytest
from operator_runs import attend, case_of, checked, checked_case

from rcjax.kernels.selective_attention.case import Case, Run
from rcjax.kernels.selective_attention.cases import CASES, pointwise
from rcjax.kernels.selective_attention.config import GpuTiling
from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU and JAX_PLATFORMS=cuda"),
    pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning"),  # from jax 0.11 on
]

DEFAULT = pallas_gpu()
# Small, so that small cases have several blocks of queries, steps and splits.
TILED = pallas_gpu(tiling=GpuTiling(queries=4, keys=16, splits=2))
ITEMS = (Run(0, 9, cached=True), Run(9, 3, segment=1, horizon=1), Run(9, 21, cached=True), Run(30, 4))
SHAPES = pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim"), [(2, 2, 64), (3, 1, 80), (8, 2, 96), (8, 1, 128), (2, 1, 256)]
)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_oracle(name):
    """Padding, unused pages and all that a query must not see is NaN in the cases."""
    checked_case(DEFAULT, name)


@pytest.mark.parametrize(
    "name",
    ["one_past_a_page", "ragged_batch", "selected_scattered", "window_parallel", "tiles_with_room", "tiles_long"],
)
def test_agrees_with_the_oracle_in_several_blocks_steps_and_splits(name):
    checked_case(TILED, name)


@pytest.mark.parametrize("kv_dtype", [None, "int8", "float8_e4m3fn"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@SHAPES
def test_agrees_with_the_oracle_in_models_of_other_shapes(num_heads, num_kv_heads, head_dim, dtype, kv_dtype):
    case = Case("", (ITEMS,) * 2, num_heads, num_kv_heads, head_dim, 16, dtype=dtype, kv_dtype=kv_dtype, pad_pages=1)
    checked(DEFAULT, case.inputs(0), case)


@pytest.mark.parametrize(("dtype", "kv_dtype"), [("float32", None), ("bfloat16", None), ("bfloat16", "int8")])
def test_agrees_with_the_oracle_on_a_served_prompt(dtype, kv_dtype):
    """20 candidates in the shape of Qwen3-8B's attention, their pages in tiles."""
    row = pointwise(instruction=100, history=90, items=(33, 41, 26, 50) * 5, glue=1)
    shape = {"num_heads": 32, "num_kv_heads": 8, "head_dim": 128, "page_tokens": 16, "tiles": (20, 1, 4)}
    case = Case("", (row,) * 2, **shape, dtype=dtype, kv_dtype=kv_dtype, moved=False)
    checked(DEFAULT, case.inputs(0), case)


@pytest.mark.parametrize("name", ["many_cached_and_fresh", "tiles_long", "tiles_bfloat16"])
def test_the_same_inputs_yield_the_same_bits(name):
    case, inputs = case_of(name)
    expected = attend(DEFAULT, inputs, case)
    for _ in range(10):
        np.testing.assert_array_equal(attend(DEFAULT, inputs, case), expected)


@pytest.mark.parametrize("spoiled", ["k_new", "v_new", "k_pages", "v_pages"])
def test_a_visible_nan_does_show(spoiled):
    """The maximum of a GPU passes over NaN, that of the interpreter does not."""
    case, inputs = case_of("one_past_a_page")
    array = getattr(inputs, spoiled).copy()
    array[(0, 0) if spoiled.endswith("new") else (inputs.pages.table[0, 0], 0)] = np.nan
    assert np.isnan(attend(DEFAULT, inputs._replace(**{spoiled: array}), case)).any()
