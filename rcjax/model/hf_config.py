"""Hugging Face's config.json -> ModelConfig, refusing by name whatever the decoder does not compute."""

import math
from collections.abc import Mapping
from typing import Any

from rcjax.model.config import ModelConfig, RopeScaling
from rcjax.model.load_error import ModelLoadError

_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
_QWEN3_HEAD_DIM = 128  # what transformers assumes where config.json is silent
_MISTRAL_WINDOW = 4096  # likewise
_REQUIRED = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size")


def config_from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """Reads the architecture from a parsed config.json (llama, mistral, qwen2, qwen3).

    A missing key means what transformers takes it to mean. Raises ModelLoadError naming the key and the value for
    everything that would compute other logits than transformers does.
    """
    model_type = config.get("model_type")
    if model_type not in _MODEL_TYPES:
        raise ModelLoadError(f"{model_type=} is not supported; use one of {', '.join(_MODEL_TYPES)}")
    missing = [key for key in _REQUIRED if config.get(key) is None]
    if missing:
        raise ModelLoadError(f"config.json lacks {', '.join(missing)}")
    _refuse_unsupported(config)
    num_heads = config["num_attention_heads"]
    default_head_dim = _QWEN3_HEAD_DIM if model_type == "qwen3" else config["hidden_size"] // num_heads
    rope = _rope_parameters(config)
    max_len = config.get("max_position_embeddings", 2048)
    return ModelConfig(
        num_layers=config["num_hidden_layers"],
        d_model=config["hidden_size"],
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=config.get("head_dim") or default_head_dim,
        d_ff=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        rope_theta=float(rope["rope_theta"]),
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        max_len=max_len,
        rope_scaling=_rope_scaling(rope, config.get("original_max_position_embeddings"), max_len),
        qkv_bias=model_type == "qwen2",
        qk_norm=model_type == "qwen3",
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        sliding_window=_sliding_window(config),
    )


def _refuse_unsupported(config: Mapping[str, Any]) -> None:
    supported = {
        "hidden_act": ("silu", "swish"),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "partial_rotary_factor": (1, None),
        "quantization_config": (None,),
        "num_experts": (0, None),
        "num_local_experts": (0, None),
    }
    for key, values in supported.items():
        value = config.get(key, values[0])
        if value not in values:
            raise ModelLoadError(f"config.json: {key}={value!r} is not supported; only {values[0]!r} is")


def _rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """RoPE's parameters as one flat dict, from transformers v4's `rope_scaling` or v5's `rope_parameters`."""
    rope = dict(config.get("rope_scaling") or config.get("rope_parameters") or {})
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise ModelLoadError(f"config.json: RoPE that varies by layer type is not supported: {rope!r}")
    if rope.get("partial_rotary_factor", 1) not in (1, None):
        raise ModelLoadError(f"config.json: partial_rotary_factor={rope['partial_rotary_factor']!r} is not supported")
    theta = config.get("rope_theta")
    rope.setdefault("rope_theta", 10_000.0 if theta is None else theta)
    return rope


def _rope_scaling(rope: Mapping[str, Any], original_max_len: int | None, max_len: int) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    original = original_max_len or rope.get("original_max_position_embeddings") or max_len
    try:
        if kind == "default":
            return None
        if kind == "linear":
            return RopeScaling(kind, factor=float(rope["factor"]))
        if kind == "llama3":
            return RopeScaling(
                kind,
                factor=float(rope["factor"]),
                original_max_len=original,
                low_freq_factor=float(rope["low_freq_factor"]),
                high_freq_factor=float(rope["high_freq_factor"]),
            )
        if kind == "yarn":
            return _yarn(rope, original, max_len)
    except KeyError as error:
        raise ModelLoadError(f"config.json: RoPE scaling {kind!r} lacks {error.args[0]!r}: {dict(rope)}") from error
    raise ModelLoadError(f"config.json: RoPE scaling {kind!r} is not supported; use default, linear, llama3 or yarn")


def _yarn(rope: Mapping[str, Any], original_max_len: int, max_len: int) -> RopeScaling:
    factor = rope["factor"]
    if factor is None:
        factor = max_len / original_max_len
    attention_factor = rope.get("attention_factor")
    if attention_factor is None:
        mscale, mscale_all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
        if mscale and mscale_all_dim:
            attention_factor = yarn_attention_factor(factor, mscale) / yarn_attention_factor(factor, mscale_all_dim)
        else:
            attention_factor = yarn_attention_factor(factor)
    return RopeScaling(
        "yarn",
        factor=float(factor),
        original_max_len=original_max_len,
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        attention_factor=float(attention_factor),
        truncate=bool(rope.get("truncate", True)),
    )


def yarn_attention_factor(factor: float, mscale: float = 1.0) -> float:
    """What YaRN multiplies cos and sin by when a checkpoint does not say (arXiv 2309.00071, eq. 22)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def _sliding_window(config: Mapping[str, Any]) -> int | None:
    """The window that every layer uses, or None; layers that differ are refused."""
    model_type = config["model_type"]
    layer_types = config.get("layer_types")
    if layer_types and len(set(layer_types)) > 1:
        raise ModelLoadError(f"config.json: layers of different attention are not supported: {layer_types=}")
    default = _MISTRAL_WINDOW if model_type == "mistral" else None
    window: int | None = config.get("sliding_window", default)
    if model_type == "mistral":
        return window
    if model_type == "llama" or not config.get("use_sliding_window", False) or window is None:
        return None
    if layer_types:
        return window if layer_types[0] == "sliding_attention" else None
    num_full = config.get("max_window_layers", 28)
    if 0 < num_full < config["num_hidden_layers"]:
        raise ModelLoadError(
            f"config.json: layers of different attention are not supported: max_window_layers={num_full} of "
            f"num_hidden_layers={config['num_hidden_layers']}"
        )
    return window if num_full == 0 else None
