"""Files of a repository on the Hugging Face Hub."""

from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from rcjax.model.fields import first_line
from rcjax.model.load_error import ModelLoadError


def hub_folder(repo_id: str, files: Sequence[str], *, what: str, offline: str) -> Path:
    """A folder with the files that fit these patterns; ModelLoadError says what to give `offline`."""
    try:
        return Path(huggingface_hub.snapshot_download(repo_id, allow_patterns=list(files)))
    except (OSError, EntryNotFoundError, HFValidationError) as error:
        raise ModelLoadError(
            f"cannot get {what} {repo_id!r} from the Hugging Face Hub: {first_line(error)}. Offline, give {offline}"
        ) from error
