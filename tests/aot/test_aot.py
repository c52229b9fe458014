"""Programs compiled for chips that are not here: what their compilers refuse, spill, copy and take.

That a program compiles does not say that its numbers are right: the interpreter's are, as tests/kernels shows.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chips import CHIPS, GPUS, TPUS
from compiler_report import report_of
from named_programs import (
    COPIES,
    DEPLOYED,
    KERNELS,
    OVERFLOWS,
    QWEN3_8B,
    REFUSED,
    SPILLING,
    SPILLS,
    STEPS,
    deployed_steps,
    deployment,
    kernels_of,
)

from rcjax.serving.sizing import Traffic, chip_of, size_deployment

pytestmark = pytest.mark.aot

FOLDER = Path(__file__).parent
MAX_PEAK = 1.15  # of what pool, weights and results need
RESERVED_BYTES = 1024  # of shared memory, by the driver for each thread block
TIMEOUT_S = 3600


def each(chips):
    return pytest.mark.parametrize("chip", [pytest.param(chip, id=chip.name) for chip in chips])


@pytest.fixture(scope="session")
def compilations(request):
    """Of the chips that are asked for, by their name: processes side by side, as many as there are cores."""
    packages = os.environ.get("RCJAX_AOT_PACKAGES")
    if packages is None:
        pytest.fail("where the compilers are installed is not known; run `make test-aot`")
    wanted = {item.callspec.params["chip"].name for item in request.session.items if item.path == Path(__file__)}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {
            chip.name: pool.submit(compile_for, chip, Path(packages).absolute())
            for chip in CHIPS.values()
            if chip.name in wanted
        }


@pytest.fixture
def reports(compilations, chip):
    """By the program's name."""
    done = compilations[chip.name].result()
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line.pop("program"): report_of(line) for line in lines}


@pytest.fixture
def kernel_reports(reports):
    """Those of kernels that compiled."""
    return {name: report for name, report in reports.items() if name in KERNELS and not report.error}


@pytest.fixture
def gpu_kernels(kernel_reports):
    return [(name, kernel) for name, report in kernel_reports.items() for kernel in report.kernels]


