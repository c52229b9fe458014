"""Which implementation of the operator runs: one choice, made at start-up."""

import jax

from rcjax.kernels.selective_attention import dense, mass, reference
from rcjax.kernels.selective_attention.api import Attention

REFERENCE = Attention("reference", reference.view, reference.attend, mass.measure)
DENSE = Attention("dense", dense.view, dense.attend, mass.measure)

PALLAS_GPU = "pallas_gpu"
IMPLEMENTATIONS = {attention.name: attention for attention in (REFERENCE, DENSE)}


def choose_attention(name: str = "auto") -> Attention:
    """The implementation of that name, and never another in its place; `auto` takes the fastest that is known to work.

    `pallas_gpu` has not run on a device yet, so that `auto` does not take it. ValueError where a name is not known
    (it lists those that are) or needs a device that JAX does not run on.
    """
    if name == "auto":
        return REFERENCE  # skips what no query sees; the dense one is for training, which needs its derivative
    if name == PALLAS_GPU:
        return _of_gpu()
    if name not in IMPLEMENTATIONS:
        names = ", ".join((*IMPLEMENTATIONS, PALLAS_GPU))
        raise ValueError(f"attention={name!r} is not known; use auto or one of {names}")
    return IMPLEMENTATIONS[name]


def _of_gpu() -> Attention:
    if (backend := jax.default_backend()) != "gpu":
        raise ValueError(f"attention={PALLAS_GPU!r} needs a GPU, and JAX runs on {backend}; use auto")
    from rcjax.kernels.selective_attention.pallas_gpu import pallas_gpu  # who has no GPU need not load a GPU's compiler

    return pallas_gpu()
