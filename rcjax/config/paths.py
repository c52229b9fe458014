"""Paths in a configuration file."""

from pathlib import Path


def in_folder(folder: Path, path: Path, field: str) -> Path:
    """The absolute path that `path` means in a file of `folder`: relative ones start there, `~` is a home directory.

    ValueError names `field` where the home directory is not known.
    """
    try:
        return (folder / path.expanduser()).absolute()
    except RuntimeError as error:
        problem = "its home directory is not known; write the path without ~"
        raise ValueError(f"{field}: {str(path)!r}: {problem}") from error
