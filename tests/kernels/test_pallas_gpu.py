"""The GPU kernel, interpreted: its numbers against the float64 oracle, and which pages it reads. Lowered for a GPU too.

What only a device can show (speed, and that the compiled kernel computes what the interpreted one does) is not here.
"""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from attention_oracle import oracle
from jax import export
from jax.sharding import AbstractDevice, AbstractMesh, AxisType
from operator_runs import TOLERANCE, attend, case_of, checked, checked_case, expected_of, run

from rcjax.kernels.selective_attention.cases import Case, Run, parallel, pointwise, sequential
from rcjax.kernels.selective_attention.config import GpuTiling
from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu

pytestmark = pytest.mark.interpreted

# Small, so that small cases have several blocks of queries, steps and splits.
TILED = pallas_gpu(interpret=True, tiling=GpuTiling(queries=4, keys=16, splits=2))
DEFAULT = pallas_gpu(interpret=True)

TILED_CASES = [
    "all_fresh",
    "one_token",
    "one_past_a_page",
    "pages_of_one_token",
    "padded",
    "ragged_batch",
    "selected_scattered",
    "hidden_pages",
    "parallel_batch",
    "multi_query",
    "window_parallel",
    "at_home",
    "tiles_at_home",
    "tiles_with_room",
    "tiles_overflow",
    "tiles_window",
    "tiles_bfloat16",
    "tiles_bfloat16_pages",
    "float32_pages",
]
ITEMS = (Run(0, 9, cached=True), Run(9, 3, segment=1, horizon=1), Run(9, 21, cached=True), Run(30, 4))


@pytest.mark.parametrize("name", TILED_CASES)
def test_agrees_with_the_oracle(name):
    """Padding, unused pages and all that a query must not see is NaN in the cases."""
    checked_case(TILED, name)


@pytest.mark.parametrize("name", ["sequential", "tiles", "bfloat16"])
def test_agrees_with_the_oracle_in_its_default_tiling(name):
    checked_case(DEFAULT, name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim"), [(2, 2, 64), (3, 1, 80), (8, 2, 96), (8, 1, 128), (2, 1, 256)]
)
def test_agrees_with_the_oracle_in_models_of_other_shapes(num_heads, num_kv_heads, head_dim, dtype):
    case = Case("", (ITEMS,), num_heads, num_kv_heads, head_dim, page_tokens=8, dtype=dtype, pad_pages=1)
    checked(TILED, case.inputs(0), case)


def test_what_no_query_sees_yields_zeros():
    inputs, out = checked_case(TILED, "padded")
    padding = inputs.tokens.pos < 0
    assert padding.sum() == 5
    assert (out[padding] == 0).all()
    inputs, out = checked_case(TILED, "ragged_batch")
    assert (inputs.tokens.pos[3] == -1).all()
    assert (out[3] == 0).all()


@pytest.mark.parametrize("spoiled", ["k_new", "v_new", "k_pages", "v_pages"])
def test_a_visible_nan_does_show(spoiled):
    case, inputs = case_of("one_past_a_page")
    first = (0, 0) if spoiled.endswith("new") else (inputs.pages.table[0, 0], 0)
    assert np.isnan(attend(TILED, spoil(inputs, spoiled, first), case)).any()


@pytest.mark.parametrize("name", ["one_past_a_page", "tiles_at_home"])
def test_pages_may_be_counted_from_another_than_the_first(name):
    case, inputs = case_of(name)
    of_others = np.full_like(inputs.k_pages, np.nan)
    pools = {of: np.concatenate([of_others, getattr(inputs, of)]) for of in ("k_pages", "v_pages")}
    out = attend(TILED, inputs._replace(**pools), case, np.int32(len(of_others)))
    np.testing.assert_allclose(out, expected_of(name), rtol=0, atol=TOLERANCE[case.dtype])


def test_the_same_inputs_yield_the_same_bits():
    case, inputs = case_of("tiles_at_home")
    np.testing.assert_array_equal(attend(TILED, inputs, case), attend(TILED, inputs, case))


def test_large_scores_neither_overflow_nor_lose_the_running_maximum():
    """The largest key comes first in one row and last in the other, steps and splits apart."""
    case = Case("", ((Run(0, 150, cached=True), Run(150, 2)),) * 2, page_tokens=16)
    inputs = case.inputs(0)
    for row, m in ((0, 0), (1, 9)):
        inputs.k_pages[inputs.pages.table[row, m], 0] *= 300
    np.testing.assert_allclose(attend(TILED, inputs, case), oracle(inputs, case.rope), rtol=0, atol=1e-3)


def test_a_block_of_queries_reads_the_pages_that_one_of_them_sees_and_no_other():
    """A NaN among the values of a page shows in every block that reads it, whoever sees it: 0 * NaN is NaN."""
    case = Case("", (parallel(9, 6, (5, 7, 4), glue=4, task=4),), page_tokens=4)
    inputs = case.inputs(0)
    seen = pages_seen(inputs.tokens, inputs.pages, query_block=4)
    assert seen.any(0).all()
    assert not seen.all(0).all()
    for m, page in enumerate(inputs.pages.table[0]):
        out = attend(TILED, spoil(inputs, "v_pages", (page, 0)), case)
        is_read = np.isnan(out[0]).reshape(len(seen), -1).any(1)
        np.testing.assert_array_equal(is_read, seen[:, m])


