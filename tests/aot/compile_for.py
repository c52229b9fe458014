"""Compiles programs for one chip and prints what its compiler says: `python compile_for.py CHIP [NAME ...]`.

A line of JSON each, of all programs or those named. A process per chip, as a compiler remembers the first one. What
`packages.py` installs has to be on the path.
"""

import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

os.environ |= {
    "JAX_PLATFORMS": "cpu",
    # So that libtpu asks no server which machine this is.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

import jax
from chips import CHIPS, Chip, Gpu, mesh_of
from compiler_report import Report
from named_programs import QWEN3_8B, Kernel, Step, kernel_program, programs_of, step_program

from rcjax.kernels.selective_attention import Attention
from rcjax.kernels.selective_attention.config import GpuTiling, Heads, TpuTiling
from rcjax.kernels.selective_attention.sharded import sharded_heads

COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"


def main() -> None:
    chip = CHIPS[sys.argv[1]]
    programs = {name: p for name, p in programs_of(chip).items() if name in sys.argv[2:] or not sys.argv[2:]}
    for name, program in programs.items():
        start_s = time.process_time()
        try:
            report = compiled(chip, program)
        except Exception as error:  # of many types, JAX's and the compilers' own
            report = Report(error=str(error).strip().split("\n")[0] or repr(error))
        report = replace(report, cpu_s=round(time.process_time() - start_s, 2))
        print(json.dumps({"program": name} | asdict(report)), flush=True)


def compiled(chip: Chip, program: Kernel | Step) -> Report:
    mesh = mesh_of(chip, program.devices)
    if isinstance(program, Step):
        heads = Heads(QWEN3_8B.head_dim, QWEN3_8B.num_heads // QWEN3_8B.num_kv_heads, "bfloat16", program.kv_dtype)
        run, arguments = step_program(program, attention_for(chip, heads, None, mesh), mesh)
    else:
        heads = Heads(program.head_dim, program.heads[0] // program.heads[1], program.dtype, program.kv_dtype)
        run, arguments = kernel_program(program, attention_for(chip, heads, program.tiling, mesh), mesh)
    with tempfile.TemporaryDirectory() as dump:
        return report_on(chip, run, arguments, Path(dump))


def attention_for(chip: Chip, heads: Heads, tiling: Any, mesh: jax.sharding.Mesh) -> Attention:
    """What `choose_attention` takes where no tuned table says more."""
    if isinstance(chip, Gpu):
        from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu

        attention = pallas_gpu(tiling=tiling or GpuTiling.default(heads))
    else:
        from rcjax.kernels.selective_attention.pallas_tpu import pallas_tpu

        attention = pallas_tpu(tiling=tiling or TpuTiling.default(heads))
    return attention if mesh.size == 1 else sharded_heads(attention, mesh)


def report_on(chip: Chip, run: Callable[..., Any], arguments: tuple[Any, ...], dump: Path) -> Report:
    pages, *rest = arguments
    mesh = jax.tree.leaves(rest)[0].sharding.mesh
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # kernels ask it for the chip
        lowered = jax.jit(run).lower(*arguments)
    options, kernels = {}, ()
    if isinstance(chip, Gpu):
        from gpu_kernels import DUMP_PTX, kernels_in

        options = DUMP_PTX | {"xla_dump_to": str(dump)}
    program = lowered.compile(compiler_options=options)
    if isinstance(chip, Gpu):
        kernels = tuple(kernels_in(dump, chip.arch))
    memory = program.memory_analysis()
    results = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        lowered.out_info,
        program.output_shardings,
    )
    weights = rest[0] if isinstance(rest[0], dict) else ()
    return Report(
        pool_bytes=device_bytes(pages),
        weight_bytes=device_bytes(weights),
        result_bytes=device_bytes(results),
        argument_bytes=memory.argument_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        peak_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        collectives=tuple(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", program.as_text())),
        kernels=kernels,
    )


def device_bytes(tree: Any) -> int:
    """Of one device's parts."""
    return sum(x.dtype.itemsize * math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(tree))


if __name__ == "__main__":
    main()
