"""Segments: blocks whose KV lies in one value, one after another, and an index that says which and where.

    segments/<name>         the KV, block by block, as `pages_to_bytes` gives it
    segments/<name>.index   a `SegmentIndex`

Neither is ever changed: a block that is not wanted any more stays until no snapshot has any use for the segment.
"""

import base64
import hashlib
import uuid
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int32
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from rcjax.cache.saved import digest_of_bytes, pages_to_bytes
from rcjax.kernels.kv import KVPages
from rcjax.prompt import Owner

PREFIX = "segments/"


class SavedBlock(BaseModel):
    """A block: its KV is the `num_bytes` from byte `at` of its segment on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    kind: str
    owner: Owner
    tokens: str  # as little-endian int32, in base64
    at: NonNegativeInt
    num_bytes: PositiveInt
    num_pages: PositiveInt
    digest: str  # of key and KV, all pages of it: see `digest_of_bytes`

    @property
    def token_ids(self) -> Int32[np.ndarray, "S"]:
        return np.frombuffer(base64.b64decode(self.tokens), "<i4").astype(np.int32)

    def __str__(self) -> str:
        return f"{self.kind} {self.owner}"


class SegmentIndex(BaseModel):
    """The blocks of a segment, in the order in which they lie there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocks: list[SavedBlock]


def kv_name(segment: str) -> str:
    return f"{PREFIX}{segment}"


def index_name(segment: str) -> str:
    return f"{PREFIX}{segment}.index"


def digest_of(value: bytes) -> str:
    """The SHA-256 of an index or another value, as hex."""
    return hashlib.sha256(value).hexdigest()


@dataclass(eq=False)
class SegmentBuilder:
    """A segment that is being filled, in memory."""

    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    blocks: list[SavedBlock] = field(default_factory=list)
    num_bytes: int = 0
    _values: list[bytes] = field(default_factory=list)

    def add(self, key: bytes, kind: str, owner: Owner, token_ids: Int32[np.ndarray, "S"], pages: KVPages) -> None:
        """Takes in a block; what its last page holds after it is set to zero in `pages`."""
        last_len = len(token_ids) - (pages.num_pages - 1) * pages.page_tokens
        # The slots after a block's end still have what they held before, perhaps a deleted user's KV.
        for array in (pages.k, pages.v, pages.k_scale, pages.v_scale):
            if array is not None:
                array[:, -1, last_len:] = 0
        value = pages_to_bytes(pages)
        self.blocks.append(
            SavedBlock(
                key=key.hex(),
                kind=kind,
                owner=owner,
                tokens=base64.b64encode(token_ids.astype("<i4", copy=False).tobytes()).decode(),
                at=self.num_bytes,
                num_bytes=len(value),
                num_pages=pages.num_pages,
                digest=digest_of_bytes(key, [value]),
            )
        )
        self._values.append(value)
        self.num_bytes += len(value)

    def kv(self) -> bytes:
        return b"".join(self._values)

    def index(self) -> bytes:
        return SegmentIndex(blocks=self.blocks).model_dump_json().encode()
