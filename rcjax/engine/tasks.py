"""Tasks: work of a slice as generators that give way between passes.

A task yields

- a `Pending` pass, and is resumed with its result, or gets its error thrown in;
- a `Claim`, and is resumed once all its blocks are pinned and computed (the task releases it);
- None, to let others have a turn before it goes on.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from rcjax.engine.block_cache import BlockCache
from rcjax.engine.claim import Claim
from rcjax.engine.executor import Pending
from rcjax.engine.plan import PlannedBlock
from rcjax.engine.state import is_given_up
from rcjax.errors import ResourceExhaustedError

T = TypeVar("T")
Steps = Generator[Pending[Any] | Claim | None, Any, T]

# Blocks of one write that are claimed at once, in passes: enough to fill the pass after the next as well.
_WINDOW_PASSES = 2


@dataclass(eq=False, slots=True)
class Task:
    """Steps under way, whom to tell of their end, and what they wait for."""

    steps: Steps[Any]
    on_done: Callable[[Any], None]
    on_error: Callable[[BaseException], None]
    is_urgent: bool  # a request, not a write
    future: Future[Any] | None = None  # of a caller who may give up
    deadline_s: float | None = None

    def is_dead(self, now_s: float) -> bool:
        """Whether its caller gave up; a task without one goes on to its end."""
        return self.future is not None and is_given_up(self.future, self.deadline_s, now_s)


def fill(cache: BlockCache, blocks: Sequence[PlannedBlock], version: int, pass_tokens: int) -> Steps[int]:
    """Makes blocks cached, some passes' worth at a time; returns how many had to be computed.

    Where the pool cannot hold all of them, the last ones stay. Raises `ResourceExhaustedError` where it has no room
    for one of them.
    """
    num_built = at = 0
    size = len(blocks)
    while at < len(blocks):
        window = _window(blocks, at, size, _WINDOW_PASSES * pass_tokens)
        claim = Claim(window, version, is_urgent=False)
        try:
            yield claim
        except ResourceExhaustedError:
            if len(window) == 1:
                raise
            size = len(window) // 2
            continue
        num_built += sum(num > 0 for num in claim.num_built)
        cache.release(claim)
        at += len(window)
    return num_built


def grow(cache: BlockCache, former: PlannedBlock, block: PlannedBlock, version: int) -> Steps[int]:
    """Makes `block` cached by extending `former`, whose tokens it starts with, where it can; as `fill` else."""
    claim = Claim([block], version, is_urgent=False, grow_from=former)
    yield claim
    num_built = sum(num > 0 for num in claim.num_built)
    cache.release(claim)
    return num_built


def _window(blocks: Sequence[PlannedBlock], at: int, size: int, max_tokens: int) -> Sequence[PlannedBlock]:
    end, num_tokens = at, 0
    while end < len(blocks) and end - at < size:
        num_tokens += len(blocks[end].block)
        if num_tokens > max_tokens and end > at:
            break
        end += 1
    return blocks[at:end]
