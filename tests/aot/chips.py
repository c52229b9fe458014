"""The chips that programs are compiled for, none of which is here."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Gpu:
    """Described by a `GpuTargetConfigProto`, as XLA prints it where there is one."""

    name: str
    arch: str  # as ptxas calls it
    platform: ClassVar = "cuda"

    @property
    def description(self) -> str:
        return (FOLDER / f"{self.name}.textproto").read_text()

    @property
    def memory_bytes(self) -> int:
        return self._described("device_memory_size")

    @property
    def shared_bytes(self) -> int:
        """That a thread block may have where it asks for it."""
        return self._described("shared_memory_per_block_optin")

    @property
    def shared_bytes_of_all(self) -> int:
        """Of a multiprocessor's thread blocks together."""
        return self._described("shared_memory_per_core")

    @property
    def registers(self) -> int:
        """Of a multiprocessor."""
        return self._described("registers_per_core_limit")

    def topology(self, devices: int) -> Any:
        return topologies.get_topology_desc(platform="cuda", target_config=self.description, topology=f"1x1x{devices}")

    def _described(self, name: str) -> int:
        found = re.search(rf"{name}: (\d+)", self.description)
        assert found, f"{self.name}.textproto lacks {name}"
        return int(found[1])


@dataclass(frozen=True, slots=True)
class Tpu:
    name: str
    memory_bytes: int
    platform: ClassVar = "tpu"

    def topology(self, devices: int) -> Any:
        return topologies.get_topology_desc(platform="tpu", topology_name=f"{self.name}:2x2")


Chip = Gpu | Tpu
GPUS = (Gpu("h100", "sm_90a"), Gpu("a100", "sm_80"))
TPUS = (Tpu("v5e", 16 << 30), Tpu("v6e", 32 << 30))
# Those that take longest to compile for first: that is the order in which the processes start.
CHIPS = {chip.name: chip for chip in (TPUS[0], *GPUS, TPUS[1])}


def mesh_of(chip: Chip, devices: int) -> Mesh:
    return Mesh(np.array(chip.topology(devices).devices[:devices]), ("tensor",))
