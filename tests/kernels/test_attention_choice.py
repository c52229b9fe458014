"""Which implementation runs: what was asked for, or an error that says what there is."""

import jax
import pytest

from rcjax.kernels.selective_attention import DENSE, REFERENCE, choose_attention
from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu


def test_an_explicit_choice_is_kept():
    assert choose_attention("dense") is DENSE
    assert choose_attention("reference") is REFERENCE
    assert DENSE != REFERENCE


def test_without_a_choice_serving_runs_the_reference():
    assert choose_attention() is choose_attention("auto") is REFERENCE


@pytest.mark.parametrize("name", ["pallas", "", "Dense"])
def test_an_unknown_name_never_falls_back(name):
    with pytest.raises(ValueError, match=f"attention='{name}' is not known; use auto or one of reference, dense"):
        choose_attention(name)


def test_a_gpu_s_kernel_is_not_replaced_where_there_is_no_gpu(monkeypatch):
    with pytest.raises(ValueError, match="attention='pallas_gpu' needs a GPU, and JAX runs on cpu; use auto"):
        choose_attention("pallas_gpu")
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert choose_attention("pallas_gpu") == pallas_gpu()
