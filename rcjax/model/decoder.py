"""The Llama-family decoder and its one forward pass, `extend`.

The modules declare each parameter once (shape, logical axes, init). Pure functions do the mathematics over the
plain dict of arrays that the modules split into, because dispatching costs 0.5 ms a call with a dict and 1.7-10
with a module (30 layers, CPU).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.nn.initializers import Initializer, normal, ones, zeros
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from rcjax.kernels.arrays import AnyArray, register_arrays
from rcjax.kernels.kv import KVPages
from rcjax.kernels.selective_attention import REFERENCE, Attention, PageLayout, TileLayout, TokenLayout
from rcjax.kernels.selective_attention.rotation import rotate, to_position
from rcjax.model.config import ModelConfig
from rcjax.model.contraction import contract
from rcjax.model.kv import FreshKV, empty_pages, kv_format
from rcjax.model.rope import rope_of

Params = dict[str, Any]  # nested dict of arrays, as `Decoder` declares them
WEIGHT = normal(0.02)


@dataclass(frozen=True, slots=True)
class _Declare:
    """Makes parameters: one call states a parameter's shape, logical axes and initial values."""

    rngs: nnx.Rngs
    dtype: DTypeLike

    def __call__(self, axes: dict[str, int], init: Initializer) -> nnx.Param[Array]:
        value = init(self.rngs.params(), tuple(axes.values()), self.dtype)
        return nnx.Param(value, logical_axes=tuple(axes))


class Layers(nnx.Module):
    """All layers' parameters, stacked on the first axis so that one compiled layer serves every depth."""

    def __init__(self, config: ModelConfig, declare: _Declare):
        c = config
        layers, embed = {"layers": c.num_layers}, {"embed": c.d_model}
        heads, kv_heads, head_dim = {"heads": c.num_heads}, {"kv_heads": c.num_kv_heads}, {"head_dim": c.head_dim}
        mlp = {"mlp": c.d_ff}
        self.attn_norm = declare(layers | embed, ones)
        self.q_proj = declare(layers | embed | heads | head_dim, WEIGHT)
        self.k_proj = declare(layers | embed | kv_heads | head_dim, WEIGHT)
        self.v_proj = declare(layers | embed | kv_heads | head_dim, WEIGHT)
        self.o_proj = declare(layers | heads | head_dim | embed, WEIGHT)
        if c.qkv_bias:
            self.q_bias = declare(layers | heads | head_dim, zeros)
            self.k_bias = declare(layers | kv_heads | head_dim, zeros)
            self.v_bias = declare(layers | kv_heads | head_dim, zeros)
        if c.qk_norm:
            self.q_norm = declare(layers | head_dim, ones)
            self.k_norm = declare(layers | head_dim, ones)
        self.mlp_norm = declare(layers | embed, ones)
        self.gate_proj = declare(layers | embed | mlp, WEIGHT)
        self.up_proj = declare(layers | embed | mlp, WEIGHT)
        self.down_proj = declare(layers | mlp | embed, WEIGHT)


class Decoder(nnx.Module):
    """Parameters of a Llama, Qwen2, Qwen3 or Mistral decoder."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: DTypeLike = jnp.float32):
        declare = _Declare(rngs, dtype)
        self.embed = declare({"vocab": config.vocab_size, "embed": config.d_model}, WEIGHT)
        self.layers = Layers(config, declare)
        self.final_norm = declare({"embed": config.d_model}, ones)
        if not config.tied_embeddings:
            self.lm_head = declare({"embed": config.d_model, "vocab": config.vocab_size}, WEIGHT)


def init_params(config: ModelConfig, key: Array, dtype: DTypeLike = jnp.float32) -> Params:
    """Random parameters."""
    return _pure(Decoder(config, rngs=nnx.Rngs(params=key), dtype=dtype))


def abstract_params(config: ModelConfig, dtype: DTypeLike = jnp.float32) -> Params:
    """The parameters' shapes and dtypes, allocating nothing."""
    return _pure(_abstract(config, dtype))


def logical_axes(config: ModelConfig) -> Params:
    """The logical axes of each parameter, as a nested dict of tuples of names."""
    state = nnx.state(_abstract(config, jnp.float32))
    axes = nnx.map_state(lambda _, param: param.get_metadata()["logical_axes"], state)
    return dict(nnx.to_pure_dict(axes))


def _abstract(config: ModelConfig, dtype: DTypeLike) -> Decoder:
    return nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype))


def _pure(module: Decoder) -> Params:
    return dict(nnx.to_pure_dict(nnx.state(module)))


@register_arrays
@dataclass(frozen=True, slots=True)
class Batch:
    """Everything one forward pass needs to know: the fresh tokens, and the pages they attend to.

    `read[b, r]` is the index among the fresh tokens of the r-th token whose hidden state is wanted. `tiles` has the
    pages that only some of them see, where these are kept apart.
    """

    token_ids: Int[AnyArray, "B T"]
    tokens: TokenLayout
    pages: PageLayout
    read: Int[AnyArray, "B R"]
    tiles: TileLayout | None = None


