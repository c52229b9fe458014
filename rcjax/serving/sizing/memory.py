"""What weights and pages take on one device of a slice, from shapes alone: nothing is loaded or allocated."""

import math
from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from rcjax.kernels.kv import KVFormat
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import abstract_params
from rcjax.model.sharding import param_shardings

_LANES, _WORD_BYTES = 128, 4  # of a TPU's registers


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes on each device: all of them, and those of one layer."""

    num_bytes: int
    layer_bytes: int


@cache
def weights_on_device(config: ModelConfig, dtype: str, tensor: int) -> Weights:
    """Of a slice of `tensor` devices, which must divide the kv heads; what it does not divide is whole on each."""
    placed = param_shardings(config, AbstractMesh((tensor,), ("tensor",)))
    num_bytes = jax.tree.map(
        lambda x, on: x.dtype.itemsize * math.prod(on.shard_shape(x.shape)),
        abstract_params(config, jnp.dtype(dtype)),
        placed,
    )
    of_layers = sum(jax.tree.leaves(num_bytes["layers"]))
    return Weights(sum(jax.tree.leaves(num_bytes)), of_layers // config.num_layers)


def page_bytes_on_device(format: KVFormat, tensor: int, platform: str) -> int:
    """Of one page; on a TPU with what fills tiles: heads to 128 values, a token's kv heads to a power of two."""
    if platform != "tpu":
        return format.page_bytes // tensor
    kv_heads, itemsize = format.num_kv_heads // tensor, format.numpy_dtype.itemsize
    padded_heads = max(1 << (kv_heads - 1).bit_length(), _WORD_BYTES // itemsize)
    padded_dim = -(-format.head_dim // _LANES) * _LANES
    tokens = 2 * format.num_layers * format.page_tokens
    values = tokens * kv_heads * format.head_dim * itemsize
    scales = format.page_bytes // tensor - values
    return tokens * padded_heads * padded_dim * itemsize + scales
