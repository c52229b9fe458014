"""Probes: passes that measure cached tokens before the pass that ranks, for the selection policies that ask.

Each reuses the layers of `extend`. What is measured is compared or summed on the device, so that only a number or two
a token leave it.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from rcjax.kernels.arrays import AnyArray, register_arrays
from rcjax.kernels.kv import KVPages
from rcjax.kernels.quantisation import dequantise
from rcjax.kernels.selective_attention import Attention
from rcjax.kernels.selective_attention.rotation import from_position, rotate, to_position
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Batch, Params, project_qkv, rms_norm, run_layers
from rcjax.model.rope import rope_of
from rcjax.model.selection import Measure, Quantity


@register_arrays
@dataclass(frozen=True, slots=True)
class KnownTokens:
    """Where the cached KV of a pass's fresh tokens is.

    `slots` has the index (page * C + offset) in a layer of the pool, -1 for a token that has none; `home` the position
    that its key was rotated to.
    """

    slots: Int[AnyArray, "B T"]
    home: Int[AnyArray, "B T"]


def kv_deviation(
    params: Params,
    config: ModelConfig,
    batch: Batch,
    pages: KVPages,
    known: KnownTokens,
    layer: int,
    attention: Attention,
) -> Float[Array, "B T"]:
    """||KV_new - KV_cached||_2 of each fresh token in `layer`, over K (unrotated) and V together.

    0 for a token that is not cached. Yao et al., "CacheBlend", arXiv 2405.16444.
    """
    _, k, v = _project(params, config, batch, pages, layer, attention)
    cached_k, cached_v = _cached(pages, known, layer, config)
    return jnp.where(known.slots >= 0, jnp.sqrt(_square(k - cached_k) + _square(v - cached_v)), 0)


def first_layer(
    params: Params,
    config: ModelConfig,
    batch: Batch,
    pages: KVPages,
    known: KnownTokens,
    attention: Attention,
) -> Float[Array, "2 B T"]:
    """Of each fresh token in the first layer: ||A||_1 and the sum of ||M_new - M_cached||_1 over M in {K, V}.

    The terms of RcLLM's eq. 3 (arXiv 2605.07443). A is the attention that the token receives from all fresh tokens
    and heads.
    """
    q, k, v = _project(params, config, batch, pages, 0, attention)
    everyone = batch.tokens.pos >= 0
    rope = rope_of(config)
    turn = to_position(batch.tokens.pos, rope)
    _, received = attention.mass(
        rotate(q, turn), rotate(k, turn), batch.tokens, everyone, pages.joined(), batch.pages, rope=rope,
        window=config.sliding_window,
    )  # fmt: skip
    cached_k, cached_v = _cached(pages, known, 0, config)
    deviation = jnp.abs(k - cached_k).sum((2, 3)) + jnp.abs(v - cached_v).sum((2, 3))
    return jnp.stack([received, jnp.where(known.slots >= 0, deviation, 0)])


def query_attention(
    params: Params,
    config: ModelConfig,
    batch: Batch,
    pages: KVPages,
    asks: Bool[AnyArray, "B T"],
    num_layers: int,
    attention: Attention,
) -> Float[Array, "B M C"]:
    """Attention that each cached token receives from the fresh tokens in `asks`, over heads and the first layers.

    "ProphetKV", arXiv 2602.02579; the queries that count are those of glue and task.
    """
    params, config = _truncated(params, config, num_layers)
    _, (q, k, _) = run_layers(params, config, batch, pages, attention)
    num_pages = pages.k.shape[1]
    kv = pages.joined()

    def add(mass: Array, layer: tuple[Array, Array, Array]) -> tuple[Array, None]:
        q, k, index = layer
        here = replace(batch.pages, table=batch.pages.table + index * num_pages)
        received, _ = attention.mass(
            q, k, batch.tokens, asks, kv, here, rope=rope_of(config), window=config.sliding_window
        )
        return mass + received, None

    start = jnp.zeros(batch.pages.drop.shape, jnp.float32)
    return lax.scan(add, start, (q, k, jnp.arange(num_layers)))[0]


def mean_deviation(
    params: Params,
    config: ModelConfig,
    batch: Batch,
    pages: KVPages,
    known: KnownTokens,
    attention: Attention,
) -> Float[Array, "B T"]:
    """`kv_deviation`, averaged over all layers: what `offline` chooses positions by."""
    _, (_, k, v) = run_layers(params, config, batch, pages, attention)
    back = from_position(batch.tokens.pos, rope_of(config))

    def add(total: Array, layer: tuple[Array, Array, Array]) -> tuple[Array, None]:
        k, v, index = layer
        cached_k, cached_v = _cached(pages, known, index, config)
        return total + jnp.sqrt(_square(rotate(k.astype(jnp.float32), back) - cached_k) + _square(v - cached_v)), None

    start = jnp.zeros(batch.token_ids.shape, jnp.float32)
    total, _ = lax.scan(add, start, (k, v, jnp.arange(config.num_layers)))
    return jnp.where(known.slots >= 0, total / config.num_layers, 0)


def probe(
    params: Params,
    config: ModelConfig,
    batch: Batch,
    pages: KVPages,
    known: KnownTokens,
    asks: Bool[AnyArray, "B T"],
    measure: Measure,
    attention: Attention,
) -> Float[Array, "..."]:
    """The quantity that `measure` names, for each fresh token or (`QUERY_ATTENTION`) each cached one."""
    if measure.layer >= config.num_layers + (measure.quantity is Quantity.QUERY_ATTENTION):
        raise ValueError(f"{measure} is beyond the model's {config.num_layers} layers; choose fewer `layers`")
    if measure.quantity is Quantity.DEVIATION:
        return kv_deviation(params, config, batch, pages, known, measure.layer, attention)
    if measure.quantity is Quantity.MEAN_DEVIATION:
        return mean_deviation(params, config, batch, pages, known, attention)
    if measure.quantity is Quantity.FIRST_LAYER:
        return first_layer(params, config, batch, pages, known, attention)
    if measure.quantity is Quantity.QUERY_ATTENTION:
        num_layers = measure.layer or config.num_layers
        return query_attention(params, config, batch, pages, asks, num_layers, attention)
    raise ValueError(f"{measure} is not for a pass to measure")


def _project(
    params: Params, config: ModelConfig, batch: Batch, pages: KVPages, layer: int, attention: Attention
) -> tuple[Array, Array, Array]:
    """q, k (unrotated) and v of `layer`, which itself is not run."""
    x, _ = run_layers(*_truncated(params, config, layer), batch, pages, attention)
    w: dict[str, Any] = jax.tree.map(lambda stacked: stacked[layer], params["layers"])
    return project_qkv(rms_norm(x, w["attn_norm"], config.norm_eps), w, config)


def _truncated(params: Params, config: ModelConfig, num_layers: int) -> tuple[Params, ModelConfig]:
    layers = jax.tree.map(lambda stacked: stacked[:num_layers], params["layers"])
    return params | {"layers": layers}, replace(config, num_layers=num_layers)


def _cached(
    pages: KVPages, known: KnownTokens, layer: int | Array, config: ModelConfig
) -> tuple[Float[Array, "B T K H"], Float[Array, "B T K H"]]:
    """K (turned back from where it was computed) and V at the slots, float32 whatever the pages' dtype."""
    per_layer = pages.k.shape[1] * pages.k.shape[2]
    index = layer * per_layer + jnp.maximum(known.slots, 0)

    def at_slots(pool: AnyArray, scale: AnyArray | None) -> Array:
        values = jnp.asarray(pool.reshape(-1, *pool.shape[3:]))[index]
        if scale is None:
            return values.astype(jnp.float32)
        return jnp.asarray(dequantise(values, scale.reshape(-1, scale.shape[3])[index]))

    k, v = at_slots(pages.k, pages.k_scale), at_slots(pages.v, pages.v_scale)
    return rotate(k, from_position(known.home, rope_of(config))), v


def _square(x: Array) -> Array:
    return jnp.square(x.astype(jnp.float32)).sum((2, 3))
