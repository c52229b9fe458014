"""The TPU kernel, interpreted against the float64 oracle, and lowered for the hardware.

Neither proves its speed, nor that the hardware's numbers are the interpreter's.
"""

from dataclasses import replace

import jax
import numpy as np
import pytest
from jax import export
from jax.experimental.pallas import tpu as pltpu
from operator_runs import attend, case_of, checked, checked_case, expected_of, run

from rcjax.kernels.selective_attention.cases import Case, Run, pointwise
from rcjax.kernels.selective_attention.config import TpuTiling
from rcjax.kernels.selective_attention.pallas_tpu import pallas_tpu

pytestmark = pytest.mark.interpreted

# Two pages a step and few queries a block: several steps and blocks in small cases, the last of them part filled.
INTERPRETED = pallas_tpu(interpret=True, tiling=TpuTiling(queries=4, keys=8))
SERVED = Case("", (pointwise(40, 60, (33, 20), glue=2, task=8, selected=1),) * 2, head_dim=128, page_tokens=16)


@pytest.mark.parametrize(
    "name",
    ["ragged_batch", "middle_missing", "tiles_at_home", "tiles_overflow", "window_parallel", "bfloat16_pages"],
)
def test_agrees_with_the_oracle(name):
    """Padding, unused pages and all that a query must not see is NaN in the cases."""
    checked_case(INTERPRETED, name)


def test_agrees_where_a_block_visits_nothing_between_others():
    """The first pages of a block are copied during the one before, unless that visits none."""
    rows = ((Run(0, 9, cached=True), Run(9, 3)), (Run(0, 2),), (), (Run(0, 13, cached=True), Run(13, 2)))
    case = Case("", rows, pad_pages=1)
    out = checked(INTERPRETED, case.inputs(0), case)
    assert (out[2] == 0).all()


@pytest.mark.parametrize(("heads", "head_dim", "dtype"), [((8, 1), 64, "bfloat16"), ((3, 3), 128, "float32")])
def test_agrees_at_sizes_of_models(heads, head_dim, dtype):
    """Both ways to swap the halves of a key, and rows that fill a tile of the hardware and do not."""
    row = (Run(0, 21, cached=True, selected=(20,)), Run(21, 2))
    case = Case("", (row,), *heads, head_dim=head_dim, page_tokens=16, dtype=dtype)
    checked(pallas_tpu(interpret=True), case.inputs(0), case)


def test_agrees_where_copies_take_their_time():
    """An interpreter that copies at the last moment, and whose memory is NaN before."""
    case = Case("", ((Run(0, 21, cached=True), Run(21, 2)), (Run(0, 6, cached=True), Run(6, 1))), pad_pages=1)
    attention = pallas_tpu(pltpu.InterpretParams(detect_races=True), TpuTiling(queries=4, keys=8))
    checked(attention, case.inputs(0), case)


def test_gives_the_same_bits_again():
    case, inputs = case_of("ragged_batch")
    np.testing.assert_array_equal(attend(INTERPRETED, inputs, case), attend(INTERPRETED, inputs, case))


def test_padding_queries_yield_zeros():
    inputs, out = checked_case(INTERPRETED, "ragged_batch")
    assert (out[inputs.tokens.pos < 0] == 0).all()


@pytest.mark.parametrize("spoiled", ["k_new", "v_new", "k_pages", "v_pages"])
def test_a_visible_nan_does_show(spoiled):
    """Otherwise the poison of the other tests would prove nothing."""
    case, inputs = case_of("ragged_batch")
    array = getattr(inputs, spoiled).copy()
    array[(0, 0) if spoiled.endswith("new") else (inputs.pages.table[0, 0], 0)] = np.nan
    assert np.isnan(attend(INTERPRETED, inputs._replace(**{spoiled: array}), case)[0]).any()


