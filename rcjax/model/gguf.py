"""GGUF files: config and weights under the names and layouts of Hugging Face checkpoints."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from rcjax.model.config import ModelConfig, RopeScaling
from rcjax.model.hf_config import yarn_attention_factor
from rcjax.model.load_error import ModelLoadError
from rcjax.model.rope import inverse_frequencies

_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_ROPE_FREQS = "rope_freqs.weight"
_OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class _Reader(gguf.GGUFReader):
    """Reads metadata element by element through a plain view: slices of a memmap take twice as long (3 s in all)."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, np.asarray(value) if name == "data" else value)


class GgufFile:
    """An open (memory-mapped) GGUF file; a TensorSource that dequantizes the rows it is asked for.

    Reads architectures llama (Llama, Mistral, SmolLM2), qwen2 and qwen3, and every tensor type that the `gguf` package
    dequantizes. Raises ModelLoadError for anything else.
    """

    def __init__(self, path: Path):
        self.path = path
        self._architecture = ""
        try:
            self._reader = _Reader(path)
        except (OSError, ValueError, IndexError, KeyError) as error:
            raise ModelLoadError(f"{path} is not a readable GGUF file: {error}") from error
        self._architecture = self.metadata("general.architecture")
        if self._architecture not in _ARCHITECTURES:
            raise ModelLoadError(
                f"{path}: GGUF architecture {self._architecture!r} is not supported; use one of "
                + ", ".join(_ARCHITECTURES)
            )
        self._tensors = {_hf_name(tensor.name): tensor for tensor in self._reader.tensors}
        self._rope_freqs = self._tensors.pop(_ROPE_FREQS, None)
        self.config = self._read_config()

    def metadata(self, key: str, default: Any = None) -> Any:
        """One metadata value as Python's type; `{arch}` in the key stands for the architecture."""
        field = self._reader.get_field(key.replace("{arch}", self._architecture))
        return default if field is None else field.contents()

    def names(self) -> Iterable[str]:
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        tensor = self._tensors[name]
        try:
            rows = gguf.dequantize(tensor.data[index[0]], tensor.tensor_type)
        except NotImplementedError as error:
            raise ModelLoadError(f"{self.path}: {name} has type {tensor.tensor_type.name}: {error}") from error
        if self._architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            rows = _unpermute(rows, self.config.head_dim)
        return rows[:, index[1]] if len(index) > 1 else rows

    def _read_config(self) -> ModelConfig:
        self._refuse_unsupported()
        d_model, num_heads = self._required("embedding_length"), self._required("attention.head_count")
        head_dim = int(self.metadata("{arch}.attention.key_length", d_model // num_heads))
        rotated = int(self.metadata("{arch}.rope.dimension_count", head_dim))
        values = int(self.metadata("{arch}.attention.value_length", head_dim))
        if not head_dim == rotated == values:
            raise ModelLoadError(f"{self.path}: {head_dim=}, {rotated=} and {values=} must be equal")
        if "model.embed_tokens.weight" not in self._tensors:
            raise ModelLoadError(f"{self.path} has no tensor token_embd.weight")
        config = ModelConfig(
            num_layers=self._required("block_count"),
            d_model=d_model,
            num_heads=num_heads,
            num_kv_heads=int(self.metadata("{arch}.attention.head_count_kv", num_heads)),
            head_dim=head_dim,
            d_ff=self._required("feed_forward_length"),
            vocab_size=self.shape("model.embed_tokens.weight")[0],
            rope_theta=_shortest(self.metadata("{arch}.rope.freq_base", 10_000.0)),
            norm_eps=_shortest(self._required("attention.layer_norm_rms_epsilon")),
            max_len=self._required("context_length"),
            qkv_bias=self._architecture == "qwen2",
            qk_norm=self._architecture == "qwen3",
            tied_embeddings="lm_head.weight" not in self._tensors,
        )
        return replace(config, rope_scaling=self._rope_scaling(config))

    def _required(self, key: str) -> Any:
        value = self.metadata("{arch}." + key)
        if value is None or isinstance(value, list):  # a list varies by layer
            raise ModelLoadError(f"{self.path}: metadata {self._architecture}.{key}={value!r}; one number is needed")
        return value

    def _refuse_unsupported(self) -> None:
        supported = {
            "expert_count": 0,
            "attention.sliding_window": 0,  # the file does not say which layers have it
            "rope.scaling.attn_factor": 1.0,
            "rope.scaling.yarn_attn_factor": 1.0,
            "rope.scaling.yarn_log_multiplier": 0.0,
        }
        for key, only in supported.items():
            value = self.metadata("{arch}." + key, only)
            if value != only:
                raise ModelLoadError(f"{self.path}: {self._architecture}.{key}={value!r} must be {only}")

    def _rope_scaling(self, config: ModelConfig) -> RopeScaling | None:
        kind = self.metadata("{arch}.rope.scaling.type", "none")
        factor = float(self.metadata("{arch}.rope.scaling.factor", self.metadata("{arch}.rope.scale_linear", 1.0)))
        if self._rope_freqs is not None:
            if kind != "none":
                raise ModelLoadError(f"{self.path} has both {_ROPE_FREQS} and RoPE scaling {kind!r}")
            return self._llama3_scaling(np.asarray(self._rope_freqs.data, np.float32), config)
        if kind == "yarn":
            return RopeScaling(
                kind,
                factor=factor,
                original_max_len=int(self.metadata("{arch}.rope.scaling.original_context_length", config.max_len)),
                beta_fast=float(self.metadata("{arch}.rope.scaling.yarn_beta_fast", 32.0)),
                beta_slow=float(self.metadata("{arch}.rope.scaling.yarn_beta_slow", 1.0)),
                attention_factor=yarn_attention_factor(factor),
            )
        if kind not in ("none", "linear"):
            raise ModelLoadError(f"{self.path}: RoPE scaling {kind!r} is not supported; use linear, yarn or none")
        return RopeScaling("linear", factor=factor) if factor != 1.0 else None

    def _llama3_scaling(self, divisors: np.ndarray, config: ModelConfig) -> RopeScaling | None:
        """The scaling whose divisors of the frequencies `rope_freqs.weight` holds, if it is Llama 3's, else an error.

        The file keeps the divisors but not the parameters they came from. Every released Llama 3.1-3.3 uses low and
        high frequency factors 1 and 4 over an original length of 8192, so only those are tried, and checked.
        """
        if np.all(divisors == 1):
            return None
        scaling = RopeScaling("llama3", factor=_shortest(float(divisors.max())), original_max_len=8192)
        plain = inverse_frequencies(config)
        scaled = inverse_frequencies(replace(config, rope_scaling=scaling))
        if divisors.shape != plain.shape or not np.allclose(plain / divisors, scaled, rtol=1e-4, atol=0):
            raise ModelLoadError(
                f"{self.path}: {_ROPE_FREQS} is not Llama 3's scaling (factors 1 and 4 over 8192 tokens); load the "
                "Hugging Face folder of this model instead"
            )
        return scaling


def _hf_name(name: str) -> str:
    """The Hugging Face name of a GGUF tensor, or its own name where it has none."""
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if layer and layer[2] in _LAYER_NAMES:
        return f"model.layers.{layer[1]}.{_LAYER_NAMES[layer[2]]}.{layer[3]}"
    return _OUTER_NAMES.get(name, name)


def _unpermute(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Undoes the llama architecture's order of rows, which interleaves the two halves that RoPE rotates together."""
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[-1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _shortest(value: float) -> float:
    """The decimal that a float32 in the file was written from: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))
