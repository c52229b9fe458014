"""What a request's pass computes in each way of ranking."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from rcjax.cluster.simulation.costs import PassSize
from rcjax.cluster.simulation.workload import Workload

INSTRUCTION_TOKENS = 207
GLUE_TOKENS = 4  # of a candidate in a prompt that is read from left to right
TASK_TOKENS = 16


class Reuse(StrEnum):
    """Which KV a prompt takes from the cache. The user's is on every slice, so only items can miss."""

    NOTHING = "full"
    PREFIX = "prefix"  # the instruction
    BLOCKS = "rcjax"  # instruction, history and items, of which a share is computed anew
    PARALLEL = "parallel"  # the same, all exact: one fresh token an item


@runtime_checkable
class Arm(Protocol):
    """A way to rank."""

    @property
    def wants_items(self) -> bool:
        """Whether it takes items from the cache."""
        ...

    def sizes(self, workload: Workload) -> "PassSizes":
        """Of each request's own pass, apart from what misses."""
        ...


@dataclass(frozen=True, slots=True)
class SimulatedArm:
    """`recomputed` is the share of cached item and history tokens that `rcjax` computes anew (the paper's r)."""

    reuse: Reuse
    recomputed: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.recomputed <= 1:
            raise ValueError(f"recomputed={self.recomputed} must be from 0 to 1")

    @property
    def wants_items(self) -> bool:
        return self.reuse in (Reuse.BLOCKS, Reuse.PARALLEL)

    def sizes(self, workload: Workload) -> "PassSizes":
        items, num = workload.request_item_tokens.astype(np.float64), workload.num_candidates.astype(np.float64)
        history = workload.history_tokens.astype(np.float64)
        if self.reuse is Reuse.PARALLEL:
            shared = INSTRUCTION_TOKENS + history
            return PassSizes(num, shared + items, num * shared + items)
        glue = GLUE_TOKENS * num + TASK_TOKENS
        length = INSTRUCTION_TOKENS + history + items + glue
        if self.reuse is Reuse.BLOCKS:
            fresh = glue + self.recomputed * (items + history)
        else:
            fresh = length - (INSTRUCTION_TOKENS if self.reuse is Reuse.PREFIX else 0)
        # Fresh tokens stand evenly over what is not the instruction, and see on average half of that and all of it.
        return PassSizes(fresh, length - fresh, fresh * (length + INSTRUCTION_TOKENS) / 2)


@dataclass(frozen=True, slots=True, eq=False)
class PassSizes:
    """The fields of a `PassSize` for each request."""

    fresh_tokens: Float64[np.ndarray, "R"]
    read_tokens: Float64[np.ndarray, "R"]
    pairs: Float64[np.ndarray, "R"]

    def as_list(self) -> list[PassSize]:
        columns = (self.fresh_tokens.tolist(), self.read_tokens.tolist(), self.pairs.tolist())
        return [PassSize(*one) for one in zip(*columns, strict=True)]
