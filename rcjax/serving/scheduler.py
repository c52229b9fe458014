"""The scheduler: from a plan and the slices' loads to a slice. No threads, no JAX, and its clock is an argument."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Costed(Protocol):
    """What a scheduler looks at in a plan."""

    @property
    def cost_s(self) -> float: ...


@runtime_checkable
class Scheduler(Protocol):
    def choose(self, plan: Costed, loads_s: Sequence[float]) -> int:
        """The index of the slice to serve `plan`; `loads_s` has the seconds of work that wait for each slice."""
        ...


class LeastCompletionTime:
    """The slice where the plan is expected to be done first; the lowest index among equals."""

    def choose(self, plan: Costed, loads_s: Sequence[float]) -> int:
        return min(range(len(loads_s)), key=lambda index: loads_s[index] + plan.cost_s)