def test_pages_may_be_counted_from_another_than_the_first():
    case, inputs = case_of("ragged_batch")
    others = np.full_like(inputs.k_pages, np.nan)
    pools = {of: np.concatenate([others, getattr(inputs, of)]) for of in ("k_pages", "v_pages")}
    out = attend(INTERPRETED, inputs._replace(**pools), case, np.int32(len(others)))
    np.testing.assert_allclose(out, expected_of("ragged_batch"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("head_dim", [128, 256])
@pytest.mark.parametrize(("moved", "window"), [(True, None), (False, 50)])
def test_lowers_for_the_hardware(dtype, head_dim, moved, window):
    case = replace(SERVED, dtype=dtype, head_dim=head_dim, moved=moved, window=window, tiles=(2, 3, 4))
    assert _lowered(case).count("tpu_custom_call") == 3, "fresh keys, shared pages and those of tiles"


@pytest.mark.parametrize("kv_dtype", ["int8", "float8_e4m3fn"])
@pytest.mark.parametrize(("dtype", "moved"), [("bfloat16", True), ("float32", False)])
def test_lowers_with_quantised_pages(kv_dtype, dtype, moved):
    case = replace(SERVED, dtype=dtype, kv_dtype=kv_dtype, moved=moved, tiles=(2, 3, 4))
    assert _lowered(case).count("tpu_custom_call") == 3


@pytest.mark.parametrize("heads", [(4, 4), (3, 1), (12, 3)])
def test_lowers_for_any_group(heads):
    num_heads, num_kv_heads = heads
    assert "tpu_custom_call" in _lowered(replace(SERVED, num_heads=num_heads, num_kv_heads=num_kv_heads))


def _lowered(case):
    inputs = case.inputs(0)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
    program = jax.jit(lambda inputs: run(pallas_tpu(), inputs, case))
    return export.export(program, platforms=["tpu"])(shapes).mlir_module()


def test_only_pages_that_a_block_sees_are_listed():
    """What is not listed is not copied. The tasks of the first row see the instruction and the history."""
    case, inputs = case_of("tiles")
    made = INTERPRETED.view(inputs.tokens, inputs.pages, inputs.tiles, rope=case.rope).made
    seen = (inputs.tiles.pages.len > 0).sum(-1)
    np.testing.assert_array_equal(np.asarray(made.tiles.read.count).reshape(seen.shape), seen)


def test_types_without_a_kernel_are_refused():
    case, inputs = case_of("all_fresh")
    pages = {of: np.zeros(getattr(inputs, of).shape, np.float16) for of in ("k_pages", "v_pages")}
    with pytest.raises(NotImplementedError, match="k_pages of float16 is neither bfloat16 nor float32"):
        jax.eval_shape(lambda x: run(INTERPRETED, x, case), inputs._replace(**pages))


@pytest.mark.parametrize("sizes", [{"queries": 600}, {"keys": 8192}])
def test_tilings_beyond_vector_memory_are_refused(sizes):
    row = (Run(0, 640, cached=True), Run(640, 600))
    case = Case("", (row,), num_heads=32, num_kv_heads=8, head_dim=128, page_tokens=16, dtype="bfloat16")
    inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), case.inputs(0))
    attention = pallas_tpu(tiling=TpuTiling(**sizes))
    with pytest.raises(
        NotImplementedError, match=r"take \d+ bytes of VMEM, of which a kernel may have 16777216; set Tpu"
    ):
        jax.eval_shape(lambda x: run(attention, x, case), inputs)
    jax.eval_shape(lambda x: run(pallas_tpu(), x, case), inputs)


def test_lists_beyond_scalar_memory_are_refused():
    case = Case("", ((Run(0, 1300),),) * 2, page_tokens=16)
    inputs = case.inputs(0)
    attention = pallas_tpu(tiling=TpuTiling(queries=1))
    with pytest.raises(NotImplementedError, match=r"2 prompts or tiles x 1300 blocks of queries x 82 pages take \d+ b"):
        jax.eval_shape(lambda x: run(attention, x, case), inputs)


@pytest.mark.parametrize("sizes", [{"queries": 0}, {"keys": 0}])
def test_tilings_that_cannot_be_are_refused(sizes):
    (name,) = sizes
    with pytest.raises(ValueError, match=f"{name}=0 must be at least 1"):
        TpuTiling(**sizes)
