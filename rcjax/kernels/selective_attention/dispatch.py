"""Which implementation of the operator runs: one choice, made at start-up."""

import jax

from rcjax.kernels.selective_attention import dense, mass, reference
from rcjax.kernels.selective_attention.api import Attention

REFERENCE = Attention("reference", reference.view, reference.attend, mass.measure)
DENSE = Attention("dense", dense.view, dense.attend, mass.measure)

IMPLEMENTATIONS = {attention.name: attention for attention in (REFERENCE, DENSE)}
DEVICE_KERNELS = {"pallas_gpu": "gpu", "pallas_tpu": "tpu"}  # and what JAX has to run on


def choose_attention(name: str = "auto") -> Attention:
    """The implementation of that name, and never another in its place; `auto` takes the fastest that is known to work.

    The device kernels have not run on a device yet, so that `auto` takes none. ValueError where a name is not known
    (it lists those that are) or needs a device that JAX does not run on.
    """
    if name == "auto":
        return REFERENCE  # skips what no query sees; the dense one is for training, which needs its derivative
    if name in DEVICE_KERNELS:
        return _device_kernel(name)
    if name not in IMPLEMENTATIONS:
        names = ", ".join((*IMPLEMENTATIONS, *DEVICE_KERNELS))
        raise ValueError(f"attention={name!r} is not known; use auto or one of {names}")
    return IMPLEMENTATIONS[name]


def _device_kernel(name: str) -> Attention:
    backend = jax.default_backend()
    if backend != DEVICE_KERNELS[name]:
        raise ValueError(f"attention={name!r} needs a {DEVICE_KERNELS[name]}, and JAX runs on {backend}; use auto")
    # Loaded here, as who has no such device need not load its compiler.
    if name == "pallas_gpu":
        from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu

        return pallas_gpu()
    from rcjax.kernels.selective_attention.pallas_tpu import pallas_tpu

    return pallas_tpu()
