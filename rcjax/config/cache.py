"""Settings of what is cached: the KV pool and the semantic pool."""

from typing import Literal

from pydantic import ByteSize, Field

from rcjax.config.strict import StrictModel


class CacheSettings(StrictModel):
    """The KV pool: tokens per page, the dtype of their KV, and the bytes that its pages may take on a slice.

    `int8` and `fp8` (e4m3) are quantised, with a scale for each token and kv head.
    """

    page_tokens: int = Field(16, ge=1)
    kv_dtype: Literal["auto", "float32", "bfloat16", "int8", "fp8"] = "auto"
    pool_bytes: ByteSize = ByteSize(2**30)


class SemanticSettings(StrictModel):
    """The semantic pool of arms with `history: semantic`; docs/semantic-history.md says what its size costs."""

    num_sampled_users: int = Field(200, ge=1)
    max_prototypes: int = Field(100_000, ge=1)
    min_similarity: float = Field(0.9, ge=0, le=1)
