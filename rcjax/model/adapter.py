"""LoRA adapters in PEFT's layout, added to a checkpoint's weights as these are read (Hu et al., arXiv 2106.09685)."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from rcjax.model.adapter_config import FILE as CONFIG_FILE
from rcjax.model.adapter_config import read_adapter_config
from rcjax.model.adapter_origin import FILE as ORIGIN_FILE
from rcjax.model.adapter_origin import AdapterOrigin, read_origin
from rcjax.model.config import ModelConfig
from rcjax.model.fingerprint import digest_of
from rcjax.model.hub import hub_folder
from rcjax.model.load_error import ModelLoadError
from rcjax.model.location import expanded, is_hub_id, shipped_adapters
from rcjax.model.safetensors_folder import SafetensorsFolder
from rcjax.model.weights import TensorSource, projections, some
from rcjax.prompt import Layout, Scoring
from rcjax.prompt.template import Template

STEM = "adapter_model"
PREFIX = "base_model.model."  # of PEFT's names, before those of the base model


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """A LoRA adapter that fits a config; its tensors stay in their file and are read in part.

    `scales` has what each product B A is multiplied by, by the name of the tensor that it is added to. `digest` changes
    with any byte of the files that the weights depend on.
    """

    name: str
    scales: Mapping[str, float]
    tensors: SafetensorsFolder
    digest: bytes
    origin: AdapterOrigin | None = None

    @property
    def rank(self) -> int:
        """The largest of its ranks."""
        return max(self.tensors.shape(factor_names(name)[0])[0] for name in self.scales)

    def factors(
        self, name: str, rows: slice, columns: slice
    ) -> tuple[Float[np.ndarray, "r in"], Float[np.ndarray, "out r"]]:
        """A and B, both unscaled, of the columns and rows of a changed tensor."""
        a, b = factor_names(name)
        whole = slice(0, self.tensors.shape(a)[0])
        down, up = self.tensors.read(a, (whole, columns)), self.tensors.read(b, (rows, whole))
        return down.astype(np.float32), up.astype(np.float32)

    def mismatches(self, template: Template, arms: Collection[tuple[Layout, Scoring]], base: str) -> list[str]:
        """As the origin's, with the adapter's name; none where the adapter does not say what it was trained for."""
        found = [] if self.origin is None else self.origin.mismatches(template, arms, base)
        return [f"adapter {self.name!r} {line}" for line in found]


class AdaptedSource:
    """A TensorSource that gives W + scale B A in the place of W, summed in float32."""

    def __init__(self, source: TensorSource, adapter: Adapter):
        self.file = source.file
        self._source = source
        self._adapter = adapter

    def names(self) -> Iterable[str]:
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        weight = self._source.read(name, index)
        if name not in self._adapter.scales:
            return weight
        down, up = self._adapter.factors(name, *index)
        summed: np.ndarray = (np.float32(self._adapter.scales[name]) * up) @ down
        summed += weight
        return summed


def factor_names(name: str) -> tuple[str, str]:
    """PEFT's names of A [r, in] and B [out, r], whose product changes the base model's tensor `name`."""
    module = PREFIX + _module(name)
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def load_adapter(spec: str, config: ModelConfig) -> Adapter:
    """An adapter of models with this config: a folder, a Hub id, or the name of a shipped one.

    Raises ModelLoadError naming file and field, or tensor, where it does not fit or is more than plain LoRA.
    """
    folder, name = _found(spec)
    origin = read_origin(folder)
    config = first_layers(config, origin)
    said = read_adapter_config(folder)
    tensors = SafetensorsFolder(folder, STEM)
    shapes = {tensor: shape for tensor, shape in projections(config).items() if said.is_target(_module(tensor))}
    if not shapes:
        raise ModelLoadError(
            f"{folder / CONFIG_FILE}: target_modules names no projection of this model; they are "
            f"{', '.join(sorted({_module(tensor).split('.')[-1] for tensor in projections(config)}))}"
        )
    _check_tensors(tensors, shapes, {tensor: said.rank_of(_module(tensor)) for tensor in shapes})
    return Adapter(
        name=name,
        scales={tensor: said.scale_of(_module(tensor)) for tensor in shapes},
        tensors=tensors,
        digest=digest_of([folder / CONFIG_FILE, *tensors.files]),
        origin=origin,
    )


def origin_of(spec: str) -> AdapterOrigin | None:
    """What the adapter that a spec names was trained for, where it says so; ModelLoadError where there is none."""
    return read_origin(_found(spec)[0])


def first_layers(config: ModelConfig, origin: AdapterOrigin | None) -> ModelConfig:
    """What is left of a base under an adapter that was trained on its first layers alone.

    ModelLoadError where the base has fewer.
    """
    if origin is None or origin.num_layers == config.num_layers:
        return config
    if origin.num_layers > config.num_layers:
        raise ModelLoadError(
            f"{ORIGIN_FILE}: the adapter is for a base of {origin.num_layers} layers; this one has {config.num_layers}"
        )
    return replace(config, num_layers=origin.num_layers)


def _found(spec: str) -> tuple[Path, str]:
    """The folder that a spec means, and the adapter's name."""
    if (shipped := shipped_adapters().get(spec)) is not None:
        return shipped, spec
    path = expanded(spec, "adapter")
    if path.is_dir():
        return path, path.resolve().name
    if is_hub_id(spec):
        files = [CONFIG_FILE, ORIGIN_FILE, f"{STEM}*.safetensors", f"{STEM}*.json"]
        return hub_folder(spec, files, what="adapter", offline="a local folder"), spec
    names = ", ".join(shipped_adapters()) or "there is none"
    raise ModelLoadError(
        f"adapter {spec!r} is no existing folder; give a folder, a Hub id ORG/NAME, or the name of a shipped adapter "
        f"({names})"
    )


def _check_tensors(tensors: SafetensorsFolder, shapes: Mapping[str, tuple[int, ...]], ranks: Mapping[str, int]) -> None:
    """Refuses an adapter whose tensors are not A and B of each of `shapes`."""
    expected: dict[str, tuple[int, ...]] = {}
    for name, (rows, columns) in shapes.items():
        a, b = factor_names(name)
        expected |= {a: (ranks[name], columns), b: (rows, ranks[name])}
    found = set(tensors.names())
    problems = []
    if missing := sorted(expected.keys() - found):
        problems.append(f"missing {some(missing)}")
    if unexpected := sorted(found - expected.keys()):
        problems.append(f"unexpected {some(unexpected)}")
    misshapen = [
        f"{name} has shape {tensors.shape(name)}, rank and base say {shape}"
        for name, shape in sorted(expected.items())
        if name in found and tensors.shape(name) != shape
    ]
    if misshapen:
        problems.append(some(misshapen))
    if problems:
        raise ModelLoadError(
            f"{tensors.file}: the adapter does not fit its {CONFIG_FILE} and this base: " + "; ".join(problems)
        )
