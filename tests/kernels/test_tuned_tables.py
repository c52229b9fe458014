"""Sizes of a kernel's work, and the tables that give them: what is read, and what is refused by name."""

import jax
import pytest
from tuned_tables import HEADS, entry, table_of

from rcjax.kernels.selective_attention.config import GpuTiling, Heads, Tilings, TpuTiling
from rcjax.kernels.selective_attention.tuned_table import read_table, table_path, tuned_tilings

KIND = jax.devices()[0].device_kind


def without(values, *names):
    return {name: value for name, value in values.items() if name not in names}


@pytest.mark.parametrize(
    ("tiling", "sizes", "message"),
    [
        (GpuTiling, {"queries": 0}, "queries=0 must be at least 1"),
        (GpuTiling, {"keys": 48}, "keys=48 must be a power of two of at least 16 and at most 256"),
        (GpuTiling, {"keys": 512}, "keys=512 must be a power of two of at least 16 and at most 256"),
        (GpuTiling, {"splits": 0}, "splits=0 must be at least 1"),
        (GpuTiling, {"warps": 3}, "warps=3 must be a power of two of at least 1 and at most 32"),
        (GpuTiling, {"stages": 0}, "stages=0 must be at least 1"),
        (TpuTiling, {"queries": 0}, "queries=0 must be at least 1"),
        (TpuTiling, {"keys": -1}, "keys=-1 must be at least 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(tiling, sizes, message):
    with pytest.raises(ValueError, match=message):
        tiling(**sizes)


def test_a_prompt_takes_the_tiling_of_the_next_larger_size_or_of_the_largest():
    small, large = GpuTiling(queries=2), GpuTiling(queries=8)
    tilings = Tilings(((4, small), (64, large)))
    assert [tilings.of(n) for n in (1, 4, 5, 64, 65, 2048)] == [small, small, large, large, large, large]
    assert Tilings.always(small).of(1000) == small


@pytest.mark.parametrize(
    ("kind", "name"),
    [("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3.json"), ("TPU v5 lite", "tpu-v5-lite.json"), ("cpu", "cpu.json")],
)
def test_a_table_is_named_after_the_device(tmp_path, kind, name):
    assert table_path(kind, tmp_path) == tmp_path / name


def test_a_table_gives_what_it_has_of_these_heads_and_this_kernel(tmp_path):
    table_of(
        tmp_path,
        entry(fresh_tokens=128, queries=32),
        entry(fresh_tokens=20, splits=3),
        entry(fresh_tokens=20, warps=8) | {"group": 1},
        entry("pallas_tpu", fresh_tokens=20, queries=4),
    )
    expected = ((20, GpuTiling(splits=3)), (128, GpuTiling(queries=32)))
    assert tuned_tilings("pallas_gpu", HEADS, KIND, tmp_path) == Tilings(expected)
    alone = Heads(128, 1, "bfloat16", "bfloat16")
    assert tuned_tilings("pallas_gpu", alone, KIND, tmp_path) == Tilings(((20, GpuTiling(warps=8)),))
    assert tuned_tilings("pallas_tpu", HEADS, KIND, tmp_path) == Tilings(((20, TpuTiling(queries=4)),))
    assert tuned_tilings("pallas_tpu", alone, KIND, tmp_path) is None
    assert tuned_tilings("pallas_gpu", HEADS, "another device", tmp_path) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", r"Expecting property name"),
        ("[]", r"must be an object, not \[\]"),
        ('{"device_kind": "cpu", "entries": []}', "lacks measured"),
        ('{"device_kind": "x", "measured": {}, "entries": []}', "it is of 'x', and the device is 'cpu'"),
        ('{"device_kind": "cpu", "measured": {}, "entries": {}}', r"entries must be a list, not \{\}"),
        ('{"device_kind": "cpu", "measured": {}, "entries": [], "tiling": 1}', "does not know tiling"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, text, reason):
    path = tmp_path / "cpu.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"the tuned table {path} is broken: {reason}.*; mend it, or take it away"):
        read_table(path, "cpu")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (None, "must be an object, not None"),
        (without(entry(), "group", "dtype"), "lacks dtype, group"),
        (entry() | {"heads": 4}, "does not know heads"),
        (entry() | {"kernel": "pallas"}, "kernel='pallas' must be one of pallas_gpu, pallas_tpu"),
        (entry() | {"dtype": "int8"}, "dtype='int8' must be one of float32, bfloat16"),
        (entry() | {"kv_dtype": None}, "kv_dtype=None must be one of float32, bfloat16"),
        (entry() | {"head_dim": 128.0}, "head_dim=128.0 must be a whole number of at least 1"),
        (entry() | {"group": True}, "group=True must be a whole number of at least 1"),
        (entry(fresh_tokens=0), "fresh_tokens=0 must be a whole number of at least 1"),
        (entry(layer_us=0), "layer_us=0 must be a time above 0"),
        (entry(layer_us="fast"), "layer_us='fast' must be a time above 0"),
        (entry(layer_us=float("nan")), "layer_us=nan must be a time above 0"),
        (entry(queries="16"), "queries='16' must be a whole number of at least 1"),
        (entry(keys=None), "keys=None must be a whole number of at least 1"),
        (entry(warps=12), "warps=12 must be a power of two"),
        (entry(blocks=2), "does not know blocks"),
        (entry("pallas_tpu", splits=2), "does not know splits"),
        (entry(), "there is one for pallas_gpu, .* and fresh_tokens=128 already"),
    ],
)
def test_an_entry_that_is_broken_is_refused_by_number_whatever_is_asked_for(tmp_path, broken, reason):
    path = table_of(tmp_path, entry(), broken)
    with pytest.raises(ValueError, match=rf"the tuned table {path} is broken: entries\[1\]: {reason}"):
        tuned_tilings("pallas_tpu", HEADS, KIND, tmp_path)