def extend(
    params: Params, config: ModelConfig, batch: Batch, pages: KVPages, attention: Attention
) -> tuple[Float[Array, "B R D"], FreshKV]:
    """Runs the fresh tokens through the model, attending to cached pages and to one another.

    Returns the final hidden state (normed) of the tokens to read, and the KV of all fresh tokens; when the caller
    does not use the latter, the compiler drops it.
    """
    x, (_, k, v) = run_layers(params, config, batch, pages, attention)
    x = jnp.take_along_axis(x, batch.read[..., None], axis=1)
    return rms_norm(x, params["final_norm"], config.norm_eps), FreshKV(k, v)


def run_layers(
    params: Params, config: ModelConfig, batch: Batch, pages: KVPages, attention: Attention
) -> tuple[
    Float[Array, "B T D"], tuple[Float[Array, "L B T N H"], Float[Array, "L B T K H"], Float[Array, "L B T K H"]]
]:
    """The layers of `extend`: hidden states after the last one, unnormed, and each layer's q, k (rotated) and v."""
    rope = rope_of(config)
    # What is the same in all layers is worked out here, once.
    rotation = to_position(batch.tokens.pos, rope)
    view = attention.view(batch.tokens, batch.pages, batch.tiles, rope=rope, window=config.sliding_window)
    num_pages = pages.k.shape[1]
    # The pool stays one array: layer l's page p is page l * P + p. Slicing the layer out would copy the pool.
    kv = pages.joined()

    def layer(x: Array, scanned: tuple[Params, Array]) -> tuple[Array, tuple[Array, Array, Array]]:
        w, index = scanned
        with jax.named_scope("attention"):
            q, k, v = project_qkv(rms_norm(x, w["attn_norm"], config.norm_eps), w, config)
            q, k = rotate(q, rotation), rotate(k, rotation)
            attended = attention(view, q, k, v, kv, index * num_pages)
            x = x + contract("btnh,nhd->btd", attended, w["o_proj"])
        with jax.named_scope("mlp"):
            h = rms_norm(x, w["mlp_norm"], config.norm_eps)
            gate, up = contract("btd,df->btf", h, w["gate_proj"]), contract("btd,df->btf", h, w["up_proj"])
            x = x + contract("btf,fd->btd", _swiglu(gate, up), w["down_proj"])
        return x, (q, k, v)

    return lax.scan(layer, params["embed"][batch.token_ids], (params["layers"], jnp.arange(config.num_layers)))


def project_qkv(h: Array, w: Params, config: ModelConfig) -> tuple[Array, Array, Array]:
    """q, k (both unrotated) and v."""
    q = contract("btd,dnh->btnh", h, w["q_proj"])
    k = contract("btd,dkh->btkh", h, w["k_proj"])
    v = contract("btd,dkh->btkh", h, w["v_proj"])
    if config.qkv_bias:
        q, k, v = q + w["q_bias"], k + w["k_bias"], v + w["v_bias"]
    if config.qk_norm:
        q, k = rms_norm(q, w["q_norm"], config.norm_eps), rms_norm(k, w["k_norm"], config.norm_eps)
    return q, k, v


@jax.checkpoint
def _swiglu(gate: Array, up: Array) -> Array:
    return jax.nn.silu(gate) * up


@partial(jax.checkpoint, static_argnums=2)
def rms_norm(x: Float[Array, "*any D"], weight: Float[Array, "D"], eps: float) -> Float[Array, "*any D"]:
    """Root-mean-square norm over the last axis, in float32."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return x32.astype(x.dtype) * weight


def unembed(
    params: Params, hidden: Float[Array, "B R D"], vocab_ids: Int[Array, "W"] | None = None
) -> Float[Array, "B R W"]:
    """Logits in float32 of the tokens `vocab_ids`, or of the whole vocabulary.

    Ranking needs 2-100 of 49,152 columns (SmolLM2): reading only these saves a tenth of a small pass.
    """
    if "lm_head" in params:
        columns = params["lm_head"] if vocab_ids is None else params["lm_head"][:, vocab_ids]
        return jnp.einsum("brd,dw->brw", hidden, columns, preferred_element_type=jnp.float32)
    rows = params["embed"] if vocab_ids is None else params["embed"][vocab_ids]
    return jnp.einsum("brd,wd->brw", hidden, rows, preferred_element_type=jnp.float32)


def forward(
    params: Params, config: ModelConfig, token_ids: Int[Array, "B T"], attention: Attention = REFERENCE
) -> Float[Array, "B T V"]:
    """Logits of a plain causal pass: every token fresh, no cached page."""
    pages = empty_pages(kv_format(config, params["embed"].dtype.name, page_tokens=1), 1)
    hidden, _ = extend(params, config, causal_batch(token_ids), pages, attention)
    return unembed(params, hidden)


def causal_batch(token_ids: Int[Array, "B T"]) -> Batch:
    """The batch in which all tokens are fresh, in order, and read."""
    zeros_ = jnp.zeros_like(token_ids)
    pos = jnp.broadcast_to(jnp.arange(token_ids.shape[1]), token_ids.shape)
    none = jnp.zeros((token_ids.shape[0], 0), jnp.int32)
    pages = PageLayout(none, none, none, none, jnp.zeros((token_ids.shape[0], 0, 1), bool))
    return Batch(token_ids, TokenLayout(pos, zeros_, zeros_), pages, pos)
