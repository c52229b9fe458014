"""A semantic pool as one file: a NumPy `.npz`, whose CRC finds damaged bytes."""

import json
import os
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np

from rcjax.cache.semantic.embedding import TokenEmbedding
from rcjax.cache.semantic.fields import InstanceFields
from rcjax.cache.semantic.pool import Prototypes, SemanticPool

_FORMAT = "rcjax.semantic.1"  # change it with the content: files outlive a process
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)  # which npz does not know: stored as its bits


def save_pool(pool: SemanticPool, path: Path) -> None:
    """Writes the pool, replacing `path` in one step; whoever can read the file can read traces of sampled histories."""
    prototypes, embedding = pool.prototypes, pool.embedding
    header = {
        "format": _FORMAT,
        "instruction_key": pool.instruction_key.hex(),
        "start": pool.start,
        "kv_dtype": prototypes.k.dtype.name,
        "max_position": embedding.max_position,
        "position_weight": embedding.position_weight,
        "context_weight": embedding.context_weight,
    }
    new = path.with_name(path.name + ".new")
    try:
        with new.open("wb") as file:
            np.savez(
                file,
                header=np.array(json.dumps(header)),
                embedding=embedding.tokens,
                token_ids=prototypes.token_ids,
                surroundings=prototypes.surroundings,
                k=_storable(prototypes.k),
                v=_storable(prototypes.v),
            )
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def load_pool(path: Path, fields: InstanceFields, instruction_key: bytes) -> SemanticPool:
    """Reads a pool; ValueError where the file is damaged or its KV was computed after another instruction."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is missing or no semantic pool; build one")
    try:
        with np.load(path, allow_pickle=False) as stored:
            header = json.loads(str(stored["header"]))
            if header["format"] != _FORMAT:
                raise ValueError(
                    f"{path} has format {header['format']!r}, this version reads {_FORMAT!r}; build it anew"
                )
            if header["instruction_key"] != instruction_key.hex():
                raise ValueError(
                    f"{path} was built after instruction {header['instruction_key'][:12]}, here it is "
                    f"{instruction_key.hex()[:12]}: model, tokenizer, template or KV dtype differ; build it anew"
                )
            dtype = np.dtype(_BFLOAT16 if header["kv_dtype"] == _BFLOAT16.name else header["kv_dtype"])
            k, v = stored["k"].view(dtype), stored["v"].view(dtype)
            prototypes = Prototypes(stored["token_ids"], stored["surroundings"], k, v)
            embedding = TokenEmbedding(
                stored["embedding"], header["max_position"], header["position_weight"], header["context_weight"]
            )
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ValueError(f"{path} is damaged or no semantic pool ({error}); build it anew") from error
    return SemanticPool(prototypes, embedding, fields, instruction_key, header["start"])


def _storable(kv: np.ndarray) -> np.ndarray:
    return kv.view(np.uint16) if kv.dtype == _BFLOAT16 else kv
