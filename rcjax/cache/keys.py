"""Content keys: what a block's KV depends on, as 32 bytes.

A key covers everything that decides the bytes of the KV (model, tokenizer, template, storage, the block
before it, the tokens), so changed content has another key and stale KV cannot be found under the new one.

The owner is in the key on purpose, although it does not change the KV. Were it left out, a user whose history
equals another user's would hit that one's block, and the faster answer would tell them so: a timing side
channel on what others did. The same holds for items, so that inline text cannot be used to ask whether some
other item has it, and for tenants, who may have the same items and users without learning it. A salt, where the
server has one, makes keys that nobody without it can compute.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Int32, Integer

from rcjax.prompt import NOBODY, BlockKind, Owner

TokenIds: TypeAlias = Sequence[int] | Integer[np.ndarray, "S"]

KEY_BYTES = 32

_FORMAT = b"rcjax.block.4"  # change it with the framing: keys outlive a process in snapshots
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, slots=True)
class PoolIdentity:
    """What all blocks of one pool have in common; KV of another identity is of no use here.

    `model_fingerprint` covers config and weights, `kv_dtype` is a NumPy dtype name (`"bfloat16"`).
    `key_salt` is a fingerprint of the salt of keys (`BlockKeys` fills it in), empty where there is none.
    """

    model_fingerprint: str
    tokenizer_fingerprint: str
    template_version: str
    kv_dtype: str
    page_tokens: int
    key_salt: str = ""


def as_token_ids(token_ids: TokenIds) -> Int32[np.ndarray, "S"]:
    """A read-only int32 copy of `token_ids`; ValueError for what is not a flat row of integers that fit."""
    # An empty list has no integers to take a dtype from.
    given = np.asarray(token_ids) if len(token_ids) else np.zeros(0, np.int32)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ValueError(f"token ids must be a flat row of integers, got {given.dtype} of shape {given.shape}")
    if given.dtype != np.int32 and given.size and (given.min() < _INT32.min or given.max() > _INT32.max):
        raise ValueError(f"token ids must fit int32, got {given.min()}..{given.max()}")
    ids = np.array(given, dtype=np.int32)
    ids.flags.writeable = False
    return ids


class BlockKeys:
    """Makes the keys of one pool's blocks. Any thread may use it.

    What all blocks have in common (the identity, the salt and the instruction) is hashed once, so a key costs the hash
    of its owner and tokens. `instruction` is the key of the instruction itself, after which all other blocks are
    computed. Of the salt, only its fingerprint can be read here, in `identity`.
    """

    def __init__(self, identity: PoolIdentity, instruction_ids: TokenIds, salt: bytes = b""):
        self.identity = replace(identity, key_salt=salt_fingerprint(salt))
        self._salted = hashlib.sha256(_framed((_FORMAT, salt)))
        self._hashed = {BlockKind.INSTRUCTION.value: self._prefix(b"", BlockKind.INSTRUCTION)}
        self.instruction = self.key(BlockKind.INSTRUCTION, NOBODY, as_token_ids(instruction_ids))

    def key(self, kind: str, owner: Owner, token_ids: Int32[np.ndarray, "S"]) -> bytes:
        """The SHA-256 over the salt, all that a block's KV depends on, and its owner: `NOBODY` for the instruction."""
        prefix = self._hashed.get(kind)
        if prefix is None:
            prefix = self._hashed[kind] = self._prefix(self.instruction, kind)
        return _finished(prefix, owner, token_ids)

    def _prefix(self, parent: bytes, kind: str) -> "hashlib._Hash":
        digest = self._salted.copy()
        digest.update(_framed(_common_fields(self.identity, parent, kind)))
        return digest


def salt_fingerprint(salt: bytes) -> str:
    """What tells two salts apart and nothing else of them; empty for no salt."""
    return hmac.new(salt, b"rcjax key salt", hashlib.sha256).hexdigest()[:16] if salt else ""


# The framing: every field is preceded by its length in bytes (8, little-endian), so fields cannot run into each other
# and two inputs have the same bytes only if they are the same. The order puts first what most blocks share. Token ids
# are hashed as little-endian int32. The parent is the key of the instruction, empty for the instruction itself.


def _common_fields(identity: PoolIdentity, parent: bytes, kind: str) -> tuple[bytes, ...]:
    return (
        identity.model_fingerprint.encode(),
        identity.tokenizer_fingerprint.encode(),
        identity.template_version.encode(),
        identity.kv_dtype.encode(),
        identity.page_tokens.to_bytes(8, "little"),
        parent,
        kind.encode(),
    )


def _finished(prefix: "hashlib._Hash", owner: Owner, token_ids: Int32[np.ndarray, "S"]) -> bytes:
    digest = prefix.copy()
    digest.update(_framed((*map(str.encode, owner), token_ids.astype("<i4", copy=False).tobytes())))
    return digest.digest()


def _framed(fields: Iterable[bytes]) -> bytes:
    return b"".join(part for field in fields for part in (len(field).to_bytes(8, "little"), field))
