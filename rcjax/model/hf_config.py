"""Hugging Face's config.json -> ModelConfig, refusing by name whatever the decoder does not compute."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcjax.model.config import ModelConfig
from rcjax.model.fields import Fields, read_json
from rcjax.model.hf_rope import rope_parameters, rope_scaling
from rcjax.model.load_error import ModelLoadError

_MODEL_TYPES = ("llama", "mistral", "ministral", "qwen2", "qwen3")
_QWEN3_HEAD_DIM = 128  # what transformers assumes where config.json is silent
_MISTRAL_WINDOW = 4096  # likewise
_FULL, _SLIDING = "full_attention", "sliding_attention"


def read_config(folder: Path) -> Fields:
    """The fields of a folder's config.json; refuses a folder that is no model for text generation."""
    path = folder / "config.json"
    if not path.exists():
        raise ModelLoadError(f"{folder} holds no config.json; give the folder that save_pretrained wrote")
    if (folder / "modules.json").exists():
        raise ModelLoadError(
            f"{folder / 'modules.json'}: a sentence-transformers checkpoint makes embeddings and has no head for "
            "tokens; use the chat or base model that it was made from"
        )
    return read_json(path)


def config_from_hf(config: Mapping[str, Any], file: str = "config.json") -> ModelConfig:
    """Reads the architecture from a parsed config.json (llama, mistral, ministral, qwen2, qwen3).

    A missing key means what transformers takes it to mean. Raises ModelLoadError naming `file`, the key and the value
    for everything that would compute other logits than transformers does.
    """
    fields = Fields(config, file)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in _MODEL_TYPES:
        raise fields.error("model_type", f"is not supported; use one of {', '.join(_MODEL_TYPES)}")
    _refuse_unsupported(fields)
    d_model, num_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    num_layers = fields.integer("num_hidden_layers")
    rope, max_len = rope_parameters(fields), fields.integer("max_position_embeddings", 2048)
    try:
        return ModelConfig(
            num_layers=num_layers,
            d_model=d_model,
            num_heads=num_heads,
            num_kv_heads=fields.integer("num_key_value_heads", num_heads),
            head_dim=_head_dim(fields, d_model, num_heads),
            d_ff=fields.integer("intermediate_size"),
            vocab_size=fields.integer("vocab_size"),
            rope_theta=rope.number("rope_theta", above=1.0),
            norm_eps=fields.number("rms_norm_eps", 1e-6),
            max_len=max_len,
            rope_scaling=rope_scaling(rope, fields.values.get("original_max_position_embeddings"), max_len),
            qkv_bias=model_type == "qwen2",
            qk_norm=model_type == "qwen3",
            tied_embeddings=fields.flag("tie_word_embeddings", False),
            sliding_window=_sliding_window(fields, num_layers),
        )
    except ModelLoadError:
        raise
    except ValueError as error:  # numbers that do not fit each other
        raise ModelLoadError(f"{file}: {error}") from error


def _head_dim(fields: Fields, d_model: int, num_heads: int) -> int:
    if fields.has("head_dim"):
        return fields.integer("head_dim")
    if fields.values["model_type"] == "qwen3":
        return _QWEN3_HEAD_DIM
    if d_model % num_heads:
        raise fields.error("hidden_size", f"must be a multiple of num_attention_heads={num_heads} without a head_dim")
    return d_model // num_heads


def _refuse_unsupported(fields: Fields) -> None:
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
        value = fields.values.get(key, values[0])
        if value not in values:
            raise fields.error(key, f"is not supported; only {values[0]!r} is")
    architectures = fields.texts("architectures")
    if architectures and not any(name.endswith("ForCausalLM") for name in architectures):
        raise fields.error("architectures", "has no head for tokens; use a checkpoint of ...ForCausalLM")


def _sliding_window(fields: Fields, num_layers: int) -> int | None:
    """The window that every layer uses, or None; layers that differ are refused."""
    model_type = fields.values["model_type"]
    layer_type = _layer_type(fields, num_layers)
    if model_type == "llama":
        return None
    is_mistral = model_type in ("mistral", "ministral")
    window = _MISTRAL_WINDOW if is_mistral else None  # where the key is missing; null is no window
    if "sliding_window" in fields.values:
        window = fields.integer("sliding_window") if fields.has("sliding_window") else None
    if model_type == "mistral":
        if layer_type == _FULL and window is not None:
            raise fields.error("layer_types", f"contradicts sliding_window={window}; leave one of them out")
        return window
    if model_type == "ministral":
        return None if layer_type == _FULL else window
    if not fields.flag("use_sliding_window", False) or window is None:
        return None
    if layer_type is not None:
        return window if layer_type == _SLIDING else None
    num_full = fields.integer("max_window_layers", 28, minimum=0)
    if 0 < num_full < num_layers:
        raise fields.error(
            "max_window_layers",
            f"of num_hidden_layers={num_layers}: layers of different attention are not supported; use another model",
        )
    return window if num_full == 0 else None


def _layer_type(fields: Fields, num_layers: int) -> str | None:
    """The attention that all layers have, where the config says."""
    layer_types = fields.texts("layer_types")
    if not layer_types:
        return None
    if len(set(layer_types)) > 1:
        raise fields.error("layer_types", "are layers of different attention, which are not supported")
    if layer_types[0] not in (_FULL, _SLIDING):
        raise fields.error("layer_types", f"is not supported; only {_FULL} and {_SLIDING} are")
    if len(layer_types) != num_layers:
        raise fields.error("layer_types", f"must have num_hidden_layers={num_layers} entries")
    return layer_types[0]
