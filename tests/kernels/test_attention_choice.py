"""Which implementation runs: what was asked for, or an error that says what there is."""

import json

import jax
import pytest
from tuned_tables import HEADS, entry, table_of

from rcjax.kernels.selective_attention import DENSE, REFERENCE, choose_attention
from rcjax.kernels.selective_attention.config import GpuTiling, Heads, Tilings, TpuTiling
from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu
from rcjax.kernels.selective_attention.pallas_tpu import pallas_tpu

KERNELS = pytest.mark.parametrize(
    ("kernel", "make", "device"), [("pallas_gpu", pallas_gpu, "gpu"), ("pallas_tpu", pallas_tpu, "tpu")]
)


def test_an_explicit_choice_is_kept(tmp_path, monkeypatch):
    assert choose_attention("dense", HEADS) is DENSE
    assert choose_attention("reference", HEADS) is REFERENCE
    assert DENSE != REFERENCE
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    table_of(tmp_path, entry())
    assert choose_attention("reference", HEADS, tmp_path) is REFERENCE, "whatever a table says"


def test_without_a_choice_serving_runs_the_reference():
    assert choose_attention("auto", HEADS) is REFERENCE


@pytest.mark.parametrize("name", ["pallas", "", "Dense"])
def test_an_unknown_name_never_falls_back(name):
    with pytest.raises(ValueError, match=f"attention='{name}' is not known; use auto or one of reference, dense"):
        choose_attention(name, HEADS)


@KERNELS
def test_a_device_s_kernel_is_not_replaced_where_there_is_no_such_device(monkeypatch, kernel, make, device):
    with pytest.raises(ValueError, match=f"attention='{kernel}' needs a {device}, and JAX runs on cpu; use auto"):
        choose_attention(kernel, HEADS)
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    assert choose_attention(kernel, HEADS) == make()


@KERNELS
def test_a_kernel_takes_the_tiling_of_its_device_s_table(tmp_path, monkeypatch, kernel, make, device):
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    table_of(tmp_path, entry(kernel, fresh_tokens=64, queries=8), entry(kernel, fresh_tokens=16, queries=2))
    tiling = {"pallas_gpu": GpuTiling, "pallas_tpu": TpuTiling}[kernel]
    tuned = make(tiling=Tilings(((16, tiling(queries=2)), (64, tiling(queries=8)))))
    assert choose_attention(kernel, HEADS, tmp_path) == tuned != make()
    assert choose_attention("auto", HEADS, tmp_path) == tuned, "what was measured is known to work"


@KERNELS
def test_heads_that_no_table_has_get_the_default(tmp_path, monkeypatch, kernel, make, device):
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    table_of(tmp_path, entry(kernel, queries=2))
    others = Heads(HEADS.head_dim, HEADS.group, HEADS.dtype, "float32")
    assert choose_attention(kernel, others, tmp_path) == make()
    assert choose_attention("auto", others, tmp_path) is REFERENCE


@pytest.mark.parametrize("name", ["auto", "pallas_gpu"])
def test_a_broken_table_is_not_passed_over(tmp_path, monkeypatch, name):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    table_of(tmp_path, entry(keys=48))
    with pytest.raises(ValueError, match=r"cpu\.json is broken: entries\[0\]: keys=48 must be a power of two"):
        choose_attention(name, HEADS, tmp_path)


@pytest.mark.parametrize(
    ("head_dim", "group", "queries"),
    [
        (128, 1, 64),
        (128, 4, 16),
        (64, 3, 21),
        (128, 71, 1),
        (256, 4, 8),
    ],
)
def test_without_a_table_queries_make_the_rows_that_registers_hold(head_dim, group, queries):
    assert GpuTiling.default(Heads(head_dim, group, "bfloat16", "int8")) == GpuTiling(queries=queries)


def test_the_tables_that_are_shipped_are_whole():
    """There may be none; those that are must be read on the device that they are of."""
    from rcjax.kernels.selective_attention.tuned_table import TABLES, read_table, table_path

    for path in TABLES.glob("*.json"):
        device_kind = json.loads(path.read_text())["device_kind"]
        assert read_table(path, device_kind)
        assert table_path(device_kind) == path
