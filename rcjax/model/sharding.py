"""Which mesh axis splits which logical axis of weights and cached KV.

Weights declare their logical axes (`decoder.py`); rules map these to a mesh. So one table says how a model is laid out,
and a mesh of other axes is another table.
"""

from collections.abc import Mapping
from types import MappingProxyType

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rcjax.kernels.kv import KVFormat, KVPages
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params, abstract_params, logical_axes

Rules = Mapping[str, str]  # from a logical axis to the mesh axis that splits it; a logical axis without is whole

# Megatron's split: a layer's products need one sum over devices after attention and one after the MLP.
TENSOR_PARALLEL: Rules = MappingProxyType(dict.fromkeys(("heads", "kv_heads", "mlp", "vocab"), "tensor"))
KV_AXES = ("layers", "pages", "page_tokens", "kv_heads", "head_dim")


def sharding(mesh: Mesh, rules: Rules, axes: tuple[str, ...], shape: tuple[int, ...]) -> NamedSharding:
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


def param_shardings(config: ModelConfig, mesh: Mesh, rules: Rules = TENSOR_PARALLEL) -> Params:
    """A tree like the parameters', of shardings."""

    def of(axes: tuple[str, ...], parameter: jax.ShapeDtypeStruct) -> NamedSharding:
        return sharding(mesh, rules, axes, parameter.shape)

    is_leaf = lambda node: isinstance(node, tuple)  # noqa: E731
    placed: Params = jax.tree.map(of, logical_axes(config), abstract_params(config), is_leaf=is_leaf)
    return placed


def page_shardings(kv_format: KVFormat, num_pages: int, mesh: Mesh, rules: Rules = TENSOR_PARALLEL) -> KVPages:
    """A pool's, as a tree like `KVPages`; the scales are split as the values that they scale."""

    def of(array: jax.ShapeDtypeStruct) -> NamedSharding:
        return sharding(mesh, rules, KV_AXES[: len(array.shape)], array.shape)

    placed: KVPages = jax.tree.map(of, kv_format.abstract(num_pages))
    return placed
