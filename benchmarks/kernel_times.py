"""Times of benchmarks/kernels.py's arms on the present device, and the claims that they bear."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from claims import Claim
from jaxtyping import Array
from kernel_arms import Drawn, device_kernel, full, largest_difference, paged, paged_arms
from kernel_work import FULL, GATHER_CUDNN, GATHER_XLA, KERNEL, Counts, Layouts, needed, nominal_peaks
from rich.progress import track
from roofline import Peaks, Work, seconds

from rcjax.kernels.selective_attention.case import Case

NUM_STEPS = {FULL: 4}  # layers of a sample; 64 of any other arm
POOL_BYTES = 2**29  # of the layers' KV together: ten times the cache of an H100
COPY_BYTES, MATMUL_SIZE, REPEATS = 2**32, 8192, 10
PRECISION = {"float32": "float32", "bfloat16": None}
BANDWIDTH = 0.7


def measure_times(report: dict[str, Any], cases: Sequence[Case], rounds: int, tiny: bool) -> list[Claim]:
    """Adds them to the report's rows, which are the cases'.

    With `tiny`, shapes are tiny and the kernel is interpreted: that shows only that this code runs, and claims nothing.
    """
    peaks, nominal = measured_peaks(tiny), nominal_peaks()
    claims: list[Claim] = []
    for case, row in track([*zip(cases, report["rows"], strict=True)], "times"):
        at = Layouts.of(case)
        counts = Counts.of(case, at)
        with jax.default_matmul_precision(PRECISION[case.dtype]):
            row |= times_of(Drawn(case, at, counts.prompt, 2**16 if tiny else POOL_BYTES), rounds, tiny)
        for values in row["arms"].values():
            values |= reached(needed(case, counts), values["p50_s"], peaks, nominal, case.dtype)
        claims += [] if tiny else claims_of_times(case, row)
    report |= {
        "kind": "interpreted: not the kernel's times" if tiny else "measured",
        "kernel": "pallas_gpu, interpreted" if tiny else device_kernel(),
        "peaks": asdict(peaks),
        "nominal": None if nominal is None else asdict(nominal),
    }
    return claims


def times_of(drawn: Drawn, rounds: int, tiny: bool) -> dict[str, Any]:
    """Seconds a layer of each arm, and why an arm has none."""
    of_pages = paged_arms(drawn.case, tiny)
    arms: dict[str, tuple[Callable[..., Callable[[], Array]], Any]] = {
        **{name: (paged, attention) for name, attention in of_pages.items()},
        f"{FULL}/cudnn": (full, "cudnn"),
        f"{FULL}/xla": (full, "xla"),
    }
    steps = {arm: 2 if tiny else NUM_STEPS.get(arm.split("/")[0], 64) for arm in arms}
    calls: dict[str, Callable[[], Array]] = {}
    refused: dict[str, str] = {}
    for arm, (make, how) in arms.items():
        if arm == f"{FULL}/xla" and f"{FULL}/cudnn" in calls:
            continue
        try:
            calls[arm] = make(how, drawn, steps[arm])
        except Exception as error:  # cuDNN refuses shapes and XLA's scores may not fit, each in ways of its own
            if arm in (KERNEL, GATHER_XLA):
                raise
            refused[arm] = (str(error).strip() or type(error).__name__).splitlines()[0]
    samples: dict[str, list[float]] = {arm: [] for arm in calls}
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for arm in rng.permutation([*calls]).tolist():
            samples[arm].append(seconds(calls[arm]) / steps[arm])
    timed = {
        arm: {"p50_s": float(np.median(some)), "min_s": min(some), "samples_s": some} for arm, some in samples.items()
    }
    difference = largest_difference(of_pages[KERNEL], of_pages[GATHER_XLA], drawn)
    return {"arms": timed, "refused": refused, "largest_difference": difference}


def reached(work: Work, layer_s: float, peaks: Peaks, nominal: Peaks | None, dtype: str) -> dict[str, Any]:
    rate = work.num_bytes / layer_s
    return {
        "bandwidth": rate / peaks.bytes_per_s,
        "bandwidth_of_nominal": None if nominal is None else rate / nominal.bytes_per_s,
        "reached": work.limit_ms(peaks, dtype) / 1e3 / layer_s,
        "limited_by": work.limited_by(peaks, dtype),
    }


def claims_of_times(case: Case, row: dict[str, Any]) -> list[Claim]:
    label = f"{row['shape']} {row['dtype']} / {row['kv_dtype']}"
    kernel = row["arms"][KERNEL]
    gather = min((GATHER_XLA, GATHER_CUDNN), key=lambda arm: row["arms"].get(arm, {"p50_s": np.inf})["p50_s"])
    claims = [Claim(f"{label}: times as fast as {gather}", row["arms"][gather]["p50_s"] / kernel["p50_s"], 1)]
    if case.name == "bar" and row["dtype"] == row["kv_dtype"] == "bfloat16":
        name = f"bar, {case.num_heads} query heads, bfloat16: fraction of a copy's bandwidth"
        claims.append(Claim(name, kernel["bandwidth"], BANDWIDTH))
    return claims


def measured_peaks(tiny: bool) -> Peaks:
    """Of a copy too large for the start of a kernel to matter, which `Peaks.measured`'s is not on a GPU."""
    array = jnp.ones((2**10 if tiny else COPY_BYTES // 4,), jnp.float32)
    copy, multiply = jax.jit(jnp.negative), jax.jit(jnp.matmul)
    copy_s = best_s(lambda: copy(array))
    size = 64 if tiny else MATMUL_SIZE
    rates = []
    for dtype, precision in PRECISION.items():
        a = jnp.ones((size, size), dtype)
        with jax.default_matmul_precision(precision):
            rates.append(2 * size**3 / best_s(lambda a=a: multiply(a, a)))  # type: ignore[misc]
    return Peaks(2 * array.nbytes / copy_s, *rates)


def best_s(call: Callable[[], Array]) -> float:
    call().block_until_ready()
    return min(seconds(lambda: call().block_until_ready()) for _ in range(REPEATS))
