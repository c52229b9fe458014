"""The loads of a mesh's slices: what waits for each, and which of them take requests. No JAX, no clock of its own."""

import math
import threading
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float64

from rcjax.errors import UnavailableError


class SliceState(StrEnum):
    OPEN = "open"
    DRAINING = "draining"  # finishes what it has, and still lends its blocks
    STALLED = "stalled"  # answers nothing for now; it is alive, and writes wait for it
    DEAD = "dead"
    ABSENT = "absent"  # a place that no worker has taken

    @property
    def is_alive(self) -> bool:
        """Whether there is a worker that can be asked something."""
        return self not in (SliceState.DEAD, SliceState.ABSENT)


class SliceLoads:
    """What the slices last said of themselves; all begin open and idle. Any thread may call any method."""

    def __init__(self, num_slices: int):
        if num_slices < 1:
            raise ValueError(f"{num_slices=} must be at least 1")
        self.num_slices = num_slices
        self._queued_s = np.zeros(num_slices)
        self._free_at_s = np.full(num_slices, -math.inf)  # when what runs is expected to be done, on the caller's clock
        self._states = [SliceState.OPEN] * num_slices
        self._is_open = np.ones(num_slices, bool)
        self._lock = threading.Lock()

    def report(self, index: int, queued_s: float, running_s: float, now_s: float) -> None:
        """The slice `index` has `queued_s` of work in its queue, and what it runs takes `running_s` more."""
        self._check(index)
        if not (0 <= queued_s < math.inf and 0 <= running_s < math.inf):
            raise ValueError(f"slice {index}: {queued_s=} and {running_s=} must be finite and not negative")
        with self._lock:
            self._queued_s[index] = queued_s
            self._free_at_s[index] = now_s + running_s

    def set_state(self, index: int, state: SliceState) -> None:
        """From now on the slice `index` is in `state`; what it last reported stands until it reports again."""
        self._check(index)
        with self._lock:
            self._states[index] = state
            self._is_open[index] = state is SliceState.OPEN

    def waiting_s(self, now_s: float) -> Float64[np.ndarray, "slices"]:
        """Seconds until each slice would start on a request that it got at `now_s`: what runs, and its queue."""
        with self._lock:
            return self._queued_s + np.maximum(self._free_at_s - now_s, 0.0)

    def open_slices(self) -> Bool[np.ndarray, "slices"]:
        """Which slices take requests; UnavailableError, which names the others' states, where none does."""
        with self._lock:
            if self._is_open.any():
                return self._is_open.copy()
            states = tuple(self._states)
        raise UnavailableError(f"no slice takes requests: {_names(states)}; end the drain, or restart what is dead")

    def _check(self, index: int) -> None:
        if not 0 <= index < self.num_slices:
            raise ValueError(f"slice {index} of a mesh of {self.num_slices}: slices are numbered from 0")


def _names(states: Sequence[SliceState]) -> str:
    """As in "draining: 0, 2; dead: 1"."""
    parts = []
    for state in (SliceState.DRAINING, SliceState.STALLED, SliceState.DEAD):
        indices = [str(index) for index, other in enumerate(states) if other is state]
        if indices:
            parts.append(f"{state}: {', '.join(indices)}")
    return "; ".join(parts)
