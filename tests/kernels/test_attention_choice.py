"""Which implementation runs: what was asked for, or an error that says what there is."""

import jax
import pytest

from rcjax.kernels.selective_attention import DENSE, REFERENCE, choose_attention
from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu
from rcjax.kernels.selective_attention.pallas_tpu import pallas_tpu


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


@pytest.mark.parametrize(("kernel", "device"), [(pallas_gpu, "gpu"), (pallas_tpu, "tpu")])
def test_a_device_s_kernel_is_not_replaced_where_there_is_no_such_device(monkeypatch, kernel, device):
    name = f"pallas_{device}"
    with pytest.raises(ValueError, match=f"attention='{name}' needs a {device}, and JAX runs on cpu; use auto"):
        choose_attention(name)
    monkeypatch.setattr(jax, "default_backend", lambda: device)
    assert choose_attention(name) == kernel()
