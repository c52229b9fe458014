"""The benchmark of the kernels where nothing is timed: its model against counts by hand, its checks, its tables."""

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import kernel_tuning
from gpu_check import Part, claims_of, run_parts
from kernel_arms import Drawn, largest_difference, paged_arms
from kernel_checks import measure_errors, pages_read
from kernel_times import measure_times
from kernel_work import (
    FULL,
    GATHER_CUDNN,
    GATHER_XLA,
    KERNEL,
    SHAPES,
    TINY_SHAPES,
    Counts,
    Layouts,
    heads_of,
    modelled,
    needed,
)
from kernels import model_only

from rcjax.kernels.selective_attention import DENSE, Attention, Heads
from rcjax.kernels.selective_attention.config import MAX_ROWS, GpuTiling, TpuTiling
from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu
from rcjax.kernels.selective_attention.pallas_tpu import pallas_tpu
from rcjax.kernels.selective_attention.tuned_table import Entry, read_table

HEADS = Heads(head_dim=128, group=4, dtype="bfloat16", kv_dtype="int8")
PARALLEL = replace(TINY_SHAPES["parallel/8"], rows=TINY_SHAPES["parallel/8"].rows[:1] * 2)


def keys_by_hand(at, b):
    """(page's number, position, segment) of a prompt's cached keys, then of its fresh ones, whose page is None."""
    layouts = [(at.pages, (b, m)) for m in range(at.pages.table.shape[1])]
    if at.tiles is not None:
        layouts += [(at.tiles.pages, (b, *im)) for im in product(*map(range, at.tiles.pages.table.shape[1:]))]
    for of, where in layouts:
        for offset in range(of.len[where]):
            if not of.drop[where][offset]:
                yield of.table[where], of.pos[where] + offset, of.segment[where]
    for pos, segment in zip(at.tokens.pos[b], at.tokens.segment[b], strict=True):
        if pos >= 0:
            yield None, pos, segment


