"""Settings of where items, users and requests come from, and the catalogue that they name."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import cast, get_args

from pydantic import Field

from rcjax.catalog import Catalogue, CataloguePaths, Columns, Format, OnError, embedded_catalogue, load_catalogue
from rcjax.config.paths import in_folder
from rcjax.config.strict import StrictModel

_PATH_KEYS = ("items", "events", "users", "requests")

logger = logging.getLogger(__name__)


class ColumnSettings(StrictModel):
    """The files' columns by our field, where they are called otherwise: `{item_id: asin, title: name}`.

    For the formats `parquet` and `recbole`. A field that is not named is read from the column of its usual name.
    """

    items: dict[str, str] = Field(default_factory=dict)
    """Of files of items: `item_id`, `title`, `description`, `brand`, `categories`, `price`."""
    events: dict[str, str] = Field(default_factory=dict)
    """Of files of events: `user_id`, `item_id`, `title`, `text`, `rating`, `timestamp_s`, `order`."""

    @property
    def named(self) -> Columns:
        return Columns(self.items, self.events)


class CatalogueSettings(StrictModel):
    """Where items, users and requests come from: `embedded`, or a format of `rcjax.catalog` and its files.

    `on_error` says what a record does that cannot be read: stop the load, or be left out and told of.
    """

    format: str = "embedded"
    """`embedded`, `jsonl`, `parquet`, `amazon2014`, `amazon2023`, `movielens`, `recbole` or `yelp`."""
    paths: dict[str, Path] = Field(default_factory=dict)
    """`folder`, or `items` and any of `events`, `users` and `requests`."""
    columns: ColumnSettings = ColumnSettings()
    on_error: OnError = "stop"
    seed: int = 0
    """Of the embedded shop, and of how users are split into train, validation and test."""

    def in_folder(self, folder: Path) -> "CatalogueSettings":
        """The same with absolute paths: relative ones start in `folder`, and `~` is a home directory.

        ValueError names a path whose home directory is not known.
        """
        paths = {name: in_folder(folder, path, f"catalogue.paths.{name}") for name, path in self.paths.items()}
        return self.model_copy(update={"paths": paths})


def read_catalogue(
    settings: CatalogueSettings, *, progress: bool = True, tell: Callable[[str], None] = logger.warning
) -> Catalogue:
    """The catalogue that settings name: the embedded shop, a folder, or files by name; ValueError on bad ones.

    `tell` gets a line for each thing that had to be left out.
    """
    columns = settings.columns.named
    if settings.format == "embedded":
        if columns:
            raise ValueError("catalogue.columns is for files, and the embedded shop has none; leave it out")
        return embedded_catalogue(settings.seed)
    if settings.format not in get_args(Format):
        known = ", ".join(("embedded", *get_args(Format)))
        raise ValueError(f"catalogue.format={settings.format!r} is unknown; choose one of {known}")
    paths = settings.paths
    if set(paths) != {"folder"} and ("items" not in paths or not set(paths) <= set(_PATH_KEYS)):
        raise ValueError(f"catalogue.paths has {sorted(paths)}; give `folder`, or `items` and any of {_PATH_KEYS[1:]}")
    source = paths["folder"] if "folder" in paths else CataloguePaths(**paths)
    format = cast(Format, settings.format)
    catalogue, report = load_catalogue(source, format, progress=progress, on_error=settings.on_error, columns=columns)
    for line in report.lines():
        tell(line)
    return catalogue
