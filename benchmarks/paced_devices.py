"""Devices of their own for the slices of one machine: passes take a set time and no processor.

Slices on fake CPU devices share the machine's cores, so that one that computes slows the others down and a request
gains nothing from an idle slice. Here a pass ends when its device, which runs one at a time, would be done with it, and
answers what the first pass of its shape did. Everything else is the engine's own, copies between slices too, which wait
for the lender's passes as on a device.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from rcjax.engine.cost import Program
from rcjax.engine.executor import Executor, Pending
from rcjax.engine.shape import Shape
from rcjax.kernels.kv import KVPages
from rcjax.model.decoder import Batch


class PacedPending(Pending[Any]):
    """A pass that is done at `end_s`, on the clock of `time.monotonic`."""

    def __init__(self, program: Program, value: Any, batch: Batch, end_s: float):
        super().__init__(program, value, lambda value: value, batch)
        self._end_s = end_s

    def is_ready(self) -> bool:
        return time.monotonic() >= self._end_s

    def result(self) -> Any:
        sleep_until(self._end_s)
        return super().result()


class PacedDevices:
    """When each device is free; a row of a pass takes `row_s`, and a token to build `token_s`, on top of `begin_s`."""

    def __init__(self, begin_s: float, row_s: float, token_s: float):
        self.begin_s, self.row_s, self.token_s = begin_s, row_s, token_s
        self._free_at_s: dict[int, float] = defaultdict(float)  # by slice
        self._read_at_s: dict[int, float] = {}  # by the first of the parts that were read

    def run(self, executor: Executor, program: Program, value: Any, batch: Batch) -> PacedPending:
        shape = program.shape
        seconds = self.row_s * shape.batch if program.purpose == "rank" else self.token_s * shape.fresh_tokens
        end_s = max(self._free_at_s[executor.index], time.monotonic()) + self.begin_s + seconds
        self._free_at_s[executor.index] = end_s
        return PacedPending(program, value, batch, end_s)

    def read(self, executor: Executor, parts: Sequence[KVPages]) -> None:
        if parts:
            self._read_at_s[id(parts[0])] = self._free_at_s[executor.index]

    def wait_for_read(self, parts: Sequence[KVPages]) -> None:
        if parts:
            sleep_until(self._read_at_s.pop(id(parts[0]), 0.0))


@contextmanager
def paced(devices: PacedDevices) -> Iterator[None]:
    """Has every executor's passes take their time on `devices` and not on the processor."""
    rank, start_read, bring = Executor.rank, Executor.start_read, Executor.bring
    logits: dict[Shape, np.ndarray] = {}

    def paced_rank(self: Executor, batch: Batch, shape: Shape) -> PacedPending:
        if shape not in logits:
            logits[shape] = rank(self, batch, shape).result()
        return devices.run(self, Program("rank", shape), logits[shape], batch)

    def paced_build(
        self: Executor, batch: Batch, source: np.ndarray, destination: np.ndarray, shape: Shape
    ) -> PacedPending:
        return devices.run(self, Program("build", shape), None, batch)

    def noted_read(self: Executor, pages: Sequence[int]) -> tuple[KVPages, ...]:
        parts = start_read(self, pages)
        devices.read(self, parts)
        return parts

    def late_bring(self: Executor, parts: Sequence[KVPages]) -> tuple[KVPages, ...]:
        devices.wait_for_read(parts)
        return bring(self, parts)

    with patch.multiple(Executor, rank=paced_rank, build=paced_build, start_read=noted_read, bring=late_bring):
        yield


def sleep_until(end_s: float) -> None:
    time.sleep(max(0.0, end_s - time.monotonic()))
