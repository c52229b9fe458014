"""The search for a device's tuned table: every candidate is timed, and held against JAX's own attention."""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from claims import environment
from kernel_arms import Drawn, device_kernel, largest_difference, paged, paged_arms, with_tiling
from kernel_checks import ERRORS
from kernel_work import GATHER_XLA, QWEN3_8B, Counts, Layouts, heads_of
from rich.progress import track
from roofline import seconds

from rcjax.kernels.selective_attention.case import Case, Run
from rcjax.kernels.selective_attention.config import MAX_ROWS, GpuTiling, TpuTiling
from rcjax.kernels.selective_attention.tuned_table import TABLES, Entry, read_table, table_path

# Fresh tokens of a prompt (or tile): how many are cached, and how many prompts there are.
SIZES = {1: (100, 160), 32: (500, 8), 128: (4096, 8), 1024: (512, 2)}
NUM_STEPS, ROUNDS = 16, 5
POOL_BYTES = 2**29


def cases_of(heads: Sequence[int], dtype: str, kv_dtype: str) -> dict[int, Case]:
    """What a tiling is chosen for, by fresh tokens, given query heads, kv heads and head dim; keys have to turn."""
    num_heads, num_kv_heads, head_dim = heads
    model = replace(
        QWEN3_8B, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, dtype=dtype, kv_dtype=kv_dtype
    )
    return {
        fresh: replace(
            model, name=f"tune/{fresh}", rows=((Run(0, cached, cached=True), Run(cached, fresh)),) * batch, moved=True
        )
        for fresh, (cached, batch) in SIZES.items()
    }


def candidates(kernel: str, group: int, page_tokens: int) -> Iterator[GpuTiling | TpuTiling]:
    if kernel == "pallas_tpu":
        yield from (TpuTiling(*sizes) for sizes in itertools.product((8, 16, 32, 64), (128, 256, 512)))
        return
    queries = sorted({max(1, rows // group) for rows in (16, 32, 64, 128)})
    for num, keys, warps, stages in itertools.product(queries, (32, 64), (4, 8), (2, 3)):
        if num * group <= MAX_ROWS and keys >= page_tokens:
            yield GpuTiling(queries=num, keys=keys, warps=warps, stages=stages)


def tune(cases: dict[int, Case]) -> list[Entry]:
    """The fastest tiling of each case. RuntimeError where a candidate computes something else, or none compiles."""
    kernel = device_kernel()
    if kernel is None:
        raise RuntimeError(f"--tune needs a GPU or a TPU, and JAX runs on {jax.default_backend()}")
    return [_fastest(kernel, fresh, case) for fresh, case in cases.items()]


def _fastest(kernel: str, fresh: int, case: Case) -> Entry:
    at = Layouts.of(case)
    drawn = Drawn(case, at, Counts.of(case, at).prompt, POOL_BYTES)
    heads = heads_of(case)
    calls = {}
    refused: dict[str, str] = {}
    for tiling in track([*candidates(kernel, heads.group, case.page_tokens)], f"{fresh} fresh tokens"):
        try:
            calls[tiling] = paged(with_tiling(kernel, tiling), drawn, NUM_STEPS)
        except Exception as error:  # too many registers or too much shared memory, each in words of its own
            refused[str(tiling)] = (str(error).strip() or type(error).__name__).splitlines()[0]
    if not calls:
        raise RuntimeError(f"no tiling compiles for {fresh} fresh tokens: {refused}")
    samples: dict[Any, list[float]] = {tiling: [] for tiling in calls}
    rng = np.random.default_rng(0)
    for _ in range(ROUNDS):
        for number in rng.permutation(len(calls)):
            tiling = [*calls][number]
            samples[tiling].append(seconds(calls[tiling]) / NUM_STEPS)
    best = min(samples, key=lambda tiling: float(np.median(samples[tiling])))
    difference = largest_difference(with_tiling(kernel, best), paged_arms(case, False)[GATHER_XLA], drawn)
    if not difference <= ERRORS[case.dtype]:
        raise RuntimeError(f"{best} differs from {GATHER_XLA} by {difference:.1e} of the largest output: not tuned")
    layer_us = float(np.median(samples[best])) * 1e6
    print(f"{fresh} fresh tokens: {layer_us:,.1f} us a layer, {best}; {len(refused)} of its candidates do not compile")
    return Entry(kernel, heads, fresh, best, layer_us)


def write_table(entries: list[Entry], folder: Path = TABLES) -> Path:
    """Writes them into the present device's table, in place of those of the same heads and fresh tokens."""
    kind = jax.devices()[0].device_kind
    path = table_path(kind, folder)
    old = read_table(path, kind) if path.exists() else []
    merged = {(entry.kernel, entry.heads, entry.fresh_tokens): entry for entry in (*old, *entries)}
    rows = [
        {
            "kernel": entry.kernel,
            **asdict(entry.heads),
            "fresh_tokens": entry.fresh_tokens,
            "layer_us": round(entry.layer_us, 2),
            "tiling": asdict(entry.tiling),
        }
        for entry in merged.values()
    ]
    measured = {name: value for name, value in environment().items() if name in ("device", "versions")}
    path.write_text(json.dumps({"device_kind": kind, "measured": measured, "entries": rows}, indent=1) + "\n")
    return path
