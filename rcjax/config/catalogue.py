"""Settings of where items, users and requests come from, and the catalogue that they name."""

from pathlib import Path
from typing import cast, get_args

from pydantic import Field

from rcjax.catalog import Catalogue, CataloguePaths, Format, embedded_catalogue, load_catalogue
from rcjax.config.strict import StrictModel

_PATH_KEYS = ("items", "events", "users", "requests")


class CatalogueSettings(StrictModel):
    """Where items, users and requests come from: `embedded`, or a format of `rcjax.catalog` and its files."""

    format: str = "embedded"
    paths: dict[str, Path] = Field(default_factory=dict)
    seed: int = 0


def read_catalogue(settings: CatalogueSettings, *, progress: bool = True) -> Catalogue:
    """The catalogue that settings name: the embedded shop, a folder, or files by name; ValueError on bad ones."""
    if settings.format == "embedded":
        return embedded_catalogue(settings.seed)
    if settings.format not in get_args(Format):
        known = ", ".join(("embedded", *get_args(Format)))
        raise ValueError(f"catalogue.format={settings.format!r} is unknown; choose one of {known}")
    paths = settings.paths
    if set(paths) != {"folder"} and ("items" not in paths or not set(paths) <= set(_PATH_KEYS)):
        raise ValueError(f"catalogue.paths has {sorted(paths)}; give `folder`, or `items` and any of {_PATH_KEYS[1:]}")
    source = paths["folder"] if "folder" in paths else CataloguePaths(**paths)
    return load_catalogue(source, cast(Format, settings.format), progress=progress)[0]
