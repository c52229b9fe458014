"""Settings of what is cached: the KV pool, the tiers behind it, and the semantic pool."""

from pathlib import Path
from typing import Literal

from pydantic import ByteSize, Field, model_validator

from rcjax.config.paths import in_folder
from rcjax.config.strict import StrictModel


class DiskSettings(StrictModel):
    """The disk tier: a folder that no other process uses, and the bytes that it may take there.

    It is emptied at the start and at the end; snapshots are what outlives a process.
    """

    folder: Path
    """Where it is."""
    bytes: ByteSize = Field(gt=0)
    """What it may take there."""


class CacheSettings(StrictModel):
    """The KV pool: tokens per page, the dtype of their KV, and the bytes that its pages may take on a slice.

    `int8` and `fp8` (e4m3) are quantised, with a scale for each token and kv head. Blocks that are evicted are kept in
    `host_bytes` of host memory, those of all slices together, and behind that on `disk`; 0 and None: they are not.
    """

    page_tokens: int = Field(16, ge=1)
    """Tokens of a page; a block leaves its last page partly empty."""
    kv_dtype: Literal["auto", "float32", "bfloat16", "int8", "fp8"] = "auto"
    """Of cached KV; `auto`: that of the weights."""
    pool_bytes: ByteSize = ByteSize(2**30)
    """Of the pages of one slice, allocated at start."""
    host_bytes: ByteSize = ByteSize(0)
    disk: DiskSettings | None = None

    @model_validator(mode="after")
    def _disk_is_behind_the_host(self) -> "CacheSettings":
        if self.disk is not None and not self.host_bytes:
            raise ValueError("disk takes what host memory no longer holds, and host_bytes is 0; set host_bytes too")
        return self

    def in_folder(self, folder: Path) -> "CacheSettings":
        """The same with the path that a file in `folder` means, as `Settings.in_folder` does."""
        if self.disk is None:
            return self
        disk = self.disk.model_copy(update={"folder": in_folder(folder, self.disk.folder, "cache.disk.folder")})
        return self.model_copy(update={"disk": disk})


class SemanticSettings(StrictModel):
    """The semantic pool of arms with `history: semantic`; docs/semantic-history.md says what its size costs."""

    num_sampled_users: int = Field(200, ge=1)
    """Users whose histories fill the pool."""
    max_prototypes: int = Field(100_000, ge=1)
    """Tokens whose KV the pool has at most."""
    min_similarity: float = Field(0.9, ge=0, le=1)
    """Of a token to its prototype, else it is computed."""
