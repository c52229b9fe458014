"""Selection policies: which cached tokens of a prompt are computed again.

A policy sees the whole prompt at once, so that one budget can be spread over its blocks, and answers with the
offsets to select in each cached block. How many it selects depends on the lengths of the blocks alone, never on
their content, so requests of one shape stay one shape.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from rcjax.prompt import Block, Prompt

Offsets = list[np.ndarray]  # per cached block: ascending int32 offsets into its tokens


@runtime_checkable
class SelectionPolicy(Protocol):
    """Chooses tokens of the prompt's cached blocks to compute again."""

    def select(self, prompt: Prompt, cached: Sequence[Block]) -> Offsets:
        """The offsets to select in each of `cached`, which are blocks of `prompt`."""
        ...


@dataclass(frozen=True, slots=True)
class NoSelection:
    """Trusts every cached token."""

    def select(self, prompt: Prompt, cached: Sequence[Block]) -> Offsets:
        return [np.zeros(0, np.int32) for _ in cached]


@dataclass(frozen=True, slots=True)
class FullSelection:
    """Selects every cached token: full recompute, by the path that the other policies take."""

    def select(self, prompt: Prompt, cached: Sequence[Block]) -> Offsets:
        return [np.arange(len(block), dtype=np.int32) for block in cached]


@dataclass(frozen=True, slots=True)
class BoundarySelection:
    """Selects the first and last tokens of each block whose cached KV is not exact.

    Hu et al., "EPIC", arXiv 2410.15332 (LegoLink): a block's first tokens act as attention sinks of their own,
    which is where its KV differs most from what the whole prompt would give. Blocks that are exact where they
    stand (instruction, history) have nothing to correct and are left out.
    """

    first: int
    last: int = 0

    def __post_init__(self) -> None:
        if self.first < 0 or self.last < 0 or self.first + self.last == 0:
            raise ValueError(f"boundary needs {self.first=} >= 0, {self.last=} >= 0 and one of them above 0")

    def select(self, prompt: Prompt, cached: Sequence[Block]) -> Offsets:
        return [
            np.zeros(0, np.int32) if prompt.is_exact(block) else _ends(len(block), self.first, self.last)
            for block in cached
        ]


def _ends(length: int, first: int, last: int) -> np.ndarray:
    if first + last >= length:
        return np.arange(length, dtype=np.int32)
    return np.concatenate([np.arange(first), np.arange(length - last, length)]).astype(np.int32)


def parse_policy(text: str) -> SelectionPolicy:
    """Reads `none`, `full` or `boundary(first=4, last=0)`; ValueError for anything else."""
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\))?\s*", text)
    name, arguments = (match[1], match[2] or "") if match else ("", "")
    if name in ("none", "full") and not arguments.strip():
        return NoSelection() if name == "none" else FullSelection()
    pairs = [re.fullmatch(r"\s*(first|last)\s*=\s*(\d+)\s*", part) for part in arguments.split(",")]
    given = {pair[1]: int(pair[2]) for pair in pairs if pair}
    if name == "boundary" and len(given) == len(pairs):
        return BoundarySelection(given.get("first", 0), given.get("last", 0))
    raise ValueError(f"selection policy {text!r} is none of: none, full, boundary(first=4), boundary(first=4, last=2)")
