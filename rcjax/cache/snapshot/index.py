"""The index of a snapshot: which blocks it holds, of which model, and where their KV is."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from rcjax.cache.keys import PoolIdentity
from rcjax.errors import InvalidRequestError, NotFoundError
from rcjax.kernels.kv import QUANTISED_DTYPES

INDEX_NAME = "index.json"
NEW_INDEX_NAME = "index.json.new"
_Int32 = Annotated[int, Field(ge=0, lt=2**31)]


class SavedBlock(BaseModel):
    """A block, at `first_page` of `chunk`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    kind: str
    owner: str
    token_ids: list[_Int32] = Field(min_length=1)
    chunk: NonNegativeInt
    first_page: NonNegativeInt
    digest: str

    def num_pages(self, page_tokens: int) -> int:
        return -(-len(self.token_ids) // page_tokens)

    def __str__(self) -> str:
        return f"{self.kind} {self.owner!r}"


class SavedOrder(BaseModel):
    """The order of correction of some content, saved as a block or not; see `CachedBlock.order`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    kind: str
    owner: str
    order: list[_Int32]
    digest: str

    def __str__(self) -> str:
        return f"the order of {self.kind} {self.owner!r}"


class SnapshotIndex(BaseModel):
    """Blocks in the order in which they are to be restored: the last are kept where not all fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[3] = 3
    identity: PoolIdentity
    instruction: str  # its key, which is in that of every block
    data: str = Field(pattern=r"^kv-\d+$")
    blocks: list[SavedBlock]
    orders: list[SavedOrder]


def read_index(folder: Path) -> SnapshotIndex:
    """`NotFoundError` where there is none, `InvalidRequestError` where it cannot be used."""
    path = folder / INDEX_NAME
    try:
        return SnapshotIndex.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no snapshot in {folder}: it has no {INDEX_NAME}; save one first") from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # the input may be a user's history
        where = ".".join(map(str, first["loc"]))
        raise InvalidRequestError(
            f"{path} is damaged or of another version ({where}: {first['msg']}); save a new snapshot"
        ) from None


def check_same(identity: PoolIdentity, instruction_key: bytes, index: SnapshotIndex) -> None:
    """Raises `InvalidRequestError`, naming what differs, where the KV is not what a cache so described computes."""
    ours = asdict(identity) | {"instruction": instruction_key.hex()}
    theirs = asdict(index.identity) | {"instruction": index.instruction}
    different = [name for name in ours if ours[name] != theirs[name]]
    if different:
        # Whatever differs, the instruction's key does too: it is news only where it stands alone.
        names = different[:-1] or different
        what = "; ".join(f"{name} is {theirs[name]!r} there and {ours[name]!r} here" for name in names)
        remedy = "save one from this set-up"
        if "kv_dtype" in different:
            remedy += f", or {_setting_of(index.identity.kv_dtype)} here"
        raise InvalidRequestError(f"the snapshot's KV is of no use here: {what}; {remedy}")


def _setting_of(kv_dtype: str) -> str:
    """How a pool is given this format."""
    if kv_dtype in QUANTISED_DTYPES:
        return f"set cache.kv_dtype to {'int8' if kv_dtype == 'int8' else 'fp8'}"
    return f"set dtype (cache.kv_dtype, where that is not auto) to {kv_dtype}"


def write_index(index: SnapshotIndex, folder: Path) -> Path:
    """Writes it to the disk under another name, and returns that."""
    new = folder / NEW_INDEX_NAME
    with new.open("w", encoding="utf-8") as file:
        file.write(index.model_dump_json())
        file.flush()
        os.fsync(file.fileno())
    return new
