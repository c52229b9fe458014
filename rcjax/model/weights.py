"""Weights from a Hugging Face folder (or any TensorSource) to the decoder's parameter tree, shard by shard."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from rcjax.model.config import ModelConfig
from rcjax.model.load_error import ModelLoadError

_NUM_NAMES_SHOWN = 8


@runtime_checkable
class TensorSource(Protocol):
    """A checkpoint's tensors by their Hugging Face names, read lazily and in part."""

    def names(self) -> Iterable[str]:
        """Every tensor's name; one without a Hugging Face name keeps its own."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape as Hugging Face stores it: linear layers are [out, in]."""
        ...

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """The part of a tensor that `index` selects: one unit-step slice per axis, with start and stop.

        A slice of the rows of q_proj or k_proj starts and stops at a head.
        """
        ...


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """Where a parameter comes from.

    `stored` names the axes of the tensor, spaces between them, in the letters of ModelConfig's docstring ("NH D": heads
    times head_dim by d_model); `param` names the axes of the parameter, without the layer axis.
    """

    name: str
    stored: str
    param: str


_OUTER = {
    "embed": TensorLayout("model.embed_tokens.weight", "V D", "VD"),
    "final_norm": TensorLayout("model.norm.weight", "D", "D"),
    "lm_head": TensorLayout("lm_head.weight", "V D", "DV"),
}
_LAYER = {
    "attn_norm": TensorLayout("input_layernorm.weight", "D", "D"),
    "mlp_norm": TensorLayout("post_attention_layernorm.weight", "D", "D"),
    "q_proj": TensorLayout("self_attn.q_proj.weight", "NH D", "DNH"),
    "k_proj": TensorLayout("self_attn.k_proj.weight", "KH D", "DKH"),
    "v_proj": TensorLayout("self_attn.v_proj.weight", "KH D", "DKH"),
    "o_proj": TensorLayout("self_attn.o_proj.weight", "D NH", "NHD"),
    "gate_proj": TensorLayout("mlp.gate_proj.weight", "F D", "DF"),
    "up_proj": TensorLayout("mlp.up_proj.weight", "F D", "DF"),
    "down_proj": TensorLayout("mlp.down_proj.weight", "D F", "FD"),
}
_BIAS = {
    "q_bias": TensorLayout("self_attn.q_proj.bias", "NH", "NH"),
    "k_bias": TensorLayout("self_attn.k_proj.bias", "KH", "KH"),
    "v_bias": TensorLayout("self_attn.v_proj.bias", "KH", "KH"),
}
_QK_NORM = {
    "q_norm": TensorLayout("self_attn.q_norm.weight", "H", "H"),
    "k_norm": TensorLayout("self_attn.k_norm.weight", "H", "H"),
}


def load_params(
    config: ModelConfig,
    source: TensorSource,
    *,
    dtype: DTypeLike,
    shardings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Builds the decoder's parameter tree (docs: decoder.py), converting every tensor to `dtype`.

    `shardings` mirrors the tree with a jax.sharding.Sharding per parameter; None puts everything on the default device.
    Only the slices that this process's devices hold are read, one parameter at a time. Raises ModelLoadError naming
    tensors that are missing, unexpected or of another shape.
    """
    outer, layers = tensor_layouts(config)
    dims = _dims(config)
    _check_tensors(config, source, outer, layers, dims)
    loader = _Loader(source, dims, np.dtype(dtype), SingleDeviceSharding(jax.devices()[0]))
    of_layers = (shardings or {}).get("layers", {})
    params: dict[str, Any] = {
        key: loader.load(layout, None, (shardings or {}).get(key)) for key, layout in outer.items()
    }
    params["layers"] = {
        key: loader.load(layout, config.num_layers, of_layers.get(key)) for key, layout in layers.items()
    }
    return params


def _dims(config: ModelConfig) -> dict[str, int]:
    return {
        "V": config.vocab_size,
        "D": config.d_model,
        "N": config.num_heads,
        "K": config.num_kv_heads,
        "H": config.head_dim,
        "F": config.d_ff,
    }


def tensor_layouts(config: ModelConfig) -> tuple[dict[str, TensorLayout], dict[str, TensorLayout]]:
    """Where the parameters outside the layers, and those of one layer, are stored."""
    outer = {key: layout for key, layout in _OUTER.items() if key != "lm_head" or not config.tied_embeddings}
    return outer, _LAYER | (_BIAS if config.qkv_bias else {}) | (_QK_NORM if config.qk_norm else {})


def layer_name(layer: int, name: str) -> str:
    return f"model.layers.{layer}.{name}"


def _check_tensors(
    config: ModelConfig,
    source: TensorSource,
    outer: Mapping[str, TensorLayout],
    layers: Mapping[str, TensorLayout],
    dims: Mapping[str, int],
) -> None:
    expected = {layout.name: layout for layout in outer.values()} | {
        layer_name(layer, layout.name): layout for layer in range(config.num_layers) for layout in layers.values()
    }
    found = {name for name in source.names() if not _is_harmless(name, config)}
    problems = []
    if missing := sorted(expected.keys() - found):
        problems.append(f"missing {_some(missing)}")
    if unexpected := sorted(found - expected.keys()):
        problems.append(f"unexpected {_some(unexpected)}")
    for name in sorted(expected.keys() & found):
        shape = tuple(int(np.prod([dims[axis] for axis in stored])) for stored in expected[name].stored.split())
        if source.shape(name) != shape:
            problems.append(f"{name} has shape {source.shape(name)}, the config says {shape}")
    if problems:
        raise ModelLoadError("the checkpoint's tensors do not fit its config: " + "; ".join(problems))


def _is_harmless(name: str, config: ModelConfig) -> bool:
    """Old checkpoints store RoPE's frequencies, which the config determines; tied ones may repeat the embedding."""
    return name.endswith("rotary_emb.inv_freq") or (config.tied_embeddings and name == "lm_head.weight")


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_NUM_NAMES_SHOWN])
    hidden = len(names) - _NUM_NAMES_SHOWN
    return f"{shown} and {hidden} more" if hidden > 0 else shown


