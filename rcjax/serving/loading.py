"""The front door of a notebook: one call from a model and a catalogue to an engine that ranks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from rcjax.catalog import Catalogue
from rcjax.config import ArmSettings, Settings, load_settings, read_catalogue
from rcjax.serving.deployment import deploy
from rcjax.serving.local import LocalEngine
from rcjax.serving.progress import announced, noted
from rcjax.serving.startup import start_engine


def load(
    model: str | Path | None = None,
    *,
    catalogue: Catalogue | Path | str | None = None,
    config: Settings | Path | str | None = None,
    adapter: str | Path | None = None,
    template: Path | str | None = None,
    arms: Mapping[str, ArmSettings] | None = None,
    default_arm: str | None = None,
    put: bool = True,
    progress: bool = True,
) -> LocalEngine:
    """Starts an engine in this process and puts a catalogue into it: seconds to minutes, then each ranking is fast.

    `config` is a settings file or `Settings`; without it everything is embedded, model and shop. `model`, `adapter`,
    `template`, `arms` and `default_arm` (of new `arms` the first) replace what it says; `adapter=""` is none. So does
    `catalogue`: a `Catalogue`, or a folder, in the format that the settings name, else JSONL. The KV of all items and
    users is computed, unless `put` is False. `progress` shows bars, in a terminal and in a notebook (with the extra
    `notebook`).

    Close the engine, or use it in a `with`, before loading another: until then it holds its weights and pages.

    Example:

        >>> with load(catalogue=shop, progress=False) as engine:
        ...     (result,) = engine.recommend([request])
        >>> len(result.ranking) == len(request.candidates)
        True
    """
    if not isinstance(config, Settings):
        config = load_settings(None if config is None else Path(config))
    settings = config.with_weights(None if model is None else str(model), None if adapter is None else str(adapter))
    settings = _changed(settings, template, arms, default_arm)
    console = Console(quiet=not progress)
    if not put:
        if catalogue is not None:
            raise ValueError("with put=False the engine starts empty, and catalogue= would not be read; leave one out")
        with announced(console) as announce:
            return start_engine(settings, progress=announce)
    if isinstance(catalogue, Path | str):
        settings = _with_folder(settings, Path(catalogue))
    if not isinstance(catalogue, Catalogue):
        tell = {"tell": noted(console)} if progress else {}  # else it goes to the log
        catalogue = read_catalogue(settings.catalogue, progress=progress, **tell)
    return deploy(settings, catalogue, console)


def _changed(
    settings: Settings, template: Path | str | None, arms: Mapping[str, ArmSettings] | None, default_arm: str | None
) -> Settings:
    """The settings with what is given in the place of theirs."""
    changed: dict[str, Any] = {}
    if template is not None:
        changed["template"] = str(template)
    if arms is not None:
        changed["arms"] = dict(arms)
        default_arm = default_arm or next(iter(arms), None)
    if default_arm is not None:
        changed["default_arm"] = default_arm
    return Settings.model_validate({**dict(settings), **changed}) if changed else settings


def _with_folder(settings: Settings, folder: Path) -> Settings:
    """The settings with the catalogue of a folder."""
    named = settings.catalogue
    format = "jsonl" if named.format == "embedded" else named.format
    found = named.model_copy(update={"format": format, "paths": {"folder": folder.expanduser()}})
    return settings.model_copy(update={"catalogue": found})
