"""The manifest of a snapshot: of which model it is, and which blocks of which segments are in it."""

import base64
from dataclasses import asdict
from typing import Literal

import numpy as np
from jaxtyping import Int32
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from rcjax.cache.keys import BlockKeys, PoolIdentity
from rcjax.cache.snapshot.segments import digest_of
from rcjax.cache.snapshot.store import SnapshotStore
from rcjax.errors import InvalidRequestError, NotFoundError
from rcjax.kernels.kv import QUANTISED_DTYPES, KVFormat

PREFIX = "snapshots/"
LAYOUT = "k, v, k_scale, v_scale of each block as [layers, pages, tokens, heads, head_dim], little-endian"


class SegmentUse(BaseModel):
    """A segment, and which of its blocks are in the snapshot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[0-9a-f]{32}$")
    num_bytes: NonNegativeInt
    digest: str  # of its index
    blocks: str  # rows of place in the index and rank, as little-endian int32, in base64; rank 0 is the hottest

    @staticmethod
    def of(name: str, num_bytes: int, digest: str, ranks: dict[int, int]) -> "SegmentUse":
        """`ranks` by place in the index."""
        rows = np.array(sorted(ranks.items()), "<i4").reshape(-1, 2)
        return SegmentUse(
            name=name, num_bytes=num_bytes, digest=digest, blocks=base64.b64encode(rows.tobytes()).decode()
        )

    @property
    def rows(self) -> Int32[np.ndarray, "N 2"]:
        return np.frombuffer(base64.b64decode(self.blocks), "<i4").astype(np.int32).reshape(-1, 2)


class RecordsPart(BaseModel):
    """A value of `rcjax.cache.snapshot.records`, which is named by its digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    num_records: PositiveInt
    num_bytes: PositiveInt  # uncompressed


class Manifest(BaseModel):
    """A snapshot. To write it is what makes it one, so it is written last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[5] = 5
    number: PositiveInt
    taken_at_s: float  # seconds since 1970
    identity: PoolIdentity
    instruction: str  # its key, which is in that of every block
    kv_shape: tuple[PositiveInt, PositiveInt, PositiveInt]  # layers, kv heads, head dim
    layout: str = LAYOUT
    segments: list[SegmentUse]
    items: list[RecordsPart]
    users: list[RecordsPart]
    orders: list[RecordsPart]

    def check_same(self, keys: BlockKeys, kv_format: KVFormat) -> None:
        """Raises `InvalidRequestError`, naming all that differs, where the KV is not what such a pool holds."""
        theirs, ours = self._fingerprints, fingerprints_of(keys, kv_format)
        different = [name for name in ours if ours[name] != theirs[name]]
        if different:
            # Whatever differs, the instruction's key does too: it is news only where it stands alone.
            names = [name for name in different if name != "instruction"] or different
            what = "; ".join(f"{name} is {theirs[name]!r} there and {ours[name]!r} here" for name in names)
            remedy = "save one from this set-up"
            if "kv_dtype" in different:
                remedy += f", or {_setting_of(self.identity.kv_dtype)} here"
            if "key_salt" in different:
                remedy += ", or set server.key_salt_file to the salt that it was saved with"
            raise InvalidRequestError(f"the snapshot's KV is of no use here: {what}; {remedy}")

    def is_same(self, keys: BlockKeys, kv_format: KVFormat) -> bool:
        return self._fingerprints == fingerprints_of(keys, kv_format)

    @property
    def _fingerprints(self) -> dict[str, object]:
        return asdict(self.identity) | {
            "kv_shape": self.kv_shape,
            "layout": self.layout,
            "instruction": self.instruction,
        }


def fingerprints_of(keys: BlockKeys, kv_format: KVFormat) -> dict[str, object]:
    """All that decides whether KV is of use to a pool, by name."""
    shape = (kv_format.num_layers, kv_format.num_kv_heads, kv_format.head_dim)
    return asdict(keys.identity) | {"kv_shape": shape, "layout": LAYOUT, "instruction": keys.instruction.hex()}


def numbers_in(store: SnapshotStore) -> list[int]:
    """Of the snapshots there, damaged or not, ascending."""
    names = [name.removeprefix(PREFIX).removesuffix(".json") for name in store.list(PREFIX)]
    return sorted(int(name) for name in names if name.isdecimal())


def manifest_name(number: int) -> str:
    return f"{PREFIX}{number:08d}.json"


def read_manifest(store: SnapshotStore, number: int | None = None) -> Manifest:
    """The newest, or the one of that number.

    `NotFoundError` where there is none, `InvalidRequestError` where it cannot be used.
    """
    numbers = numbers_in(store)
    if not numbers:
        raise NotFoundError(f"there is no snapshot in {store}; save one first")
    if number is not None and number not in numbers:
        there = ", ".join(map(str, numbers))
        raise NotFoundError(f"there is no snapshot {number} in {store}; there are {there}", field="number")
    chosen = numbers[-1] if number is None else number
    others = [str(other) for other in numbers if other != chosen]
    remedy = f"restore another ({', '.join(others)}), or save a new one" if others else "save a new one"
    name = manifest_name(chosen)
    value = store.read(name)
    digest, _, content = (value or b"").partition(b"\n")
    if digest.decode(errors="replace") != digest_of(content):
        raise InvalidRequestError(f"{store}/{name} is damaged or of another version (its digest is another); {remedy}")
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequestError(
            f"{store}/{name} is damaged or of another version ({where}: {first['msg']}); {remedy}"
        ) from None


def write_manifest(store: SnapshotStore, manifest: Manifest) -> None:
    content = manifest.model_dump_json().encode()
    store.write(manifest_name(manifest.number), digest_of(content).encode() + b"\n" + content)


def _setting_of(kv_dtype: str) -> str:
    """How a pool is given this format."""
    if kv_dtype in QUANTISED_DTYPES:
        return f"set cache.kv_dtype to {'int8' if kv_dtype == 'int8' else 'fp8'}"
    return f"set dtype (cache.kv_dtype, where that is not auto) to {kv_dtype}"
