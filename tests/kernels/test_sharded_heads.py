"""Every implementation with its heads split over fake devices against the same on one."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attention_oracle import oracle
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from operator_runs import TOLERANCE, attend, mass, run

from rcjax.kernels.selective_attention import DENSE, REFERENCE
from rcjax.kernels.selective_attention.cases import Case, Run, pointwise
from rcjax.kernels.selective_attention.config import GpuTiling, TpuTiling
from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu
from rcjax.kernels.selective_attention.pallas_tpu import pallas_tpu
from rcjax.kernels.selective_attention.sharded import sharded_heads

KERNELS = (
    pallas_gpu(interpret=True, tiling=GpuTiling(queries=4, keys=16, splits=2)),
    pallas_tpu(interpret=True, tiling=TpuTiling(queries=4, keys=8)),
)
TILED = Case("", (pointwise(9, 6, (5, 7), glue=2, task=3, selected=1),), 8, 4, tiles=(2, 3, 2), pad_pages=1)
SMALL = Case("", ((Run(0, 9, cached=True), Run(9, 3)),), 8, 4)  # a kernel is compiled anew for each number of heads

EVERY = [REFERENCE, DENSE, *(pytest.param(kernel, marks=pytest.mark.interpreted) for kernel in KERNELS)]

every_implementation = pytest.mark.parametrize(
    "attention", EVERY, ids=["reference", "dense", "pallas_gpu", "pallas_tpu"]
)
every_number_of_devices = pytest.mark.parametrize("devices", [1, 2, 4])


def mesh_of(devices):
    return Mesh(np.array(jax.devices()[:devices]), ("tensor",))


@cache
def unsharded(attention):
    case = case_for(attention)
    inputs = case.inputs(0)
    return case, inputs, attend(attention, inputs, case)


def case_for(attention):
    return SMALL if attention in KERNELS else TILED


def placed(inputs, mesh):
    """As a mesh holds them: what has heads is split, layouts are on every device."""

    def put(x, spec):
        return jax.device_put(x, NamedSharding(mesh, spec))

    split = {
        name: put(getattr(inputs, name), PartitionSpec(None, None, "tensor"))
        for name in ("q", "k_new", "v_new", "k_pages", "v_pages")
    }
    whole = jax.tree.map(lambda x: put(x, PartitionSpec()), (inputs.tokens, inputs.pages, inputs.tiles))
    return inputs._replace(**split, **dict(zip(("tokens", "pages", "tiles"), whole, strict=True)))


@every_number_of_devices
@every_implementation
def test_equals_the_same_on_one_device(attention, devices):
    case, inputs, expected = unsharded(attention)
    mesh = mesh_of(devices)
    np.testing.assert_allclose(
        attend(sharded_heads(attention, mesh), placed(inputs, mesh), case), expected, rtol=0, atol=1e-6
    )


def test_agrees_with_the_oracle():
    case, inputs, _ = unsharded(REFERENCE)
    mesh = mesh_of(4)
    out = attend(sharded_heads(REFERENCE, mesh), placed(inputs, mesh), case)
    np.testing.assert_allclose(out, oracle(inputs, case.rope), rtol=0, atol=TOLERANCE["float32"])


@pytest.mark.parametrize("attention", [REFERENCE, DENSE], ids=lambda attention: attention.name)
def test_each_device_attends_with_its_own_heads_and_asks_no_other(attention):
    case, inputs, _ = unsharded(attention)
    mesh = mesh_of(2)
    sharded = sharded_heads(attention, mesh)
    program = jax.jit(lambda inputs: run(sharded, inputs, case)).lower(placed(inputs, mesh)).compile()
    assert program.output_shardings.shard_shape(inputs.q.shape)[2] == inputs.q.shape[2] // 2
    text = program.as_text()
    assert not [word for word in ("all-gather", "all-reduce", "all-to-all", "collective-permute") if word in text]


@every_implementation
def test_mass_is_summed_over_all_heads(attention):
    case, inputs, _ = unsharded(attention)
    counts = np.ones(inputs.tokens.pos.shape, bool)
    mesh = mesh_of(4)
    found = mass(sharded_heads(attention, mesh), placed(inputs, mesh), counts, case)
    for one, expected in zip(found, mass(attention, inputs, counts, case), strict=True):
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-5)
    assert sum(float(x.sum()) for x in found) == pytest.approx(8 * (inputs.tokens.pos >= 0).sum(), rel=1e-5)


def test_the_derivative_of_the_dense_implementation_is_that_on_one_device():
    case = replace(TILED, moved=False)
    # A derivative by what is not read is 0, which NaN in it would hide; training has no such numbers.
    inputs = jax.tree.map(np.nan_to_num, case.inputs(0))
    weights = np.random.default_rng(0).standard_normal(inputs.q.shape, np.float32)

    def gradient(attention, inputs):
        def loss(q, k_new, v_new):
            return (run(attention, inputs._replace(q=q, k_new=k_new, v_new=v_new), case) * weights).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2)))(*(jnp.asarray(x) for x in (inputs.q, inputs.k_new, inputs.v_new)))

    mesh = mesh_of(4)
    found = gradient(sharded_heads(DENSE, mesh), placed(inputs, mesh))
    for one, expected in zip(found, gradient(DENSE, inputs), strict=True):
        assert float(jnp.abs(expected).max()) > 0.1
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-5)


def test_heads_that_the_devices_do_not_divide_are_refused():
    case = replace(SMALL, num_heads=6, num_kv_heads=6)
    message = r"6 kv heads cannot be split evenly over the 4 devices of the mesh's axis 'tensor'; .* \[1, 2, 3, 6\]"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: run(sharded_heads(REFERENCE, mesh_of(4)), x, case), case.inputs(0))


def test_an_axis_that_the_mesh_lacks_is_refused():
    with pytest.raises(ValueError, match="axis='model' is not one of the mesh, which has tensor"):
        sharded_heads(REFERENCE, mesh_of(2), "model")


def test_equal_parts_on_equal_meshes_are_equal():
    """So that a jitted function which takes one as a static argument is compiled once."""
    assert sharded_heads(REFERENCE, mesh_of(2)) == sharded_heads(REFERENCE, mesh_of(2))
    assert hash(sharded_heads(REFERENCE, mesh_of(2))) == hash(sharded_heads(REFERENCE, mesh_of(2)))
    assert sharded_heads(REFERENCE, mesh_of(2)) != sharded_heads(REFERENCE, mesh_of(4))
    assert sharded_heads(REFERENCE, mesh_of(2)) != sharded_heads(DENSE, mesh_of(2))
