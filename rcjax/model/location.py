"""Where a model is: what the text means that names one."""

import re
from pathlib import Path

from rcjax.model.load_error import ModelLoadError

PACKAGE = "package:"


def is_hub_id(spec: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", spec) is not None


def expanded(spec: str) -> Path:
    """A spec as a path, `~` expanded; ModelLoadError where the home directory is not known."""
    try:
        return Path(spec).expanduser()
    except RuntimeError as error:  # ~ of a user who has no home
        raise ModelLoadError(f"model {spec!r}: {error}; give the whole path") from error


def located(spec: str, folder: Path) -> str:
    """The spec that a configuration file of `folder` means: a path that starts there becomes absolute.

    `package:NAME` stays, and so does `ORG/NAME` unless there is such a folder. Where there is one in the working
    directory instead, either could be meant: ModelLoadError says how to write which.
    """
    if spec.startswith(PACKAGE):
        return spec
    path = expanded(spec)
    there = (folder / path).absolute()
    if not is_hub_id(spec) or there.suffix == ".gguf" or there.is_dir():
        return str(there)
    if path.is_dir():
        raise ModelLoadError(
            f"model {spec!r} is no folder beside the configuration ({there}), and may be meant as a Hub id; for the "
            f"one in the working directory write {str(path.absolute())!r}"
        )
    return spec
