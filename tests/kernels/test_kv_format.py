"""The pages that hold KV, and the format that two parts agree on."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rcjax.kernels.kv import KVFormat, KVPages

FORMAT = KVFormat("bfloat16", num_layers=2, num_kv_heads=3, head_dim=4, page_tokens=5)


INT8 = KVFormat("int8", num_layers=2, num_kv_heads=3, head_dim=4, page_tokens=5)


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("float32", np.float32), ("bfloat16", ml_dtypes.bfloat16)])
def test_empty_pages_on_the_host_are_what_the_format_says(dtype, numpy_dtype):
    kv_format = KVFormat(dtype, 2, 3, 4, 5)
    pages = kv_format.host_empty(7)
    assert isinstance(pages.k, np.ndarray)
    assert pages.k.dtype == pages.v.dtype == numpy_dtype
    assert pages.k.shape == pages.v.shape == kv_format.shape(7) == (2, 7, 5, 3, 4)
    assert (pages.num_pages, pages.page_tokens) == (7, 5)
    assert pages.num_bytes == 7 * kv_format.page_bytes == 2 * 7 * 2 * 5 * 3 * 4 * np.dtype(numpy_dtype).itemsize
    assert not pages.k.any()
    assert not pages.v.any()
    pages.k[0, 1] = 1
    assert not pages.v.any(), "K and V share memory"
    kv_format.check(pages)
    kv_format.check(jax.tree.map(jnp.asarray, pages))


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("int8", np.int8), ("float8_e4m3fn", ml_dtypes.float8_e4m3fn)])
def test_pages_of_eight_bits_have_scales_that_count(dtype, numpy_dtype):
    kv_format = KVFormat(dtype, 2, 3, 4, 5)
    pages = kv_format.host_empty(7)
    assert pages.k.dtype == pages.v.dtype == numpy_dtype
    assert pages.k_scale.dtype == pages.v_scale.dtype == np.float32
    assert pages.k_scale.shape == pages.v_scale.shape == (2, 7, 5, 3)
    assert pages.num_bytes == 7 * kv_format.page_bytes == 7 * (2 * 2 * 5 * 3) * (4 + 4)
    assert not any(array.any() for array in jax.tree.leaves(pages))
    kv_format.check(pages)
    abstract = kv_format.abstract(7)
    assert jax.tree.structure(abstract) == jax.tree.structure(pages)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(abstract)] == [
        (x.shape, x.dtype) for x in jax.tree.leaves(pages)
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e4m3fn"])
def test_pages_of_int8_are_of_no_other_format(dtype):
    with pytest.raises(ValueError, match=rf"k of the pages is int8 \[2, 7, 5, 3, 4\] where the pool holds {dtype}"):
        KVFormat(dtype, 2, 3, 4, 5).check(INT8.host_empty(7))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k_scale": None}, "the pages have no k_scale, and KV of int8 is quantised; build them anew"),
        (
            {"v_scale": np.zeros((2, 7, 5, 3))},
            r"v_scale of the pages is float64 .* float32 \[2, 7, 5, 3\] \(layers, pages",
        ),
        ({"k_scale": np.zeros((2, 7, 5, 1), np.float32)}, r"k_scale of the pages is float32 \[2, 7, 5, 1\] where"),
    ],
)
def test_scales_of_another_form_are_refused(changed, message):
    arrays = {name: getattr(INT8.host_empty(7), name) for name in ("k", "v", "k_scale", "v_scale")}
    pages = object.__new__(KVPages)  # past the check of types, as what a file holds is
    for name, array in (arrays | changed).items():
        object.__setattr__(pages, name, array)
    with pytest.raises(ValueError, match=message):
        INT8.check(pages)


def test_an_unknown_dtype_is_refused_by_name():
    with pytest.raises(ValueError, match=r"kv_dtype='int4' is not supported; use one of float32, bfloat16"):
        KVFormat("int4", 2, 3, 4, 5)


def some(shape, dtype=ml_dtypes.bfloat16):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        (
            KVPages(*[some((2, 7, 5, 3, 4), np.float32)] * 2),
            r"k of the pages is float32 \[2, 7, 5, 3, 4\] where .* bfloat16",
        ),
        (KVPages(some((2, 7, 5, 3, 4)), some((2, 7, 5, 3, 4), np.float32)), "v of the pages is float32"),
        (KVPages(*[some((2, 7, 6, 3, 4))] * 2), r"\[2, 7, 6, 3, 4\] where the pool holds bfloat16 \[2, 7, 5, 3, 4\]"),
        (KVPages(*[some((1, 7, 5, 3, 4))] * 2), r"\[1, 7, 5, 3, 4\] where"),
        (KVPages(*[some((2, 7, 5, 3, 4))] * 2, some((2, 7, 5, 3)), some((2, 7, 5, 3))), "the pages are quantised"),
    ],
)
def test_pages_of_another_format_are_refused(pages, message):
    with pytest.raises(ValueError, match=message):
        FORMAT.check(pages)


def test_pages_map_as_a_tree_with_and_without_scales():
    pages = KVFormat("float32", 2, 3, 4, 5).host_empty(7)
    taken = jax.tree.map(lambda x: x[:, np.array([6, 0, 1])], pages)
    assert taken.num_pages == 3
    assert taken.k_scale is None
    scaled = KVPages(pages.k, pages.v, pages.k[..., 0], pages.v[..., 0])
    assert len(jax.tree.leaves(scaled)) == 4
    assert scaled.num_bytes == pages.num_bytes + 2 * 4 * 7 * 2 * 5 * 3


def test_a_program_is_compiled_from_shapes_alone():
    """Without the pages, and although their fields' types are checked in tests."""
    abstract = FORMAT.abstract(7)
    assert (abstract.k.shape, abstract.v.dtype) == (FORMAT.shape(7), ml_dtypes.bfloat16)
    program = jax.jit(lambda pages: jax.tree.map(lambda x: x + 1, pages)).lower(abstract).compile()
    (found,) = {type(program(FORMAT.host_empty(7)))}
    assert found is KVPages
