"""A model as a Hugging Face folder, which `load_model` and `transformers` read."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from rcjax.disk import replacing
from rcjax.model.config import ModelConfig
from rcjax.model.decoder import Params
from rcjax.model.hf_rope import hf_rope
from rcjax.model.tokenizer import Tokenizer
from rcjax.model.weights import TensorLayout, layer_name, tensor_layouts

_ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def export_folder(folder: Path, config: ModelConfig, params: Params, tokenizer: Tokenizer) -> None:
    """Writes config.json, model.safetensors and the tokenizer into `folder`, over what is there.

    `DiskError` where it cannot be written; what is there stays as it was then.
    """
    with replacing(folder, SafetensorError) as new:
        _write(new, config, params, tokenizer)


def _write(folder: Path, config: ModelConfig, params: Params, tokenizer: Tokenizer) -> None:
    dtype = np.asarray(params["final_norm"][:1]).dtype.name
    config_file, weights_file = folder / "config.json", folder / "model.safetensors"
    config_file.write_text(json.dumps(hf_config(config) | {"torch_dtype": dtype}, indent=2), "utf-8")
    outer, layers = tensor_layouts(config)
    tensors = {layout.name: _stored(params[key], layout) for key, layout in outer.items()}
    for key, layout in layers.items():
        for i, parameter in enumerate(np.asarray(jax.device_get(params["layers"][key]))):
            tensors[layer_name(i, layout.name)] = _stored(parameter, layout)
    save_file(tensors, weights_file, metadata={"format": "pt"})
    weights_file.chmod(config_file.stat().st_mode)  # safetensors lets the owner only read it, whatever the umask
    tokenizer.save(folder)


def _stored(parameter: Any, layout: TensorLayout) -> np.ndarray:
    """The parameter with the axes, merged, that the checkpoint's tensor has."""
    array = np.asarray(jax.device_get(parameter))
    array = array.transpose([layout.param.index(axis) for axis in layout.stored.replace(" ", "")])
    sizes = iter(array.shape)
    merged = [int(np.prod([next(sizes) for _ in axes])) for axes in layout.stored.split()]
    return np.ascontiguousarray(array.reshape(merged))


def hf_config(config: ModelConfig) -> dict[str, Any]:
    """The config.json that `config_from_hf` reads back as `config`."""
    model_type = _model_type(config)
    written: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[model_type]],
        "model_type": model_type,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.d_model,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.d_ff,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_len,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": config.tied_embeddings,
        **hf_rope(config),
    }
    if model_type != "llama":
        written["sliding_window"] = config.sliding_window
    if model_type.startswith("qwen"):
        windowed = config.sliding_window is not None
        written |= {"use_sliding_window": windowed, "max_window_layers": 0 if windowed else config.num_layers}
    return written


def _model_type(config: ModelConfig) -> str:
    if config.qk_norm:
        return "qwen3"
    if config.qkv_bias:
        return "qwen2"
    return "llama" if config.sliding_window is None else "mistral"
