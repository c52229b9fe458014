"""Sizes of the device kernels' work, and what they are chosen by.

Which sizes are fastest depends on the model's heads and dtypes, known at start-up, and on how many queries a call has.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

THREAD_BLOCKS = 264  # two for each multiprocessor of an H100
MIN_KEYS, MAX_KEYS = 16, 256  # what a tensor core multiplies at once; what fits a multiprocessor's shared memory
MIN_STEPS = 4  # a split costs the writing and reading of its rows in float32
MAX_ROWS = 128  # more would not fit a multiprocessor's registers
MAX_WARPS = 32  # of a thread block

Tiling = TypeVar("Tiling", "GpuTiling", "TpuTiling")


@dataclass(frozen=True, slots=True)
class Heads:
    """What an attention layer of a model is like; `group` query heads share a kv head."""

    head_dim: int
    group: int
    dtype: str  # of queries, fresh keys and values
    kv_dtype: str  # of cached ones


@dataclass(frozen=True, slots=True)
class GpuTiling:
    """Sizes of the GPU kernel's work.

    A thread block has `queries` fresh tokens, each with the query heads of one kv head as rows, and reads `keys` keys
    a step (a page must fit). `splits` thread blocks share a context; None takes as many as let `THREAD_BLOCKS` run,
    all at once, but no more than leave each `MIN_STEPS` steps. The defaults were chosen by what a compiler for an H100
    says (64 rows, heads of 128, bfloat16): 225 registers and none spilled where keys turn, so that two thread blocks
    fit a multiprocessor; with 64 keys some spill, and 8 warps would fit but once. They have not been timed.
    """

    queries: int = 16
    keys: int = 32
    splits: int | None = None
    warps: int = 4
    stages: int = 2

    def __post_init__(self) -> None:
        _check_positive(queries=self.queries, stages=self.stages)
        if self.splits is not None:
            _check_positive(splits=self.splits)
        _check_power_of_two("keys", self.keys, MIN_KEYS, MAX_KEYS)
        _check_power_of_two("warps", self.warps, 1, MAX_WARPS)

    @classmethod
    def default(cls, heads: Heads) -> "GpuTiling":
        """Without a table: as many queries as make 64 rows, or 32 of heads above 128, and at least one."""
        rows = 64 if heads.head_dim <= 128 else 32
        return cls(queries=max(1, rows // heads.group))

    def num_splits(self, thread_blocks: int, num_keys: int) -> int:
        """How many share each context of at most `num_keys`, where there would be `thread_blocks` without."""
        if self.splits is not None:
            return self.splits
        return max(1, min(THREAD_BLOCKS // thread_blocks, num_keys // (MIN_STEPS * self.keys)))


@dataclass(frozen=True, slots=True)
class TpuTiling:
    """Sizes of the TPU kernel's work.

    A block has `queries` fresh tokens, each with the query heads of one kv head as rows, and reads whole pages of
    together at most `keys` keys a step, at least one. The hardware multiplies 128 keys at once.
    """

    queries: int = 32
    keys: int = 128

    def __post_init__(self) -> None:
        _check_positive(queries=self.queries, keys=self.keys)

    @classmethod
    def default(cls, heads: Heads) -> "TpuTiling":
        """Without a table: the same whatever the heads, which the kernel takes all at once."""
        return cls()

    def step_keys(self, page_tokens: int) -> int:
        return max(1, self.keys // page_tokens) * page_tokens


@dataclass(frozen=True, slots=True)
class Tilings(Generic[Tiling]):
    """By the fresh tokens of a prompt or tile: (at most so many, tiling), rising; the last one for more, too."""

    by_fresh_tokens: tuple[tuple[int, Tiling], ...]

    @classmethod
    def always(cls, tiling: Tiling) -> "Tilings[Tiling]":
        return cls(((1, tiling),))

    def of(self, num_fresh: int) -> Tiling:
        return next((tiling for most, tiling in self.by_fresh_tokens if num_fresh <= most), self.by_fresh_tokens[-1][1])


def _check_positive(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")


def _check_power_of_two(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most or value & (value - 1):
        raise ValueError(f"{name}={value} must be a power of two of at least {least} and at most {most}")
