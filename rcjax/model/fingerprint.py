"""What identifies weights: two of one fingerprint are the same model."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jax.typing import DTypeLike

from rcjax.model.config import ModelConfig


def digest_of(files: Iterable[Path]) -> bytes:
    """The SHA-256 of each file, one after another."""
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").digest())
    return b"".join(digests)


def fingerprint(config: ModelConfig, dtype: DTypeLike | None, digest: bytes) -> str:
    """SHA-256 (hex) that changes with the config, the parameters' dtype or any byte of the files that `digest` is of.

    Without a dtype it is that of the checkpoint, whatever it is loaded as.
    """
    hashed = hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode())
    if dtype is not None:
        hashed.update(np.dtype(dtype).name.encode())
    hashed.update(digest)
    return hashed.hexdigest()
