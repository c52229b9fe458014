"""Which mesh axis splits which logical axis of weights and cached KV.

Weights declare their logical axes (`decoder.py`); rules map these to a mesh. So one table says how a model is laid out,
and a mesh of other axes is another table.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from rcjax.kernels.kv import KVFormat, KVPages
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params, abstract_params, logical_axes

Rules = Mapping[str, str]  # from a logical axis to the mesh axis that splits it; a logical axis without is whole

# Megatron's split: a layer's products need one sum over devices after attention and one after the MLP.
TENSOR_PARALLEL: Rules = MappingProxyType(dict.fromkeys(("heads", "kv_heads", "mlp", "vocab"), "tensor"))
# All slices' pools as one: each slice has its pages, and splits these among its devices.
WHOLE_MESH: Rules = MappingProxyType({**TENSOR_PARALLEL, "pages": "slice"})
KV_AXES = ("layers", "pages", "page_tokens", "kv_heads", "head_dim")
FRESH_AXES = ("layers", "batch", "fresh", "kv_heads", "head_dim")  # of the KV that a pass makes (`FreshKV`)
AnyMesh = Mesh | AbstractMesh


def mesh_of_slices(devices: Sequence[jax.Device], slices: int) -> Mesh:
    """The devices as a mesh of axes "slice" and "tensor", in the order in which they are given."""
    # Auto: XLA works out how a pass is split from how its arguments are. Newer versions of JAX have another default.
    grid = np.array(devices).reshape(slices, -1)
    return Mesh(grid, ("slice", "tensor"), axis_types=(AxisType.Auto, AxisType.Auto))


def slice_meshes(mesh: Mesh) -> tuple[Mesh, ...]:
    """Of each slice of `mesh_of_slices` its own devices, a mesh of axis "tensor"."""
    return tuple(Mesh(devices, ("tensor",), axis_types=(AxisType.Auto,)) for devices in mesh.devices)


def sharding(mesh: AnyMesh, rules: Rules, axes: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
    """The placement of an array with these logical axes.

    An axis that the devices do not divide (an odd vocabulary, say) is whole on each of them. ValueError where a mesh
    axis would split two axes of one array.
    """
    names = [rules.get(axis) for axis in axes]
    taken = [name for name in names if name is not None]
    if len(set(taken)) < len(taken):
        raise ValueError(
            f"rules {dict(rules)} split two of the axes {axes} over one mesh axis; map one of them elsewhere"
        )
    split = [n if n and size % mesh.shape[n] == 0 else None for n, size in zip(names, shape, strict=True)]
    return NamedSharding(mesh, PartitionSpec(*split))


def param_shardings(config: ModelConfig, mesh: AnyMesh, rules: Rules = TENSOR_PARALLEL) -> Params:
    """A tree like the parameters', of shardings."""

    def of(axes: tuple[str, ...], parameter: jax.ShapeDtypeStruct) -> NamedSharding:
        return sharding(mesh, rules, axes, parameter.shape)

    is_leaf = lambda node: isinstance(node, tuple)  # noqa: E731
    placed: Params = jax.tree.map(of, logical_axes(config), abstract_params(config), is_leaf=is_leaf)
    return placed


def page_shardings(kv_format: KVFormat, num_pages: int, mesh: AnyMesh, rules: Rules = TENSOR_PARALLEL) -> KVPages:
    """A pool's, as a tree like `KVPages`; the scales are split as the values that they scale."""

    def of(array: jax.ShapeDtypeStruct) -> NamedSharding:
        return sharding(mesh, rules, KV_AXES[: len(array.shape)], array.shape)

    placed: KVPages = jax.tree.map(of, kv_format.abstract(num_pages))
    return placed


def fresh_sharding(config: ModelConfig, mesh: AnyMesh, rules: Rules = TENSOR_PARALLEL) -> NamedSharding:
    """Of K and of V of fresh tokens, however many: as the pages that they are written into."""
    return sharding(mesh, rules, FRESH_AXES, (config.num_layers, 1, 1, config.num_kv_heads, config.head_dim))


def whole_pool(kv_format: KVFormat, pools: Sequence[KVPages], mesh: Mesh) -> KVPages:
    """The slices' pools, in order, as one of arrays [L, slices * P, C, K, H] over the mesh of all; nothing is copied.

    It is gone with the next write to any of the pools, which takes its buffers: use it while no slice writes.
    """
    num_pages = sum(pool.num_pages for pool in pools)
    placed = page_shardings(kv_format, num_pages, mesh, WHOLE_MESH)

    def joined(placed: NamedSharding, *arrays: jax.Array) -> jax.Array:
        shape = (arrays[0].shape[0], num_pages, *arrays[0].shape[2:])
        shards = [shard.data for array in arrays for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(shape, placed, shards)

    whole: KVPages = jax.tree.map(joined, placed, *pools)
    return whole
