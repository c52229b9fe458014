"""Which implementation of the operator runs: one choice, made at start-up."""

from rcjax.kernels.selective_attention import dense, mass, reference
from rcjax.kernels.selective_attention.api import Attention

REFERENCE = Attention("reference", reference.view, reference.attend, mass.measure)
DENSE = Attention("dense", dense.view, dense.attend, mass.measure)

IMPLEMENTATIONS = {attention.name: attention for attention in (REFERENCE, DENSE)}


def choose_attention(name: str = "auto") -> Attention:
    """The implementation of that name, and never another in its place; `auto` takes the fastest that is known to work.

    ValueError, which lists the names there are, for any other name.
    """
    if name == "auto":
        return REFERENCE  # skips what no query sees; the dense one is for training, which needs its derivative
    if name not in IMPLEMENTATIONS:
        raise ValueError(f"attention={name!r} is not known; use auto or one of {', '.join(IMPLEMENTATIONS)}")
    return IMPLEMENTATIONS[name]
