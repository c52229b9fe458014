"""GGUF files: config and weights under the names and layouts of Hugging Face checkpoints."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np

from rcjax.model.config import ModelConfig, RopeScaling
from rcjax.model.fields import first_line
from rcjax.model.gguf_metadata import gguf_fields, open_gguf
from rcjax.model.hf_rope import yarn_attention_factor
from rcjax.model.load_error import ModelLoadError
from rcjax.model.rope import inverse_frequencies

_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_ROPE_FREQS = "rope_freqs.weight"
_EMBEDDING = "model.embed_tokens.weight"
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


class GgufFile:
    """An open (memory-mapped) GGUF file; a TensorSource that dequantizes the rows it is asked for.

    Reads architectures llama (Llama, Mistral, SmolLM2), qwen2 and qwen3, and every tensor type that the `gguf` package
    dequantizes. Raises ModelLoadError for anything else.
    """

    def __init__(self, path: Path):
        self.path, self.file = path, str(path)
        reader = open_gguf(path)
        self.fields = gguf_fields(reader, path)
        self._architecture = self.fields.text("general.architecture")
        if self._architecture not in _ARCHITECTURES:
            raise self.fields.error("general.architecture", f"is not supported; use {', '.join(_ARCHITECTURES)}")
        self._tensors: dict[str, gguf.ReaderTensor] = {}
        for tensor in reader.tensors:
            if _hf_name(tensor.name) in self._tensors:
                raise ModelLoadError(f"{path}: two tensors are {_hf_name(tensor.name)}; one of them must go")
            self._tensors[_hf_name(tensor.name)] = tensor
        self._rope_freqs = self._tensors.pop(_ROPE_FREQS, None)
        try:
            self.config = self._read_config()
        except ModelLoadError:
            raise
        except ValueError as error:  # numbers that do not fit each other
            raise ModelLoadError(f"{path}: {error}") from error

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
        except ValueError as error:  # a row that is no whole number of packed blocks
            raise ModelLoadError(f"{self.path}: {name} cannot be unpacked: {first_line(error)}") from error
        if self._architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            rows = _unpermute(rows, self.config.head_dim)
        return rows[:, index[1]] if len(index) > 1 else rows

    def _read_config(self) -> ModelConfig:
        self._refuse_unsupported()
        fields, key = self.fields, self._key
        d_model = fields.integer(key("embedding_length"))
        num_heads = fields.integer(key("attention.head_count"))
        head_dim = fields.integer(key("attention.key_length"), d_model // num_heads)
        for other in ("rope.dimension_count", "attention.value_length"):
            if fields.integer(key(other), head_dim) != head_dim:
                raise fields.error(key(other), f"must be the head's {head_dim}; use another model")
        vocab_size = self.shape(_EMBEDDING)[0] if _EMBEDDING in self._tensors else 0
        if not vocab_size:
            raise ModelLoadError(f"{self.path} has no tensor token_embd.weight, or one without rows")
        config = ModelConfig(
            num_layers=fields.integer(key("block_count")),
            d_model=d_model,
            num_heads=num_heads,
            num_kv_heads=fields.integer(key("attention.head_count_kv"), num_heads),
            head_dim=head_dim,
            d_ff=fields.integer(key("feed_forward_length")),
            vocab_size=vocab_size,
            rope_theta=_shortest(fields.number(key("rope.freq_base"), 10_000.0, above=1.0)),
            norm_eps=_shortest(fields.number(key("attention.layer_norm_rms_epsilon"))),
            max_len=fields.integer(key("context_length")),
            qkv_bias=self._architecture == "qwen2",
            qk_norm=self._architecture == "qwen3",
            tied_embeddings="lm_head.weight" not in self._tensors,
        )
        return replace(config, rope_scaling=self._rope_scaling(config))

    def _key(self, name: str) -> str:
        """The metadata's full name, which starts with the architecture."""
        return f"{self._architecture}.{name}"

    def _refuse_unsupported(self) -> None:
        supported = {
            "expert_count": 0,
            "attention.sliding_window": 0,  # the file does not say which layers have it
            "rope.scaling.attn_factor": 1.0,
            "rope.scaling.yarn_attn_factor": 1.0,
            "rope.scaling.yarn_log_multiplier": 0.0,
        }
        for name, only in supported.items():
            if self.fields.values.get(self._key(name), only) != only:
                raise self.fields.error(self._key(name), f"is not supported; only {only} is")

    def _rope_scaling(self, config: ModelConfig) -> RopeScaling | None:
        fields, key = self.fields, self._key
        kind = fields.text(key("rope.scaling.type"), "none")
        factor = fields.number(key("rope.scaling.factor"), fields.number(key("rope.scale_linear"), 1.0))
        if self._rope_freqs is not None:
            if kind != "none":
                raise ModelLoadError(f"{self.path} has both {_ROPE_FREQS} and RoPE scaling {kind!r}; one must go")
            return self._llama3_scaling(np.asarray(self._rope_freqs.data, np.float32), config)
        if kind == "yarn":
            return RopeScaling(
                kind,
                factor=factor,
                original_max_len=fields.integer(key("rope.scaling.original_context_length"), config.max_len),
                beta_fast=fields.number(key("rope.scaling.yarn_beta_fast"), 32.0),
                beta_slow=fields.number(key("rope.scaling.yarn_beta_slow"), 1.0),
                attention_factor=yarn_attention_factor(factor),
            )
        if kind not in ("none", "linear"):
            raise fields.error(key("rope.scaling.type"), "is not supported; use linear, yarn or none")
        return RopeScaling("linear", factor=factor) if factor != 1.0 else None

    def _llama3_scaling(self, divisors: np.ndarray, config: ModelConfig) -> RopeScaling | None:
        """The scaling whose divisors of the frequencies `rope_freqs.weight` holds, if it is Llama 3's, else an error.

        The file keeps the divisors but not the parameters they came from. Every released Llama 3.1-3.3 uses low and
        high frequency factors 1 and 4 over an original length of 8192, so only those are tried, and checked.
        """
        if divisors.size and np.all(divisors == 1):
            return None
        plain = inverse_frequencies(config)
        if divisors.shape == plain.shape and np.isfinite(divisors).all() and divisors.min() > 0:
            scaling = RopeScaling("llama3", factor=_shortest(float(divisors.max())), original_max_len=8192)
            scaled = inverse_frequencies(replace(config, rope_scaling=scaling))
            if np.allclose(plain / divisors, scaled, rtol=1e-4, atol=0):
                return scaling
        raise ModelLoadError(
            f"{self.path}: {_ROPE_FREQS} is not Llama 3's scaling (factors 1 and 4 over 8192 tokens); load the "
            "Hugging Face folder of this model instead"
        )


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