def compile_for(chip, packages):
    return subprocess.run(
        [sys.executable, str(FOLDER / "compile_for.py"), chip.name],
        env=os.environ | {"PYTHONPATH": str(packages / chip.platform), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@each(CHIPS.values())
def test_every_program_compiles_but_those_that_a_chip_has_no_types_for(chip, reports):
    """On a TPU this says that memory is large enough, too: a kernel's (VMEM) and a pass's (HBM)."""
    wanted = [*kernels_of(chip), *STEPS.get(chip.name, {})]
    refused = {name: reports[name].error for name in wanted if reports[name].error}
    assert set(refused) == REFUSED.get(chip.name, set()), refused


@each(GPUS)
def test_no_kernel_spills_but_those_of_float32(chip, gpu_kernels):
    spilling = [found for found in gpu_kernels if found[1].spilled_bytes]
    assert {name for name, _ in spilling} == SPILLING, spilling


@each(GPUS)
def test_a_kernel_that_is_too_large_is_seen_to_spill(chip, reports):
    assert any(kernel.spilled_bytes for kernel in reports[SPILLS].kernels)


@each(GPUS)
def test_every_kernel_was_looked_at(chip, kernel_reports):
    """One for fresh keys and one each for shared pages and those of tiles, where there are any; two each of mass."""
    parts = {name: 1 + (kernel.sizes.pages > 0) + (kernel.sizes.tiles is not None) for name, kernel in KERNELS.items()}
    wanted = {name: number * (1 + KERNELS[name].is_mass) for name, number in parts.items()}
    found = {name: len(report.kernels) for name, report in kernel_reports.items()}
    assert found == {name: number for name, number in wanted.items() if name in found}


@each(GPUS)
def test_every_thread_block_fits_a_multiprocessor(chip, gpu_kernels):
    for found in gpu_kernels:
        assert registers_of(found[1]) <= chip.registers, found
        assert found[1].shared_bytes <= chip.shared_bytes, found


@each(GPUS)
def test_two_thread_blocks_fit_a_multiprocessor(chip, gpu_kernels):
    """As the number of splits takes for granted. Of those that spill, and of heads of 256 on an A100, one fits."""
    for name, kernel in gpu_kernels:
        if name not in SPILLING and (chip.name, name) != ("a100", "heads of 256"):
            assert 2 * registers_of(kernel) <= chip.registers, (name, kernel)
            assert 2 * (kernel.shared_bytes + RESERVED_BYTES) <= chip.shared_bytes_of_all, (name, kernel)


def registers_of(kernel):
    """Of a thread block; a thread is given them in eights."""
    return kernel.threads * -(-kernel.registers // 8) * 8


@each(CHIPS.values())
def test_the_pool_is_read_where_it_is(chip, kernel_reports):
    """No kernel has anything of the size of K or V beside it."""
    found = kernel_reports.items()
    copied = {name: report.temp_bytes for name, report in found if report.temp_bytes >= report.pool_bytes / 4}
    assert copied == {}


@each(TPUS)
def test_a_pool_in_another_order_is_seen_to_be_copied(chip, reports):
    report = reports[COPIES]
    assert report.error == ""
    assert report.temp_bytes >= report.pool_bytes


@each(TPUS)
def test_a_pool_takes_more_than_its_bytes_only_where_the_heads_of_a_token_do_not_fill_tiles(chip, kernel_reports):
    """Head dims are padded to 128 lanes, and kv heads to a power of two that fills 32 bits: pools of [P, C, K, H]."""

    def padding(kernel):
        kv_heads, itemsize = kernel.heads[1], kernel.kv_format.numpy_dtype.itemsize
        padded_heads = max(1 << (kv_heads - 1).bit_length(), 4 // itemsize)
        return padded_heads / kv_heads * -(-kernel.head_dim // 128) * 128 / kernel.head_dim

    found = {name: report for name, report in kernel_reports.items() if KERNELS[name].sizes.pages}
    for name, report in found.items():
        assert report.argument_bytes / report.pool_bytes == pytest.approx(padding(KERNELS[name]), abs=0.05), name


@each(TPUS)
def test_a_kernel_beyond_the_memory_of_a_core_is_refused(chip, reports):
    assert "vmem" in reports[OVERFLOWS].error.lower()


@each([chip for chip in CHIPS.values() if chip.name in STEPS])
def test_a_pass_takes_little_more_memory_than_pool_weights_and_results(chip, reports):
    for name in STEPS[chip.name]:
        report = reports[name]
        assert report.peak_bytes <= MAX_PEAK * report.needed_bytes, (name, report)
        assert report.peak_bytes <= chip.memory_bytes, (name, report)


@each([chip for chip in CHIPS.values() if chip.name in STEPS])
def test_devices_exchange_sums_of_a_layer_and_no_weights_or_pages(chip, reports):
    for name, step in STEPS[chip.name].items():
        assert set(reports[name].collectives) == ({"all-reduce"} if step.devices > 1 else set())


@each([chip for chip in CHIPS.values() if chip.name in DEPLOYED])
def test_a_deployment_takes_what_it_is_planned_to_and_no_more(chip, reports):
    settings = deployment(chip.name)
    device = chip_of(chip.name, settings.mesh.num_devices)
    planned = size_deployment(settings, QWEN3_8B, device, Traffic(), disk_bytes_per_s=1e9)
    assert planned.refusals == ()
    for name in deployed_steps(chip.name):
        report = reports[name]
        assert (report.weight_bytes, report.pool_bytes) == (planned.memory.weights, planned.memory.pool)
        assert report.peak_bytes <= planned.memory.needed <= planned.memory.usable <= chip.memory_bytes, (name, report)
