"""Which implementation of the operator runs, and in which tiling: one choice, made at start-up."""

from pathlib import Path
from typing import Any

import jax

from rcjax.kernels.selective_attention import dense, mass, reference
from rcjax.kernels.selective_attention.api import Attention
from rcjax.kernels.selective_attention.config import GpuTiling, Heads, Tilings, TpuTiling
from rcjax.kernels.selective_attention.tuned_table import TABLES, tuned_tilings

REFERENCE = Attention("reference", reference.view, reference.attend, mass.measure)
DENSE = Attention("dense", dense.view, dense.attend, mass.measure)

IMPLEMENTATIONS = {attention.name: attention for attention in (REFERENCE, DENSE)}
DEVICE_KERNELS = {"pallas_gpu": "gpu", "pallas_tpu": "tpu"}  # and what JAX has to run on


def choose_attention(name: str, heads: Heads, tables: Path = TABLES) -> Attention:
    """The implementation of that name, and never another in its place; `auto` takes the fastest that is known to work.

    That is a device's kernel where a tuned table of this kind of device has these heads, which says that the kernel
    ran there, and `reference` elsewhere. A kernel takes its tiling from that table; without one, its default for these
    heads. ValueError where a name is not known (it lists those that are), needs a device that JAX does not run on, or
    where the device's table is broken.
    """
    if name == "auto":
        # Not `dense`: that is for training, which needs its derivative, and looks at what no query sees.
        return _tuned_kernel(heads, tables) or REFERENCE
    if name in DEVICE_KERNELS:
        backend = jax.default_backend()
        if backend != DEVICE_KERNELS[name]:
            raise ValueError(f"attention={name!r} needs a {DEVICE_KERNELS[name]}, and JAX runs on {backend}; use auto")
        return _device_kernel(name, heads, _tuned(name, heads, tables))
    if name not in IMPLEMENTATIONS:
        names = ", ".join((*IMPLEMENTATIONS, *DEVICE_KERNELS))
        raise ValueError(f"attention={name!r} is not known; use auto or one of {names}")
    return IMPLEMENTATIONS[name]


def _tuned_kernel(heads: Heads, tables: Path) -> Attention | None:
    backend = jax.default_backend()
    for name in (kernel for kernel, device in DEVICE_KERNELS.items() if device == backend):
        if tilings := _tuned(name, heads, tables):
            return _device_kernel(name, heads, tilings)
    return None


def _tuned(name: str, heads: Heads, tables: Path) -> Tilings[Any] | None:
    return tuned_tilings(name, heads, jax.devices()[0].device_kind, tables)


def _device_kernel(name: str, heads: Heads, tilings: Tilings[Any] | None) -> Attention:
    # Loaded here, as who has no such device need not load its compiler.
    if name == "pallas_gpu":
        from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu

        return pallas_gpu(tiling=tilings or GpuTiling.default(heads))
    from rcjax.kernels.selective_attention.pallas_tpu import pallas_tpu

    return pallas_tpu(tiling=tilings or TpuTiling.default(heads))
