"""LoRA: low-rank changes of the projections, trained instead of the weights (Hu et al., arXiv 2106.09685)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from rcjax.model.adapter import Adapter
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params
from rcjax.model.weights import layer_name, tensor_layouts

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


def on_top_of(below: Adapter, config: ModelConfig, adapters: Params, alpha: float) -> tuple[Params, float]:
    """Adapters, and their alpha, that add to the base what `below` and then `adapters` add; the ranks add up."""
    _, layouts = tensor_layouts(config)
    both: Params = {}
    for name, own in adapters.items():
        (layers, size_in, own_rank), size_out = own["down"].shape, own["up"].shape[2]
        rank = below.rank + own_rank
        down, up = np.zeros((layers, size_in, rank), np.float32), np.zeros((layers, rank, size_out), np.float32)
        down[:, :, below.rank :] = own["down"]
        up[:, below.rank :] = alpha / own_rank * np.asarray(own["up"])
        for layer in range(layers):
            tensor = layer_name(layer, layouts[name].name)
            if tensor in below.scales:  # others keep zeros
                a, b = below.factors(tensor, slice(0, size_out), slice(0, size_in))
                down[layer, :, : len(a)], up[layer, : len(a)] = a.T, below.scales[tensor] * b.T
        both[name] = {"down": down, "up": up}
    return both, float(below.rank + own_rank)
