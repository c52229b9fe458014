"""Registers, spills and shared memory of a GPU program's attention kernels, from what XLA dumps and ptxas says."""

import re
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import nvidia
from compiler_report import GpuKernel

NAME = r"(?:selective_attention|attention_mass)\w*"  # what the kernels are called
PTXAS = next(path for folder in nvidia.__path__ for path in Path(folder).glob("cu13/bin/ptxas"))

# Options of the compilation that has its PTX dumped. jax 0.10 dumps it unasked, and refuses what it does not know.
DUMP_PTX = {} if version("jax").startswith("0.10.") else {"xla_dump_emitter_re": "^ptx"}


def kernels_in(dump: Path, arch: str) -> list[GpuKernel]:
    launches = _launches(dump)
    found = [
        _compiled(path, name, arch, *launches[name])
        for path in sorted(dump.glob("*.ptx"))
        for name in re.findall(rf"\.entry ({NAME})\(", path.read_text())
    ]
    if not found:
        raise ValueError(f"{dump} has no PTX of an attention kernel")
    return found


def _launches(dump: Path) -> dict[str, tuple[int, int]]:
    """Threads and bytes of shared memory of a thread block, by the kernel's name."""
    (path,) = dump.glob("*.thunk_sequence.txt")
    launch = rf"({NAME}) grid: \[.*?\] threads: \[(\d+), 1, 1\] .*?shared_memory: (\d+) bytes"
    return {name: (int(threads), int(shared)) for name, threads, shared in re.findall(launch, path.read_text())}


def _compiled(ptx: Path, name: str, arch: str, threads: int, shared_bytes: int) -> GpuKernel:
    with tempfile.NamedTemporaryFile() as binary:
        command = [str(PTXAS), "-v", f"-arch={arch}", str(ptx), "-o", binary.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    said = said[said.index(f"properties for {name}\n") :]
    stores, loads = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", said).groups()
    registers = re.search(r"Used (\d+) registers", said)[1]
    return GpuKernel(name, threads, int(registers), max(int(stores), int(loads)), shared_bytes)
