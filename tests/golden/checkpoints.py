"""Tiny checkpoints of every supported family, the same on every machine, in Hugging Face's and GGUF's layout.

Norms differ from one and biases from zero, every dimension has another size, and RoPE scalings reach all their
regimes within the test's 40 tokens: a mistake in any of them shows in the logits.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from safetensors.numpy import save_file

NUM_LAYERS, D_MODEL, NUM_HEADS, NUM_KV_HEADS, D_FF, VOCAB_SIZE = 3, 48, 4, 2, 80, 72
TEXTS_SHAPE = (2, 40)  # texts, tokens

_COMMON = {
    "num_hidden_layers": NUM_LAYERS,
    "hidden_size": D_MODEL,
    "num_attention_heads": NUM_HEADS,
    "num_key_value_heads": NUM_KV_HEADS,
    "intermediate_size": D_FF,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "torch_dtype": "float32",
}
_LLAMA = _COMMON | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}

CONFIGS: dict[str, dict[str, Any]] = {
    "llama2": _LLAMA | {"num_key_value_heads": NUM_HEADS},
    "llama3": _LLAMA
    | {
        "rope_theta": 50000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "linear": _LLAMA | {"rope_scaling": {"type": "linear", "factor": 3.0}},
    "yarn": _LLAMA | {"rope_parameters": _YARN},
    "yarn_mscale": _LLAMA
    | {"rope_parameters": _YARN | {"mscale": 0.7, "mscale_all_dim": 1.4, "beta_fast": 4.0, "truncate": False}},
    "qwen2": _COMMON
    | {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": 8,
    },
    "qwen3": _COMMON | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "head_dim": 20},
    "mistral": _COMMON | {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 8},
}


def token_ids() -> np.ndarray:
    """The texts that the goldens are made from."""
    return np.random.default_rng(7).integers(0, VOCAB_SIZE, TEXTS_SHAPE, dtype=np.int32)


def tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights by their Hugging Face names, float32."""
    rng = np.random.default_rng(seed)
    num_heads, num_kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim", D_MODEL // num_heads)
    q_dim, kv_dim = num_heads * head_dim, num_kv_heads * head_dim

    def weight(rows: int, columns: int, gain: float = 1.0) -> np.ndarray:
        return (gain * rng.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    def near(center: float, size: int) -> np.ndarray:
        return (center + 0.3 * rng.standard_normal(size)).astype(np.float32)

    named = {
        "model.embed_tokens.weight": weight(config["vocab_size"], D_MODEL, 3.0),
        "model.norm.weight": near(1, D_MODEL),
    }
    if not config["tie_word_embeddings"]:
        named["lm_head.weight"] = weight(config["vocab_size"], D_MODEL, 3.0)
    for layer in range(NUM_LAYERS):
        named |= {
            f"model.layers.{layer}.{name}": tensor
            for name, tensor in {
                "input_layernorm.weight": near(1, D_MODEL),
                "post_attention_layernorm.weight": near(1, D_MODEL),
                "self_attn.q_proj.weight": weight(q_dim, D_MODEL, 1.5),
                "self_attn.k_proj.weight": weight(kv_dim, D_MODEL, 1.5),
                "self_attn.v_proj.weight": weight(kv_dim, D_MODEL),
                "self_attn.o_proj.weight": weight(D_MODEL, q_dim),
                "mlp.gate_proj.weight": weight(D_FF, D_MODEL),
                "mlp.up_proj.weight": weight(D_FF, D_MODEL),
                "mlp.down_proj.weight": weight(D_MODEL, D_FF),
            }.items()
        }
        if config["model_type"] == "qwen2":
            for name, size in (("q", q_dim), ("k", kv_dim), ("v", kv_dim)):
                named[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = near(0, size)
        if config["model_type"] == "qwen3":
            for name in ("q", "k"):
                named[f"model.layers.{layer}.self_attn.{name}_norm.weight"] = near(1, head_dim)
    return named


def write_folder(
    folder: Path, config: Mapping[str, Any], weights: Mapping[str, np.ndarray], *, num_shards: int = 1
) -> Path:
    """Writes config.json and the weights, in one file or in shards with an index; returns `folder`."""
    (folder / "config.json").write_text(json.dumps(config))
    if num_shards == 1:
        save_file(dict(weights), folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = dict(list(weights.items())[shard::num_shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_writer(path: Path, config: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> gguf.GGUFWriter:
    """A writer that holds the model's metadata (without RoPE scaling) and tensors; `finish` closes it."""
    architecture = {"mistral": "llama"}.get(config["model_type"], config["model_type"])
    head_dim = config.get("head_dim", D_MODEL // NUM_HEADS)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(NUM_LAYERS)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(D_FF)
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    for name, tensor in weights.items():
        layer, stem, kind = re.fullmatch(r"(?:model\.layers\.(\d+)\.)?(.+)\.(weight|bias)", name).groups()
        stored = tensor
        if architecture == "llama" and stem in ("self_attn.q_proj", "self_attn.k_proj"):
            halves = tensor.reshape(-1, 2, head_dim // 2, D_MODEL)
            stored = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)
        prefix = "" if layer is None else f"blk.{layer}."
        writer.add_tensor(f"{prefix}{_GGUF_NAMES[stem]}.{kind}", stored)
    return writer


def finish(writer: gguf.GGUFWriter) -> None:
    """Writes the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
