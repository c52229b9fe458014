"""Weights of any TensorSource to the decoder's parameter tree, shard by shard."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from jax.typing import DTypeLike

from rcjax.model.config import ModelConfig
from rcjax.model.load_error import ModelLoadError
from rcjax.model.rope import inverse_frequencies

_NUM_NAMES_SHOWN = 8
_EMBEDDING, _HEAD = "model.embed_tokens.weight", "lm_head.weight"
_ROWS_COMPARED = 4096


@runtime_checkable
class TensorSource(Protocol):
    """A checkpoint's tensors by their Hugging Face names, read lazily and in part; `file` is what errors name."""

    file: str

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
    "embed": TensorLayout(_EMBEDDING, "V D", "VD"),
    "final_norm": TensorLayout("model.norm.weight", "D", "D"),
    "lm_head": TensorLayout(_HEAD, "V D", "DV"),
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


class FirstLayers:
    """A TensorSource without the tensors of the layers after the first `num_layers`."""

    def __init__(self, source: TensorSource, num_layers: int):
        self.file = source.file
        self.shape = source.shape
        self.read = source.read
        self._source = source
        self._num_layers = num_layers

    def names(self) -> Iterable[str]:
        return (name for name in self._source.names() if not self._is_beyond(name))

    def _is_beyond(self, name: str) -> bool:
        layer = name.removeprefix("model.layers.").split(".")[0]
        return layer != name and layer.isdecimal() and int(layer) >= self._num_layers


def projections(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The names of the matrices in the layers, all linear maps, and the shape [out, in] of each."""
    _, layers = tensor_layouts(config)
    shapes = {
        layout.name: _stored_shape(layout, _dims(config)) for key, layout in layers.items() if key.endswith("_proj")
    }
    return {layer_name(i, name): shape for i in range(config.num_layers) for name, shape in shapes.items()}


def _stored_shape(layout: TensorLayout, dims: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(math.prod(dims[axis] for axis in stored) for stored in layout.stored.split())


def with_stored_head(config: ModelConfig, source: TensorSource) -> ModelConfig:
    """The config, untied where the checkpoint stores a head beside the embedding that has other values.

    A merged LoRA leaves such a head under `tie_word_embeddings: true`; transformers uses it, and so do we.
    """
    if not config.tied_embeddings or _HEAD not in source.names() or _is_repeated(source, _HEAD, _EMBEDDING):
        return config
    return replace(config, tied_embeddings=False)


def _check_tensors(
    config: ModelConfig,
    source: TensorSource,
    outer: Mapping[str, TensorLayout],
    layers: Mapping[str, TensorLayout],
    dims: Mapping[str, int],
) -> None:
    found = {name for name in source.names() if not _is_redundant(name, config, source)}
    if found and not any(name.startswith("model.") for name in found):
        raise ModelLoadError(
            f"{source.file}: tensors such as {min(found)} lack the prefix 'model.': an embedding model or another "
            "architecture, which has no head for tokens; use a checkpoint of ...ForCausalLM"
        )
    if config.num_layers > len(found):
        raise ModelLoadError(f"{source.file}: {len(found)} tensors cannot make the config's {config.num_layers} layers")
    expected = {layout.name: layout for layout in outer.values()} | {
        layer_name(layer, layout.name): layout for layer in range(config.num_layers) for layout in layers.values()
    }
    problems = []
    if missing := sorted(expected.keys() - found):
        problems.append(f"missing {some(missing)}")
    if unexpected := sorted(found - expected.keys()):
        problems.append(f"unexpected {some(unexpected)}")
    misshapen = []
    for name in sorted(expected.keys() & found):
        shape = _stored_shape(expected[name], dims)
        if source.shape(name) != shape:
            misshapen.append(f"{name} has shape {source.shape(name)}, the config says {shape}")
    if misshapen:
        problems.append(some(misshapen))
    if problems:
        raise ModelLoadError(f"{source.file}: the checkpoint's tensors do not fit its config: " + "; ".join(problems))


def _is_redundant(name: str, config: ModelConfig, source: TensorSource) -> bool:
    """Whether a tensor repeats what is known without it: RoPE's frequencies, or the embedding as a tied head.

    Raises ModelLoadError where it has that name and other values.
    """
    if name == _HEAD and config.tied_embeddings:
        if not _is_repeated(source, _HEAD, _EMBEDDING):
            raise ModelLoadError(
                f"{source.file}: {_HEAD} differs from {_EMBEDDING}, which the config ties it to; set "
                "tie_word_embeddings to false to use the head"
            )
        return True
    if not name.endswith("rotary_emb.inv_freq"):
        return False
    stored = _whole(source, name).astype(np.float32)
    for known in (inverse_frequencies(config), inverse_frequencies(replace(config, rope_scaling=None))):
        # Some files hold them in bfloat16, which keeps 8 bits.
        if stored.shape == known.shape and np.allclose(stored, known, rtol=2**-7, atol=1e-6):
            return True
    raise ModelLoadError(
        f"{source.file}: {name} holds other frequencies than the config's rope_theta={config.rope_theta:g} gives; "
        "correct the config, or remove the tensor where the config is right"
    )


def _is_repeated(source: TensorSource, name: str, other: str) -> bool:
    """Whether two matrices are equal; read in parts, as an embedding may take gigabytes."""
    if other not in source.names() or source.shape(name) != source.shape(other):
        return False
    rows, columns = source.shape(name)
    for start in range(0, rows, _ROWS_COMPARED):
        part = slice(start, min(start + _ROWS_COMPARED, rows)), slice(0, columns)
        if not np.array_equal(source.read(name, part), source.read(other, part)):
            return False
    return True


def _whole(source: TensorSource, name: str) -> np.ndarray:
    return source.read(name, tuple(slice(0, size) for size in source.shape(name)))


def some(names: list[str]) -> str:
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
