"""Where a model or an adapter is: what the text means that names one."""

import re
from importlib import resources
from pathlib import Path

from rcjax.model.load_error import ModelLoadError

PACKAGE = "package:"
SHIPPED = Path(str(resources.files("rcjax") / "adapters"))


def is_hub_id(spec: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", spec) is not None


def expanded(spec: str, what: str = "model") -> Path:
    """A spec as a path, `~` expanded; ModelLoadError where the home directory is not known."""
    try:
        return Path(spec).expanduser()
    except RuntimeError as error:  # ~ of a user who has no home
        raise ModelLoadError(f"{what} {spec!r}: {error}; give the whole path") from error


def located(spec: str, folder: Path) -> str:
    """The model that a configuration file of `folder` means: a path that starts there becomes absolute.

    `package:NAME` stays, and so does `ORG/NAME` unless there is such a folder. Where there is one in the working
    directory instead, either could be meant: ModelLoadError says how to write which.
    """
    if spec.startswith(PACKAGE):
        return spec
    if expanded(spec).suffix == ".gguf":
        return str((folder / expanded(spec)).absolute())
    return _located(spec, folder, "model")


def located_adapter(spec: str, folder: Path) -> str:
    """The adapter that a configuration file of `folder` means: the name of a shipped one stays, else as `located`."""
    return spec if spec in shipped_adapters() else _located(spec, folder, "adapter")


def shipped_adapters() -> dict[str, Path]:
    """The folders of the adapters that come with rcjax, by name."""
    if not SHIPPED.is_dir():
        return {}
    return {path.name: path for path in sorted(SHIPPED.iterdir()) if (path / "adapter_config.json").exists()}


def _located(spec: str, folder: Path, what: str) -> str:
    path = expanded(spec, what)
    there = (folder / path).absolute()
    if not is_hub_id(spec) or there.is_dir():
        return str(there)
    if path.is_dir():
        raise ModelLoadError(
            f"{what} {spec!r} is no folder beside the configuration ({there}), and may be meant as a Hub id; for the "
            f"one in the working directory write {str(path.absolute())!r}"
        )
    return spec
