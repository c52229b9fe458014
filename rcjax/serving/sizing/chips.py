"""Chips by name: how much memory, how fast. A table, so that a laptop can plan for what it has not."""

import os
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

GIB = 2**30
GPU_SHARE = 0.75  # of a GPU's memory that JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise


@dataclass(frozen=True, slots=True)
class Chip:
    """One device. Rates are peaks of its data sheet: dense bfloat16 products, its own memory, and the way to the host.

    `memory_bytes` are those that a driver or compiler reports, and JAX may take `share` of them. `kind` is what JAX
    calls such a device.
    """

    name: str
    kind: str
    platform: Literal["cpu", "gpu", "tpu"]
    memory_bytes: int
    flops_per_s: float
    bytes_per_s: float
    link_bytes_per_s: float
    share: float = 1.0

    @property
    def usable_bytes(self) -> int:
        return int(self.memory_bytes * self.share)


def _gpu(name: str, kind: str, memory_bytes: int, flops_per_s: float, bytes_per_s: float, link: float) -> Chip:
    return Chip(name, kind, "gpu", memory_bytes, flops_per_s, bytes_per_s, link, GPU_SHARE)


def _tpu(name: str, kind: str, memory_gib: float, flops_per_s: float, bytes_per_s: float) -> Chip:
    return Chip(name, kind, "tpu", int(memory_gib * GIB), flops_per_s, bytes_per_s, 16e9)


# GPUs: memory as XLA reports it, without what the driver keeps. TPUs: as their compiler counts it ("of 15.75G hbm").
_CHIPS = (
    _gpu("h100", "NVIDIA H100 80GB HBM3", 84_942_979_072, 989e12, 3.35e12, 55e9),
    _gpu("h200", "NVIDIA H200", 139 * GIB, 989e12, 4.8e12, 55e9),
    _gpu("a100-40", "NVIDIA A100-SXM4-40GB", 39 * GIB, 312e12, 1.555e12, 25e9),
    _gpu("a100-80", "NVIDIA A100-SXM4-80GB", 84_987_740_160, 312e12, 2.039e12, 25e9),
    _tpu("v5e", "TPU v5 lite", 15.75, 197e12, 0.819e12),
    _tpu("v5p", "TPU v5", 95.74, 459e12, 2.765e12),
    _tpu("v6e", "TPU v6 lite", 31.25, 918e12, 1.64e12),
)
CHIPS = MappingProxyType({chip.name: chip for chip in _CHIPS})
CPU = "cpu"


def chip_of(name: str, num_devices: int, *, memory_bytes: int | None = None, share: float | None = None) -> Chip:
    """The chip of that name, one of `num_devices`; ValueError where it is not known, with the names that are.

    `cpu` is this machine, whose memory its devices share. `memory_bytes` and `share` replace the table's.
    """
    if name == CPU:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // num_devices
        # The rate that the cost model assumes before it has timed a pass; memory of two channels.
        chip = Chip(CPU, CPU, "cpu", memory, 5e10, 2e10, 2e10)
    elif name in CHIPS:
        chip = CHIPS[name]
    else:
        raise ValueError(f"device {name!r} is not known; use one of {', '.join((*CHIPS, CPU))}")
    if memory_bytes is not None:
        chip = replace(chip, memory_bytes=memory_bytes)
    return chip if share is None else replace(chip, share=share)
