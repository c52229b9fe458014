"""Content keys: what a block's KV depends on, as 32 bytes.

A key covers everything that decides the bytes of the KV (model, tokenizer, template, storage, the block
before it, the tokens), so changed content has another key and stale KV cannot be found under the new one.

The owner is in the key on purpose, although it does not change the KV. Were it left out, a user whose history
equals another user's would hit that one's block, and the faster answer would tell them so: a timing side
channel on what others did. The same holds for items, so that inline text cannot be used to ask whether some
other item has it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Int32, Integer

TokenIds: TypeAlias = Sequence[int] | Integer[np.ndarray, "S"]

_FORMAT = b"rcjax.block.1"  # change it with the framing: keys outlive a process in snapshots
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, slots=True)
class PoolIdentity:
    """What all blocks of one pool have in common; KV of another identity is of no use here.

    `model_fingerprint` covers config and weights, `kv_dtype` is a NumPy dtype name (`"bfloat16"`).
    """

    model_fingerprint: str
    tokenizer_fingerprint: str
    template_version: str
    kv_dtype: str
    page_tokens: int


def as_token_ids(token_ids: TokenIds) -> Int32[np.ndarray, "S"]:
    """A read-only int32 copy of `token_ids`; ValueError for what is not a flat row of integers that fit."""
    # An empty list has no integers to take a dtype from.
    given = np.asarray(token_ids) if len(token_ids) else np.zeros(0, np.int32)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ValueError(f"token ids must be a flat row of integers, got {given.dtype} of shape {given.shape}")
    if given.size and (given.min() < _INT32.min or given.max() > _INT32.max):
        raise ValueError(f"token ids must fit int32, got {given.min()}..{given.max()}")
    ids = np.array(given, dtype=np.int32)
    ids.flags.writeable = False
    return ids


def block_key(
    identity: PoolIdentity,
    kind: str,
    owner: str,
    parent: bytes,
    token_ids: TokenIds,
) -> bytes:
    """The SHA-256 over all that a block's KV depends on, and over its owner.

    `owner` is an item's or a user's id (`""` for the instruction); `parent` is the key of the block that the
    KV was computed after: the instruction's, or `b""` for the instruction itself. Every field is preceded by
    its length in bytes (8, little-endian), so the framing is injective and fields cannot run into each other.
    Token ids are hashed as little-endian int32.
    """
    fields = (
        _FORMAT,
        identity.model_fingerprint.encode(),
        identity.tokenizer_fingerprint.encode(),
        identity.template_version.encode(),
        identity.kv_dtype.encode(),
        identity.page_tokens.to_bytes(8, "little"),
        kind.encode(),
        owner.encode(),
        parent,
        as_token_ids(token_ids).astype("<i4").tobytes(),
    )
    digest = hashlib.sha256()
    for field in fields:
        digest.update(len(field).to_bytes(8, "little"))
        digest.update(field)
    return digest.digest()
