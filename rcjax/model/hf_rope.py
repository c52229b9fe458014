"""RoPE's parameters as Hugging Face writes them, in the spellings of transformers 4 and 5, to RopeScaling and back."""

import math
from collections.abc import Mapping
from typing import Any

from rcjax.model.config import ModelConfig, RopeScaling
from rcjax.model.fields import Fields, shown
from rcjax.model.load_error import ModelLoadError

_KINDS = ("default", "linear", "llama3", "yarn")


def rope_parameters(fields: Fields) -> Fields:
    """RoPE's parameters as one flat object, from transformers v4's `rope_scaling` or v5's `rope_parameters`."""
    key = "rope_scaling" if fields.values.get("rope_scaling") else "rope_parameters"
    rope = fields.object(key)
    if any(isinstance(value, Mapping) for value in rope.values.values()):
        raise fields.error(key, "is RoPE that varies by layer type, which is not supported")
    if rope.values.get("partial_rotary_factor", 1) not in (1, None):
        raise rope.error("partial_rotary_factor", "is not supported; only 1 is")
    theta = fields.number("rope_theta", 10_000.0, above=1.0)
    return Fields({"rope_theta": theta} | {k: v for k, v in rope.values.items() if v is not None}, rope.file)


def rope_scaling(rope: Fields, original_max_len: Any, max_len: int) -> RopeScaling | None:
    """The scaling that `rope_parameters` describes; `original_max_len` is config.json's own, which goes first."""
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind not in _KINDS:
        raise ModelLoadError(f"{rope.file}: RoPE scaling {shown(kind)} is not supported; use {', '.join(_KINDS)}")
    if kind == "default":
        return None
    if original_max_len is not None:
        rope = Fields({**rope.values, "original_max_position_embeddings": original_max_len}, rope.file)
    original = rope.integer("original_max_position_embeddings", max_len)
    if kind == "linear":
        return RopeScaling(kind, factor=rope.number("factor"))
    if kind == "yarn":
        return _yarn(rope, original, max_len)
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if low >= high:
        raise rope.error("low_freq_factor", f"must be below high_freq_factor={high}")
    return RopeScaling(
        kind,
        factor=rope.number("factor"),
        original_max_len=original,
        low_freq_factor=low,
        high_freq_factor=high,
    )


def _yarn(rope: Fields, original_max_len: int, max_len: int) -> RopeScaling:
    factor = rope.number("factor", max_len / original_max_len)
    if rope.has("attention_factor"):
        attention_factor = rope.number("attention_factor")
    elif rope.values.get("mscale") and rope.values.get("mscale_all_dim"):
        mscale, mscale_all_dim = rope.number("mscale"), rope.number("mscale_all_dim")
        attention_factor = yarn_attention_factor(factor, mscale) / yarn_attention_factor(factor, mscale_all_dim)
    else:
        attention_factor = yarn_attention_factor(factor)
    return RopeScaling(
        "yarn",
        factor=factor,
        original_max_len=original_max_len,
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        attention_factor=attention_factor,
        truncate=rope.flag("truncate", True),
    )


def yarn_attention_factor(factor: float, mscale: float = 1.0) -> float:
    """What YaRN multiplies cos and sin by when a checkpoint does not say (arXiv 2309.00071, eq. 22)."""
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def hf_rope(config: ModelConfig) -> dict[str, Any]:
    """The keys of config.json that say RoPE: those of transformers 5, and those that 4.57 reads."""
    scaling = config.rope_scaling
    if scaling is None:
        return {
            "rope_theta": config.rope_theta,
            "rope_scaling": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        }
    fields = {"rope_type": scaling.kind, **_hf_scaling(scaling)}
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": fields,
        "rope_parameters": fields | {"rope_theta": config.rope_theta},
    }


def _hf_scaling(scaling: RopeScaling) -> dict[str, Any]:
    fields: dict[str, Any] = {"factor": scaling.factor}
    if scaling.kind in ("llama3", "yarn"):
        fields["original_max_position_embeddings"] = scaling.original_max_len
    if scaling.kind == "llama3":
        fields |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.kind == "yarn":
        fields |= {
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "attention_factor": scaling.attention_factor,
            "truncate": scaling.truncate,
        }
    return fields