@pytest.mark.parametrize("name", ["bar", "bar/group", "parallel/1", "parallel/32"])
def test_what_is_counted_is_what_a_count_by_hand_finds(name):
    case = TINY_SHAPES[name]
    at = Layouts.of(case)
    pairs, seen, read = 0, set(), set()
    queries = GpuTiling.default(heads_of(case)).queries
    tile_of = {} if at.tiles is None else {token: i for i, (token,) in enumerate(at.tiles.tokens[0])}
    shared = {*at.pages.table.ravel().tolist()}
    for b, tokens in enumerate(zip(at.tokens.pos, at.tokens.segment, at.tokens.horizon, strict=True)):
        keys = [*keys_by_hand(at, b)]
        for t, (pos, segment, horizon) in enumerate(zip(*tokens, strict=True)):
            for page, key_pos, key_segment in keys:
                if key_pos <= pos and (key_segment == segment or key_segment < horizon):
                    pairs += 1
                    if page is not None:
                        seen.add((b, int(page), int(key_pos)))
                        read.add((b, int(page), t // queries if page in shared else tile_of[t]))
    counts = Counts.of(case, at)
    assert (counts.pairs, counts.seen) == (pairs, len(seen))
    assert counts.pages_seen == len({key[:2] for key in seen})
    assert counts.pages_listed == len(read)
    assert counts.fresh == (at.tokens.pos >= 0).sum()
    assert counts.prompt == len(keys)


@pytest.mark.parametrize(("kv_dtype", "value_bytes", "scale_bytes"), [(None, 2, 0), ("float32", 4, 0), ("int8", 1, 4)])
def test_the_model_is_arithmetic_by_hand(kv_dtype, value_bytes, scale_bytes):
    """`bar`: 2 prompts of 8 tokens over 40 cached ones, 2 heads of 16, one query head each; pages of 4."""
    case = replace(TINY_SHAPES["bar"], dtype="bfloat16", kv_dtype=kv_dtype)
    at = Layouts.of(case)
    counts = Counts.of(case, at)
    cached = 2 * 40 * 2 * 2 * (16 * value_bytes + scale_bytes)  # prompts, tokens, K and V, heads
    fresh = 2 * 8 * 2 * (2 + 2) * 16 * 2  # prompts, tokens, in and out or K and V, heads, dims, bytes
    pairs = 2 * sum(40 + 1 + t for t in range(8))
    least = needed(case, counts)
    assert (least.flops, least.num_bytes) == (4 * 2 * 16 * pairs, cached + fresh)
    works = modelled(case, at, counts)
    # The kernel: 8 queries are padded to 16 rows, halves of 8 to 16; cached and fresh keys apart, one split each.
    assert works[KERNEL].flops == 4 * 16 * 2 * 32 * 2 * (40 + 8)
    assert works[KERNEL].num_bytes == cached + fresh + 2 * (2 * 4 * 2 * 2 * 16 * (32 + 2))
    copied = 2 * (2 * 40 * 2 * 2 * 16 * 2)  # written and read, in the type of the queries
    scores = 2 * 8 * (40 + 8)
    assert works[GATHER_CUDNN].num_bytes == cached + fresh + copied + scores * 2
    assert works[GATHER_XLA].num_bytes == cached + fresh + copied + 2 * scores * 2 * (4 + 2)
    assert works[GATHER_XLA].flops == 4 * 2 * 16 * scores
    assert works[FULL].flops == 4 * 2 * 16 * 2 * sum(range(1, 49))
    assert works[FULL].num_bytes == 2 * 48 * 2 * (2 + 2) * 16 * 2


def test_the_shapes_are_those_that_claims_name():
    bar, served = SHAPES["bar"], SHAPES["parallel/8"]
    assert Layouts.of(bar).tokens.pos.shape == (8, 128)
    assert (Layouts.of(bar).pages.len.sum(1) == 4096).all()
    assert (bar.num_kv_heads, bar.head_dim, len(served.rows)) == (8, 128, 8)
    _, (claim,) = model_only([SHAPES["parallel/1"]])
    assert claim.holds
    assert claim.value == (2 * (13 + 19) + 20 * 7) / (13 + 19 + 20 * 7), "two blocks of queries read the shared pages"


@pytest.mark.interpreted
def test_the_arms_attend_to_the_same():
    """The kernel, interpreted, beside JAX's attention over a copy."""
    report, _ = model_only([PARALLEL])
    assert measure_times(report, [PARALLEL], rounds=1, tiny=True) == []
    (row,) = report["rows"]
    assert row["largest_difference"] < 1e-6
    assert row["arms"].keys() == {KERNEL, GATHER_XLA, f"{FULL}/xla"}
    assert row["refused"].keys() == {GATHER_CUDNN, f"{FULL}/cudnn"}
    assert "interpreted" in report["kind"]


@pytest.mark.interpreted
def test_errors_are_those_of_the_named_case():
    report, claims = measure_errors(["bfloat16"])
    row = report["errors"]["bfloat16"]
    assert [claim.holds for claim in claims] == [True, True]
    assert max(row["pallas_gpu"], row["pallas_tpu"]) * 1e6 == max(claim.value for claim in claims)
    assert row["reference"] > 1e-4, "bfloat16 rounds"


@pytest.mark.interpreted
def test_pages_are_counted_by_what_the_kernel_s_loop_reads():
    at = Layouts.of(PARALLEL)
    counts = Counts.of(PARALLEL, at)
    for attention in (pallas_gpu(True), pallas_tpu(True)):
        assert pages_read(attention, 16, PARALLEL) == counts.pages_listed == counts.pages_seen
    held, own = (int((of.len > 0).sum()) for of in (at.pages, at.tiles.pages))
    assert pages_read(DENSE, 16, PARALLEL) == held + own * 3, "each of a prompt's 3 tiles meets those of all"


@pytest.mark.parametrize(("kernel", "tiling"), [("pallas_gpu", GpuTiling), ("pallas_tpu", TpuTiling)])
@pytest.mark.parametrize("group", [1, 4, 7, 64])
def test_candidates_are_tilings_that_the_kernel_takes(kernel, tiling, group):
    found = [*kernel_tuning.candidates(kernel, group, page_tokens=64)]
    assert len(found) == len({*found}) > 3
    assert {type(one) for one in found} == {tiling}
    if tiling is GpuTiling:
        assert all(one.queries * group <= MAX_ROWS and one.keys >= 64 for one in found)


def test_a_table_that_is_written_is_read_and_what_is_measured_anew_replaced(tmp_path):
    first = Entry("pallas_gpu", HEADS, 32, GpuTiling(splits=2), 80.5)
    other = Entry("pallas_tpu", HEADS, 32, TpuTiling(queries=8), 99.0)
    path = kernel_tuning.write_table([first, other], tmp_path)
    again = replace(first, tiling=GpuTiling(warps=8), layer_us=70.25)
    assert kernel_tuning.write_table([again], tmp_path) == path
    assert read_table(path, jax.devices()[0].device_kind) == [again, other]


def tuned_by(monkeypatch, attention, *tilings):
    monkeypatch.setattr(kernel_tuning, "SIZES", {2: (9, 2)})
    monkeypatch.setattr(kernel_tuning, "POOL_BYTES", 2**16)
    monkeypatch.setattr(kernel_tuning, "NUM_STEPS", 2)
    monkeypatch.setattr(kernel_tuning, "device_kernel", lambda: "pallas_gpu")
    monkeypatch.setattr(kernel_tuning, "paged_arms", lambda case, _: paged_arms(case, True))
    monkeypatch.setattr(kernel_tuning, "candidates", lambda *_: tilings)
    monkeypatch.setattr(kernel_tuning, "with_tiling", attention)
    return kernel_tuning.tune(kernel_tuning.cases_of((2, 1, 16), "float32", "float32"))


@pytest.mark.interpreted
def test_tuning_takes_a_tiling_that_compiles(monkeypatch):
    def only_the_first(_, tiling):
        if tiling.queries == 2:
            raise RuntimeError("out of shared memory")
        return pallas_gpu(True, tiling)

    (entry,) = tuned_by(monkeypatch, only_the_first, GpuTiling(queries=1), GpuTiling(queries=2))
    assert entry.heads == Heads(16, 2, "float32", "float32")
    assert (entry.fresh_tokens, entry.tiling) == (2, GpuTiling(queries=1))
    assert entry.layer_us > 0


@pytest.mark.interpreted
def test_tuning_refuses_a_kernel_that_computes_something_else(monkeypatch):
    kernel = pallas_gpu(True)

    def wrong(view, q, *args):
        return 1.01 * kernel.attend(view, q, *args)

    with pytest.raises(RuntimeError, match=r"GpuTiling.* differs from gather/xla by .*: not tuned"):
        tuned_by(monkeypatch, lambda *_: Attention("wrong", kernel.make_view, wrong, kernel.measure), GpuTiling())


def test_tuning_needs_a_device():
    with pytest.raises(RuntimeError, match="--tune needs a GPU or a TPU, and JAX runs on cpu"):
        kernel_tuning.tune({})


@pytest.mark.interpreted
@pytest.mark.parametrize("kv_dtype", ["int8", "float8_e4m3fn"])
def test_quantised_arrays_are_drawn_with_scales(kv_dtype):
    case = replace(TINY_SHAPES["bar"], kv_dtype=kv_dtype)
    drawn = Drawn(case, Layouts.of(case), 48, 2**16)
    assert drawn.kv.k.dtype == kv_dtype
    values = np.asarray(drawn.kv.k, np.float32) * np.asarray(drawn.kv.k_scale)[..., None]
    assert abs(values.std() - 1) < 0.05
    arms = paged_arms(case, True)
    assert largest_difference(arms[KERNEL], arms[GATHER_XLA], drawn) < 1e-5


def test_parts_run_one_after_another_within_their_time():
    claim = {"name": "c", "value": 2, "target": 3, "at_least": True}
    report = f"import json, sys; json.dump({{'claims': [{claim}]}}, open(sys.argv[2], 'w'))"
    parts = {
        "late": Part(0.2, ["-c", "import time; time.sleep(60)"]),
        "good": Part(30, ["-c", report]),
        "bad": Part(30, ["-c", "raise SystemExit(3)"]),
    }
    found = run_parts(parts, {})
    assert {name: part["returncode"] for name, part in found.items()} == {"late": -1, "good": 0, "bad": 3}
    holds = {claim.name: claim.holds for claim in claims_of(found)}
    assert holds == {"late: ended well": False, "good: ended well": True, "bad: ended well": False, "c": False}