def test_the_pages_read_in_parallel_are_those_that_are_visible():
    """20 items of 100 tokens after 200 of instruction and beside a history of 300; counted from the kernel's lists."""
    row = pointwise(instruction=200, history=300, items=(100,) * 20, glue=2)
    case = Case("", (row,), page_tokens=16, tiles=(20, 2, 7), pad_pages=5, moved=False)
    inputs = case.inputs(0)
    view = DEFAULT.view(inputs.tokens, inputs.pages, inputs.tiles, rope=case.rope).made
    shared = pages_seen(inputs.tokens, inputs.pages, query_block=16)
    assert np.asarray(view.shared.count)[0].tolist() == shared.sum(1).tolist() == [13 + 19] * 3
    assert np.asarray(view.tiles.read.count).ravel().tolist() == [7] * 20
    read = int(view.shared.count.sum() + view.tiles.read.count.sum())
    assert read * case.page_tokens <= 1.2 * (3 * (200 + 300) + 20 * 100)


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")  # from jax 0.11 on
@pytest.mark.parametrize(
    ("dtype", "kv_dtype"),
    [("float32", None), ("bfloat16", None), ("bfloat16", "int8"), ("bfloat16", "float8_e4m3fn"), ("float32", "int8")],
)
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_dim", "moved"), [(8, 2, 128, True), (3, 1, 80, False), (2, 2, 8, True)]
)
def test_lowers_for_a_gpu(num_heads, num_kv_heads, head_dim, moved, dtype, kv_dtype):
    rows = (pointwise(9, 6, (5, 7, 4), glue=2),)
    sizes = {"page_tokens": 16, "tiles": (3, 2, 2), "window": 9 if moved else None}
    case = Case("", rows, num_heads, num_kv_heads, head_dim, dtype=dtype, kv_dtype=kv_dtype, moved=moved, **sizes)
    device = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=132, platform="cuda")
    mesh = AbstractMesh((1,), ("_",), axis_types=(AxisType.Auto,), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        exported = export.export(
            jax.jit(lambda inputs: run(pallas_gpu(), inputs, case)),
            platforms=["cuda"],
            disabled_checks=[export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")],
        )(case.inputs(0))
    assert exported.mlir_module().count("__gpu$xla.gpu.triton") == 3  # fresh keys, shared pages, those of tiles


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"page_tokens": 3}, "page_tokens=3 is not a power of two"),
        ({"page_tokens": 128}, "page_tokens=128 is more than the 32 keys that the kernel reads a step"),
        ({"head_dim": 512}, "head_dim=512 is more than 256"),
        ({"num_heads": 32, "num_kv_heads": 1}, "16 queries of 32 heads are 512 rows, above 128"),
    ],
)
def test_what_is_not_supported_is_refused(sizes, message):
    case = Case("", (sequential(9, 6, (5,), glue=2, task=16),), **sizes)
    with pytest.raises(NotImplementedError, match=message):
        jax.eval_shape(lambda inputs: run(DEFAULT, inputs, case), case.inputs(0))


@pytest.mark.parametrize(("capability", "dtype"), [("8.0", "float8_e4m3fn"), ("8.6", "float8_e4m3fn")])
def test_fp8_pages_are_refused_where_the_chip_cannot_convert_them(monkeypatch, capability, dtype):
    case = Case("", (sequential(9, 6, (5,), glue=2, task=1),), kv_dtype=dtype)
    inputs = case.inputs(0)
    chip = SimpleNamespace(platform="gpu", device_kind="NVIDIA A100-SXM4-80GB", compute_capability=capability)
    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", lambda: [chip])
        with pytest.raises(
            NotImplementedError, match=f"needs compute capability 8.9, .* A100-SXM4-80GB has {capability}"
        ):
            jax.eval_shape(lambda x: run(DEFAULT, x, case), inputs)
        chip.compute_capability = "8.9"
        jax.eval_shape(lambda x: run(DEFAULT, x, case), inputs)


def test_other_types_are_refused():
    case, inputs = case_of("sequential")
    with pytest.raises(NotImplementedError, match="k_pages of float16 is neither bfloat16 nor float32"):
        jax.eval_shape(lambda x: run(DEFAULT, x, case), inputs._replace(k_pages=inputs.k_pages.astype(np.float16)))


def test_a_step_of_a_number_of_keys_that_is_no_power_of_two_is_refused():
    with pytest.raises(ValueError, match="keys=48 must be a power of two of at least 16"):
        GpuTiling(keys=48)


def test_equal_tilings_are_equal_implementations():
    assert pallas_gpu(tiling=GpuTiling(splits=3)) == pallas_gpu(False, GpuTiling(splits=3))
    assert hash(pallas_gpu()) == hash(pallas_gpu(tiling=GpuTiling()))
    assert pallas_gpu() != pallas_gpu(interpret=True)


def test_splits_fill_the_chip_once_and_have_work():
    assert GpuTiling().num_splits(thread_blocks=64, num_keys=4096) == 4
    assert GpuTiling().num_splits(thread_blocks=8, num_keys=512) == 4
    assert GpuTiling().num_splits(thread_blocks=300, num_keys=4096) == 1
    assert GpuTiling().num_splits(thread_blocks=8, num_keys=16) == 1
    assert GpuTiling(splits=7).num_splits(thread_blocks=300, num_keys=16) == 7


def pages_seen(tokens, pages, query_block):
    """Which of the first row's pages hold a key that a query of each block sees, by the rule: bool [I, M]."""
    pos, segment, horizon = (x[0] for x in (tokens.pos, tokens.segment, tokens.horizon))
    seen = np.zeros((-(-len(pos) // query_block), pages.table.shape[1]), bool)
    for m, (start, length, of_page) in enumerate(zip(pages.pos[0], pages.len[0], pages.segment[0], strict=True)):
        is_open = (of_page == segment) | (of_page < horizon)
        for t in np.flatnonzero((pos >= start) & is_open & (length > 0)):
            seen[t // query_block, m] = True
    return seen


def spoil(inputs, name, where):
    array = getattr(inputs, name).copy()
    array[where] = np.nan
    return inputs._replace(**{name: array})