@dataclass(frozen=True, slots=True)
class _Loader:
    source: TensorSource
    dims: Mapping[str, int]
    dtype: np.dtype
    default_sharding: Sharding

    def load(self, layout: TensorLayout, num_layers: int | None, sharding: Sharding | None) -> jax.Array:
        """One parameter, stacked over layers unless `num_layers` is None."""
        shape = tuple(self.dims[axis] for axis in layout.param)
        if num_layers is not None:
            shape = (num_layers, *shape)
        shards: dict[tuple[tuple[int, int], ...], np.ndarray] = {}  # replicas share one host copy

        def read_shard(index: tuple[slice, ...] | None) -> np.ndarray:
            bounds = tuple(part.indices(size)[:2] for part, size in zip(index or (), shape, strict=True))
            if bounds not in shards:
                shards[bounds] = self._read(layout, num_layers, tuple(slice(*bound) for bound in bounds))
            return shards[bounds]

        return jax.make_array_from_callback(shape, sharding or self.default_sharding, read_shard, self.dtype)

    def _read(self, layout: TensorLayout, num_layers: int | None, index: tuple[slice, ...]) -> np.ndarray:
        out = np.empty([part.stop - part.start for part in index], self.dtype)
        if num_layers is None:
            out[...] = self._read_tensor(layout, layout.name, index)
            return out
        for i, layer in enumerate(range(index[0].start, index[0].stop)):
            out[i] = self._read_tensor(layout, layer_name(layer, layout.name), index[1:])
        return out

    def _read_tensor(self, layout: TensorLayout, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """The part of one tensor that `index`, in the parameter's axes, selects, in the parameter's axes."""
        wanted = dict(zip(layout.param, index, strict=True))
        stored_index, split_shape, split_index = [], [], []
        for stored in layout.stored.split():
            outer, inner = wanted[stored[0]], stored[1:]
            num_inner = self.dims[inner] if inner else 1
            stored_index.append(slice(outer.start * num_inner, outer.stop * num_inner))
            split_shape += [outer.stop - outer.start, *(self.dims[axis] for axis in inner)]
            split_index += [slice(None), *(wanted[axis] for axis in inner)]
        tensor = self.source.read(name, tuple(stored_index)).reshape(split_shape)[tuple(split_index)]
        axes = layout.stored.replace(" ", "")
        return tensor.transpose([axes.index(axis) for axis in layout.param])


class SafetensorsFolder:
    """The tensors of model.safetensors, or of the shards that model.safetensors.index.json lists."""

    def __init__(self, folder: Path):
        self.files = _weight_files(folder)
        self._slices: dict[str, Any] = {}
        for file in self.files:
            try:
                handle: Any = safe_open(file, framework="numpy")
            except (OSError, SafetensorError) as error:
                raise ModelLoadError(f"cannot read {file}: {error}") from error
            self._slices |= {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118

    def names(self) -> Iterable[str]:
        return self._slices.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slices[name].get_shape())

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        stored = self._slices[name].get_dtype()
        if stored not in ("F32", "F16", "BF16", "F64"):
            raise ModelLoadError(f"{name} is stored as {stored}; use a checkpoint in F32, F16 or BF16")
        tensor: np.ndarray = self._slices[name][index]
        return tensor


def _weight_files(folder: Path) -> list[Path]:
    single, index_file = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.exists():
        return [single]
    if not index_file.exists():
        raise ModelLoadError(
            f"{folder} holds neither model.safetensors nor model.safetensors.index.json; save the model with "
            "save_pretrained(..., safe_serialization=True)"
        )
    names = sorted(set(json.loads(index_file.read_text("utf-8"))["weight_map"].values()))
    for name in names:
        if not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise ModelLoadError(f"{index_file} names {name!r}, which is no safetensors file beside it")
        if not (folder / name).exists():
            raise ModelLoadError(f"{index_file} names {name}, which is missing")
    return [folder / name for name in names]


def fingerprint(config: ModelConfig, dtype: DTypeLike, files: Iterable[Path]) -> str:
    """SHA-256 (hex) that changes with the config, the parameters' dtype or any byte of the weight files."""
    digest = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    digest.update(np.dtype(dtype).name.encode())
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
