"""What needs no device: how far the interpreted kernels are from the oracle of the tests, and which pages they read."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from claims import Claim
from kernel_work import Counts, Layouts, heads_of

from rcjax.kernels.selective_attention import REFERENCE, Attention
from rcjax.kernels.selective_attention.case import Case, Inputs
from rcjax.kernels.selective_attention.cases import CASES
from rcjax.kernels.selective_attention.config import GpuTiling, TpuTiling
from rcjax.kernels.selective_attention.layout import joined_pages
from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu
from rcjax.kernels.selective_attention.pallas_tpu import pallas_tpu

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernels"))
from attention_oracle import oracle

ERRORS = {"float32": 2e-6, "bfloat16": 2e-2}
ALLOWED_READS = 1.2
# Small, so that small cases have several blocks of queries, steps and splits.
INTERPRETED = {
    "pallas_gpu": pallas_gpu(interpret=True, tiling=GpuTiling(queries=8, keys=16, splits=2)),
    "pallas_tpu": pallas_tpu(interpret=True, tiling=TpuTiling(queries=8, keys=16)),
}


def attend(attention: Attention, inputs: Inputs, case: Case) -> np.ndarray:
    def run(inputs: Inputs) -> Any:
        view = attention.view(inputs.tokens, inputs.pages, inputs.tiles, rope=case.rope, window=case.window)
        return attention(view, inputs.q, inputs.k_new, inputs.v_new, inputs.kv)

    return np.asarray(jax.jit(run)(inputs), np.float64)


def measure_errors(names: Sequence[str]) -> tuple[dict[str, Any], list[Claim]]:
    """The largest error of a case, of its largest output, by the oracle's float64; plain `jnp` for comparison."""
    found = {}
    for name in names:
        case = CASES[name]
        inputs = case.inputs(0)
        expected = oracle(inputs, case.rope, case.window)
        errors = {
            kernel: _relative(attend(attention, inputs, case), expected)
            for kernel, attention in (INTERPRETED | {"reference": REFERENCE}).items()
        }
        found[name] = {"dtype": case.dtype, "kv_dtype": case.kv_dtype or case.dtype, **errors}
        print(name, case.dtype, ", ".join(f"{kernel} {error:.1e}" for kernel, error in errors.items()), flush=True)
    claims = []
    for kernel in INTERPRETED:
        for dtype, allowed in ERRORS.items():
            errors = {name: row[kernel] for name, row in found.items() if row["dtype"] == dtype}
            if errors:
                worst = max(errors, key=lambda name: errors[name])
                label = f"{kernel} {dtype}: largest relative error of {len(errors)} cases, of 1e-6 ({worst})"
                claims.append(Claim(label, errors[worst] * 1e6, allowed * 1e6, at_least=False))
    return {"benchmark": "kernels", "kind": "errors of the interpreted kernels", "errors": found}, claims


def _relative(out: np.ndarray, expected: np.ndarray) -> float:
    error = np.abs(out - expected).max() / np.abs(expected).max()
    return float(error) if np.isfinite(error) else float("inf")


def claim_of_lists(case: Case, counts: Counts) -> Claim:
    """Pages by the GPU kernel's lists, a page as often as a block of queries reads it, over those that are visible."""
    ratio = counts.pages_listed / counts.pages_seen
    return Claim(f"{case.name}: pages listed, times those visible", ratio, ALLOWED_READS, at_least=False)


def measure_reads(case: Case) -> tuple[dict[str, Any], list[Claim]]:
    """The same by what the kernels' own loops read, interpreted."""
    at = Layouts.of(case)
    counts = Counts.of(case, at)
    gpu, tpu = GpuTiling.default(heads_of(case)), TpuTiling.default(heads_of(case))
    read = {
        "pallas_gpu": pages_read(pallas_gpu(True, gpu), gpu.queries, case),
        "pallas_tpu": pages_read(pallas_tpu(True, tpu), tpu.queries, case),
    }
    claims = [
        Claim(f"{case.name}: pages {kernel} reads, times those visible", num / counts.pages_seen, ALLOWED_READS, False)
        for kernel, num in read.items()
    ]
    return {"shape": case.name, "pages_seen": counts.pages_seen, "pages_listed": counts.pages_listed} | read, claims


def pages_read(attention: Attention, query_block: int, case: Case) -> int:
    """How many pages the blocks of queries read together, as often as each does.

    A NaN among a page's values shows in every query of a block that reads it, seen or not, as 0 * NaN is NaN; and only
    in its own column of its own kv head, so that each page gets one and a single run tells all.
    """
    inputs = replace(case, dtype="float32", kv_dtype=None).inputs(0)
    pages = joined_pages(inputs.pages, inputs.tiles)
    table = np.asarray(pages.table)
    k_pages, v_pages = (np.nan_to_num(x) for x in (inputs.k_pages, inputs.v_pages))
    num = 0
    for row in range(len(table)):
        entries = np.flatnonzero(np.asarray(pages.len)[row])
        columns = case.num_kv_heads * case.head_dim
        for first in range(0, len(entries), columns):
            some = entries[first : first + columns]
            spoiled = v_pages.copy()
            head, column = np.divmod(np.arange(len(some)), case.head_dim)
            spoiled[table[row, some], :, head, column] = np.nan
            out = attend(attention, inputs._replace(k_pages=k_pages, v_pages=spoiled), case)[row]
            is_read = np.isnan(out[:, head * (case.num_heads // case.num_kv_heads), column])  # [T, pages]
            num += _in_blocks(is_read, some, query_block, inputs, row)
    return num


def _in_blocks(is_read: np.ndarray, entries: np.ndarray, query_block: int, inputs: Inputs, row: int) -> int:
    """Pages that all may see are read by blocks of queries in their order, those of a tile by its blocks."""
    num_shared = inputs.pages.table.shape[1]
    shared = is_read[:, entries < num_shared]
    starts = np.arange(0, len(is_read), query_block)
    num = int(np.logical_or.reduceat(shared, starts, axis=0).sum())
    if inputs.tiles is not None:
        own = is_read[:, entries >= num_shared]
        for tokens in np.asarray(inputs.tiles.tokens)[row]:
            for first in range(0, len(tokens), query_block):
                block = tokens[first : first + query_block]
                num += int(own[block[block >= 0]].any(0).sum())
    return num
