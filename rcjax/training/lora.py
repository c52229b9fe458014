"""LoRA: low-rank changes of the projections, trained instead of the weights (Hu et al., arXiv 2106.09685)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

from rcjax.model.decoder import Params

# How many axes, after the layers', a projection's input has.
_INPUT_AXES = {"q_proj": 1, "k_proj": 1, "v_proj": 1, "o_proj": 2, "gate_proj": 1, "up_proj": 1, "down_proj": 1}


def init_lora(params: Params, rank: int, key: Array) -> Params:
    """Adapters that change nothing yet: `down` [L, in, rank] is random, `up` [L, rank, out] zero."""
    adapters: Params = {}
    for name, num_axes in _INPUT_AXES.items():
        key, own = jax.random.split(key)
        layers, *rest = params["layers"][name].shape
        size_in, size_out = math.prod(rest[:num_axes]), math.prod(rest[num_axes:])
        down = jax.random.normal(own, (layers, size_in, rank)) / math.sqrt(size_in)
        adapters[name] = {"down": down, "up": jnp.zeros((layers, rank, size_out))}
    return adapters


def merge_lora(params: Params, adapters: Params, alpha: float) -> Params:
    """The weights with their adapters added: W + (alpha / rank) down up."""
    layers = dict(params["layers"])
    for name, adapter in adapters.items():
        scale = alpha / adapter["down"].shape[2]
        change = scale * jnp.einsum("lir,lro->lio", adapter["down"], adapter["up"])
        layers[name] = layers[name] + change.reshape(layers[name].shape).astype(layers[name].dtype)
    return {**params, "layers": layers}
