"""What a compiler says of a program."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class GpuKernel:
    """One attention kernel of a program for a GPU, per thread or thread block."""

    name: str
    threads: int
    registers: int
    spilled_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """Bytes are those of one device. What pool, weights and results need is counted without a compiler's padding.

    `error` is the first line of the refusal of a program that did not compile.
    """

    error: str = ""
    cpu_s: float = 0.0
    pool_bytes: int = 0
    weight_bytes: int = 0
    result_bytes: int = 0
    argument_bytes: int = 0
    temp_bytes: int = 0
    peak_bytes: int = 0
    collectives: tuple[str, ...] = ()
    kernels: tuple[GpuKernel, ...] = ()

    @property
    def needed_bytes(self) -> int:
        return self.pool_bytes + self.weight_bytes + self.result_bytes


def report_of(values: dict[str, Any]) -> Report:
    """From JSON."""
    kernels = tuple(GpuKernel(**kernel) for kernel in values["kernels"])
    return Report(**values | {"kernels": kernels, "collectives": tuple(values["collectives"])})
